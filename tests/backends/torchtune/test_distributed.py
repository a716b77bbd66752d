"""Several processes take the steps that one would, and end together. Here on a CPU, with gloo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mosweep.backends.torchtune.config import load_recipe, share
from mosweep.backends.torchtune.run import TorchtuneTrainingRun
from mosweep.backends.torchtune.training import TorchtuneTrainingBackend
from mosweep.core.errors import ConfigError, StageError
from mosweep.core.paths import shipped

RECIPE = shipped("recipes") / "torchtune" / "tiny.yaml"
TINY = load_recipe(RECIPE)
SETTINGS = {"batch_size": 16, "epochs": 2, "lr_scheduler.num_warmup_steps": 1, "optimizer.lr": 3e-3}


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    assert share(TINY, 1) == TINY
    assert share(TINY, 2)["batch_size"] == 16
    assert share(TINY, 2, nodes=4)["batch_size"] == 4
    with pytest.raises(
        ConfigError,
        match=r"resources\.gpus=3: .*batch_size=32 evenly; valid: 1, 2, 4, 8, 16, 32 "
        r"processes.*multiple of 3",
    ):
        share(TINY, 3)
    with pytest.raises(ConfigError, match=r"resources\.gpus=8: 64 processes"):
        share(TINY, 8, nodes=8)


def test_samples_that_fill_up_the_last_round_make_no_step() -> None:
    config = {**TINY, "batch_size": 32, "gradient_accumulation_steps": 1}
    assert share(config, 2, 1, rows=63)["max_steps_per_epoch"] == 1, (
        "32 per process, but one process takes a single step"
    )
    assert share({**config, "max_steps_per_epoch": 3}, 2, 1, rows=320)["max_steps_per_epoch"] == 3
    assert (
        share({**config, "dataset": {**config["dataset"], "packed": True}}, 2, 1, rows=63)[
            "max_steps_per_epoch"
        ]
        is None
    )


def run(
    folder: Path, words: Path, base: Path, processes: int, **settings: object
) -> TorchtuneTrainingRun:
    async def go() -> TorchtuneTrainingRun:
        backend = TorchtuneTrainingBackend(RECIPE, folder, device="cpu", processes=processes)
        run = await backend.train(words, base, {**SETTINGS, **settings})
        await run.wait()
        return run

    return asyncio.run(go())


@pytest.mark.real
def test_two_processes_learn_what_one_does(tmp_path: Path, words: Path, base: Path) -> None:
    rows = [json.loads(line) for line in words.read_text().splitlines()][:47]
    odd = tmp_path / "odd.jsonl"  # two of 24: three batches, where one process takes two
    odd.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = (
        run(tmp_path / "one", odd, base, 1, epochs=8),
        run(tmp_path / "two", odd, base, 2, epochs=8),
    )
    alone, together = one.result(), two.result()
    assert (alone.world_size, together.world_size) == (1, 2)
    assert alone.steps == together.steps == 16
    assert together.losses[0][1] == pytest.approx(alone.losses[0][1], abs=1e-5), (
        "the same samples in the same batch"
    )
    assert together.final_loss == pytest.approx(alone.final_loss, rel=0.2), (
        "from other first weights of the adapter"
    )
    assert together.final_loss < alone.losses[0][1] / 2
    assert {path.name for path in two.adapter.iterdir()} == {
        path.name for path in one.adapter.iterdir()
    }
    config, other = (
        json.loads((adapter / "adapter_config.json").read_text())
        for adapter in (one.adapter, two.adapter)
    )
    assert config == other


@pytest.mark.real
def test_the_reason_is_the_rank_that_failed_first(tmp_path: Path, words: Path, base: Path) -> None:
    with pytest.raises(StageError, match=r"torchtune: rank \d: .*nonesuch"):
        run(
            tmp_path / "run",
            words,
            base,
            2,
            loss={"_component_": "torchtune.modules.loss.nonesuch"},
        )


@pytest.mark.real
@pytest.mark.parametrize("victim", ["starter", "group"])
def test_nothing_is_left_when_who_wanted_it_is_killed(
    tmp_path: Path, words: Path, base: Path, victim: str
) -> None:
    folder = tmp_path / "run"
    code = (
        "import asyncio, sys\nfrom mosweep.backends.torchtune.training import "
        "TorchtuneTrainingBackend\n"
        "async def main():\n"
        "    backend = TorchtuneTrainingBackend(sys.argv[1], sys.argv[2], device='cpu', "
        "processes=2, detached=False)\n"
        "    run = await backend.train(sys.argv[3], sys.argv[4], {'batch_size': 16, 'epochs': "
        "10_000})\n"
        "    await run.wait()\n"
        "asyncio.run(main())"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(RECIPE), str(folder), str(words), str(base)],
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "run" / "work" / "epoch_1").exists():
            assert starter.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(processes_of(folder)) >= 4  # shell, child, two ranks
        group = json.loads((folder / "run" / "process.json").read_text())["pid"]
        if victim == "starter":
            starter.kill()
        else:
            os.killpg(group, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while left := processes_of(folder):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        starter.wait()
    finally:
        starter.kill()  # whatever was wrong, nothing goes on
        starter.wait()


def processes_of(folder: Path) -> list[str]:
    """Command lines of all living processes of the run in ``folder`` but its starter."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in line and "torchtune/child.py" in line:
            found.append(line)
    return found


#: As srun does: the command on each of two "nodes", with our input; the worst of their exit
#: statuses.
SRUN = """#!/bin/bash
echo "$@" > {seen}
while [ "${{1#--}}" != "$1" ]; do shift; done
"$@" <&0 & first=$!
"$@" <&0 & second=$!
wait $first; code=$?
wait $second || code=$?
exit $code
"""


@pytest.mark.real
def test_the_nodes_of_a_slurm_job_train_together(tmp_path: Path, words: Path, base: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN.format(seen=tmp_path / "seen"))
    (tmp_path / "bin" / "srun").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
    }

    async def go() -> TorchtuneTrainingRun:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            run = await TorchtuneTrainingBackend(
                RECIPE, tmp_path / "run", device="cpu", nodes=2
            ).train(words, base, SETTINGS)
        await run.wait()
        return run

    result = asyncio.run(go()).result()
    assert result.world_size == 2
    assert result.steps == 8
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} < set(
        (tmp_path / "seen").read_text().split()
    )


def test_several_nodes_need_slurm(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match=r"resources\.nodes=2: .*Slurm"):
        asyncio.run(
            TorchtuneTrainingBackend(RECIPE, tmp_path / "run", nodes=2).train(words, tmp_path)
        )
    assert not (tmp_path / "run").exists()
