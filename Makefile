# make demo   sets up .venv and runs the main job for real: four fine-tunes, two controls, a table
# make test   sets up .venv and runs all tests
# make check  linter, types and import contracts
# make docs   builds the documentation in site/; open site/index.html
# make slurm  starts a real Slurm cluster on this machine, for its tests (root on Debian/Ubuntu); make slurm-down stops it
# make tinker starts a Tinker-compatible server on this machine, serving model=tiny (needs a Python from 3.12 to 3.14); make tinker-down stops it
# Processes that share the tests: they wait for disks and servers, so there are twice as many as cores.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))

.PHONY: demo test check docs slurm slurm-down tinker tinker-down bench clean

demo:
	./setup.sh
	.venv/bin/mosweep -m model=tiny,tiny-wide lora.rank=4,64 experiment.name=demo

test:
	./setup.sh dev
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --durations=20 $(ARGS)

check:
	./setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs:
	./setup.sh dev
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet

slurm:
	tests/slurm/cluster up $(ARGS)

slurm-down:
	tests/slurm/cluster down $(ARGS)

tinker:
	./setup.sh
	.venv/bin/python tests/tinker/server up
	@echo 'export TINKER_API_KEY=tml-local TINKER_BASE_URL=http://127.0.0.1:8410'

tinker-down:
	.venv/bin/python tests/tinker/server down

bench:
	./setup.sh dev
	.venv/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv .mosweep multirun outputs
