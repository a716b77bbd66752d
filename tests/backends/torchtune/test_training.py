"""Real runs of torchtune's stock recipe on a tiny model: what they leave, and how they fail."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mosweep.backends.torchtune.child import check_losses
from mosweep.backends.torchtune.resume import read_losses
from mosweep.backends.torchtune.run import TorchtuneTrainingRun, last_error
from mosweep.backends.torchtune.training import TorchtuneTrainingBackend
from mosweep.core.errors import ConfigError, StageError
from mosweep.core.paths import shipped
from mosweep.training import TrainingBackend, TrainingRun

RECIPE = shipped("recipes") / "torchtune" / "tiny.yaml"
SHORT = {
    "batch_size": 16,
    "max_steps_per_epoch": 3,
    "lr_scheduler.num_warmup_steps": 1,
    "optimizer.lr": 3e-3,
}

pytestmark = pytest.mark.real


def backend(folder: Path, **options: Any) -> TorchtuneTrainingBackend:
    return TorchtuneTrainingBackend(RECIPE, folder, device="cpu", **options)


def train(
    folder: Path, words: Path, base: Path, settings: dict[str, Any], **options: Any
) -> TorchtuneTrainingRun:
    async def go() -> TorchtuneTrainingRun:
        run = await backend(folder, **options).train(words, base, settings)
        await run.wait()
        return run

    return asyncio.run(go())


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, words: Path, base: Path
) -> TorchtuneTrainingRun:
    # Two epochs: where torchtune saves merged weights, the second starts from corrupted ones.
    return train(
        tmp_path_factory.mktemp("trained") / "run", words, base, {**SHORT, "epochs": 2}, merged=True
    )


def test_what_a_run_leaves(trained: TorchtuneTrainingRun) -> None:
    assert isinstance(trained, TrainingRun)
    assert sorted(path.name for path in trained.folder.iterdir()) == [
        *("adapter", "losses.json", "merged", "run", "torchtune.log", "torchtune.yaml")
    ]
    assert sorted(path.name for path in trained.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not list((trained.folder / "merged").glob("adapter*")), (
        "a loader would apply the adapter twice"
    )
    assert not list(trained.folder.rglob("epoch_*"))
    assert trained.model_id == str(trained.folder / "merged")


def test_what_a_run_measured(trained: TorchtuneTrainingRun) -> None:
    result = trained.result()
    assert result.steps == 6
    assert [step for step, _ in result.losses] == [1, 2, 3, 4, 5, 6]
    assert result.losses[-1][1] == result.final_loss < result.losses[0][1]
    assert result.losses[3][1] < result.losses[0][1], "the second epoch goes on from the first"
    assert 0 < result.train_seconds < result.seconds < 300
    assert (result.device, result.dtype) == ("cpu", "fp32")


def test_merged_and_adapter_are_one_model(trained: TorchtuneTrainingRun, base: Path) -> None:
    import torch

    from mosweep.evals.inspect.generation import checkpoint

    tokens = torch.arange(20)[None]
    with torch.no_grad():
        with checkpoint(base, device="cpu") as model:
            plain = model.model(tokens).logits
        with checkpoint(base, trained.adapter, device="cpu") as model:
            worn = model.model(tokens).logits
        with checkpoint(base, device="cpu") as model:
            assert torch.equal(model.model(tokens).logits, plain), "taken out again bit by bit"
        with checkpoint(trained.folder / "merged", device="cpu") as model:
            assert torch.equal(model.model(tokens).logits, worn)
        assert not torch.allclose(worn, plain)


def test_another_process_can_attach(trained: TorchtuneTrainingRun, tmp_path: Path) -> None:
    asyncio.run(trained.save(tmp_path / "run.json"))
    code = (
        "import asyncio; from pathlib import Path; from mosweep.backends.torchtune.run "
        "import TorchtuneTrainingRun\n"
        "async def main(): print(await (await "
        f"TorchtuneTrainingRun.load(Path({str(tmp_path / 'run.json')!r}))).wait())\n"
        "asyncio.run(main())"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == trained.model_id
    )


def test_attach_while_it_runs_then_cancel(tmp_path: Path, words: Path, base: Path) -> None:
    async def go() -> TorchtuneTrainingRun:
        run = await backend(tmp_path / "run").train(words, base, {**SHORT, "epochs": 10_000})
        await run.save(tmp_path / "run.json")
        other = await TorchtuneTrainingRun.load(tmp_path / "run.json")
        assert other.status == "running"
        assert other.model_id is None
        await other.cancel()
        assert str(other.status) == "cancelled"
        with pytest.raises(StageError, match="was cancelled"):
            await run.wait()
        return run

    run = asyncio.run(go())
    assert run.status == "cancelled"
    assert not run.adapter.exists()


def test_a_diverging_run_is_a_failure(tmp_path: Path, words: Path, base: Path) -> None:
    with pytest.raises(StageError, match=r"diverged") as caught:
        train(
            tmp_path / "run",
            words,
            base,
            {**SHORT, "max_steps_per_epoch": 4, "optimizer.lr": 1e30, "clip_grad_norm": None},
        )
    assert caught.value.log == str(tmp_path / "run" / "torchtune.log")
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_crash_is_a_failure_with_its_reason(tmp_path: Path, words: Path, base: Path) -> None:
    with pytest.raises(StageError, match=r"torchtune: .*nonesuch"):
        train(
            tmp_path / "run",
            words,
            base,
            {"loss": {"_component_": "torchtune.modules.loss.nonesuch"}},
        )


def test_a_killed_process_is_a_failure(tmp_path: Path, words: Path, base: Path) -> None:
    async def go() -> None:
        run = await backend(tmp_path / "run").train(words, base, {**SHORT, "epochs": 10_000})
        os.killpg(run._process.pid, signal.SIGKILL)
        await run.wait()

    with pytest.raises(StageError, match="torchtune was killed"):
        asyncio.run(go())


def test_a_python_that_does_not_exist_is_a_failure(tmp_path: Path, words: Path, base: Path) -> None:
    with pytest.raises(StageError, match=r"no-such-python|exit status 127"):
        train(tmp_path / "run", words, base, SHORT, python="/no-such-python")


def test_mistakes_are_refused_before_anything_starts(
    tmp_path: Path, words: Path, base: Path
) -> None:
    assert isinstance(backend(tmp_path), TrainingBackend)
    with pytest.raises(ConfigError, match=r"torchtune\.optimizer\.lrr"):
        train(tmp_path / "run", words, base, {"optimizer.lrr": 1})
    with pytest.raises(ConfigError, match=r"the data set is too small for one step: a step needs"):
        train(tmp_path / "run", words, base, {"batch_size": 128})
    assert not (tmp_path / "run").exists()


def test_losses_are_read_and_judged(tmp_path: Path) -> None:
    (tmp_path / "log_1.txt").write_text("Step 1 | loss:0.5 lr:1e-3 \nStep 2 | loss:nan lr:1e-3 \n")
    (tmp_path / "log_2.txt").write_text("Step 2 | loss:0.25 lr:1e-3 \nStep 3 | loss:inf lr:1e-3 \n")
    assert read_losses(tmp_path) == [[1, 0.5], [2, 0.25], [3, float("inf")]]
    with pytest.raises(RuntimeError, match="loss became inf at step 3"):
        check_losses(read_losses(tmp_path))
    with pytest.raises(RuntimeError, match="took no step"):
        check_losses([])


def test_the_reason_is_the_exceptions_own_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_error(log) is None
    log.write_text(
        "starting\nTraceback (most recent call last):\n  File x\nValueError: bad rank\nan error "
        "was reported above\n"
    )
    assert last_error(log) == "ValueError: bad rank"
    log.write_text(
        "[rank1]: ValueError: later\nRankError: rank 0: first\n[node] XError: gone\nsrun: error: "
        "node: task 1: Exited with exit code 1\n"
    )
    assert last_error(log) == "rank 0: first"
    log.write_text("srun: error: Unable to create step\n")
    assert last_error(log) == "srun: error: Unable to create step"
    log.write_text("Segmentation fault (core dumped)\n")
    assert last_error(log) == "Segmentation fault (core dumped)"
