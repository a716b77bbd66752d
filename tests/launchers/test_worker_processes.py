"""Worker processes trust neither the working directory nor standard input and output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

SWEEP = ("-m", "lora.rank=4", "experiment.name=a", *DRY)
OURS = 'raise RuntimeError("this is the user\'s own {}")\n'


@pytest.mark.parametrize(
    "name", ["inspect", "random", "datasets", "tokenizers", "json", "asyncio", "yaml", "torch"]
)
def test_a_users_module_does_not_take_the_place_of_another(shell: Shell, name: str) -> None:
    if name in ("json", "yaml"):  # as a package
        (shell.folder / name).mkdir()
        (shell.folder / name / "__init__.py").write_text(OURS.format(name))
    else:
        (shell.folder / f"{name}.py").write_text(OURS.format(name))
    done = shell(*SWEEP)
    assert done.status == 0, done.err
    assert all(trial["status"] == "succeeded" for trial in shell.summary("a").values())


def test_nor_where_python_itself_puts_the_folder_first(shell: Shell) -> None:
    (shell.folder / "inspect.py").write_text(OURS.format("inspect"))
    done = subprocess.run(
        shell.command(*SWEEP),
        cwd=shell.folder,
        env={name: value for name, value in shell.environment.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_of_a_librarys_name_is_not_the_library(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mosweep.core.imports import installed, working_directory_last

    (shell.folder / "wandb_of_mine").mkdir()
    monkeypatch.chdir(shell.folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    working_directory_last()
    assert sys.path[-1] == os.getcwd() and "" not in sys.path
    assert not installed("wandb_of_mine")
    assert installed("json")


@pytest.mark.parametrize(
    "code",
    [
        'print("Welcome to the cluster")',
        "import os; os.write(1, b'a line without an end')",
        'import sys; sys.stdout.write(\'{"event": "finished"}\\n\')',
        "import subprocess; subprocess.run(['echo', 'modules loaded'])",
    ],
)
def test_what_python_prints_when_it_starts_is_no_event(
    shell: Shell, tmp_path: Path, code: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"{code}\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = shell(*SWEEP, env={"PYTHONPATH": path})
    assert done.status == 0, done.err


def test_a_stage_can_read_no_other_stages_order(shell: Shell) -> None:
    """Code that asks its user gets the end of the input, not the worker's next stage."""
    task = shell.folder / "tasks" / "asks"
    task.mkdir(parents=True)
    (task / "data.py").write_text(
        "import json, sys\n"
        "DATASETS = ('first', 'second', 'third')\n"
        "def build(dataset, data_dir):\n"
        "    assert sys.stdin.readline() == '', 'there is input'\n"
        "    row = {'prompt': dataset, 'response': 'yes'}\n"
        "    (data_dir / 'train.jsonl').write_text(json.dumps(row) + '\\n')\n"
    )
    words = ("task=asks", "dataset=first,second,third", "run_control_trials=false")
    done = shell("-m", *words, "experiment.name=a", "primary_metric=null", *DRY, timeout=60)
    assert done.status == 0, done.err + done.out
