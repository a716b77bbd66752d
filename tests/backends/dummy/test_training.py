"""The pretended backend: deterministic, and failing in the ways that were asked for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from mosweep.backends.dummy.training import DummyTrainingBackend, DummyTrainingRun, Failure
from mosweep.core.errors import StageError
from mosweep.datasets import JSONLDataset
from mosweep.training import TrainingBackend, TrainingRun

DATA = JSONLDataset([{"messages": [{"role": "assistant", "content": "a"}]}])


def model_id(fail: Failure = "none", lr: float = 1e-3, suffix: str | None = None) -> str:
    async def train() -> str:
        return await (
            await DummyTrainingBackend(fail=fail).train(DATA, "org/tiny", {"lr": lr}, suffix)
        ).wait()

    return asyncio.run(train())


def test_it_is_a_training_backend() -> None:
    assert isinstance(DummyTrainingBackend(), TrainingBackend)
    assert isinstance(DummyTrainingRun("a", "b"), TrainingRun)


def test_same_inputs_same_model() -> None:
    assert model_id() == model_id() != model_id(lr=2e-3)
    assert model_id(suffix="capitals").startswith("dummy/tiny-capitals-")


def test_a_run_that_is_to_fail_fails() -> None:
    with pytest.raises(StageError, match="failed"):
        model_id("raise")


@pytest.mark.parametrize(("fail", "status"), [("exit", 3), ("oom", -9)])
def test_a_run_that_is_to_end_the_process_ends_it(fail: str, status: int) -> None:
    code = (
        "import asyncio; from mosweep.backends.dummy.training import "
        f"*\nasyncio.run(DummyTrainingRun('a', 'b', fail='{fail}').wait())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == status


def test_a_hanging_run_can_be_cancelled() -> None:
    async def hang() -> DummyTrainingRun:
        run = await DummyTrainingBackend(fail="hang").train(DATA, "tiny")
        waiting = asyncio.create_task(run.wait())
        await asyncio.sleep(0)
        assert await run.refresh() == "running"
        await run.cancel()
        with pytest.raises(StageError, match="cancelled"):
            await waiting
        return run

    assert asyncio.run(hang()).status == "cancelled"


def test_save_and_load(tmp_path: Path) -> None:
    async def roundtrip() -> None:
        run = await DummyTrainingBackend().train(DATA, "tiny")
        await run.save(tmp_path / "run.json")
        assert await DummyTrainingRun.load(tmp_path / "run.json") == run

    asyncio.run(roundtrip())
