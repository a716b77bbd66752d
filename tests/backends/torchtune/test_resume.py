"""What a killed fine-tune saved is taken up by the next attempt, if it is sound, and the result is
the one that nobody interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mosweep.backends.torchtune import resume
from mosweep.backends.torchtune.run import TorchtuneTrainingRun
from mosweep.backends.torchtune.training import TorchtuneTrainingBackend
from mosweep.core.errors import StageError
from mosweep.core.paths import shipped

RECIPE = shipped("recipes") / "torchtune" / "tiny.yaml"
# Four steps an epoch, and no limit to them, so that the single-device recipe loses its place in the
# schedule of the learning rate.
SETTINGS = {"batch_size": 16, "epochs": 3, "lr_scheduler.num_warmup_steps": 2, "optimizer.lr": 3e-3}

pytestmark = pytest.mark.real


# -- the files -------------------------------------------------------------------------------------


def attempt(
    folder: Path, *epochs: int, recipe: str = "r", previous: Path | None = None, identity: str = "i"
) -> Path:
    """A folder as a run leaves it that was killed after these epochs of two steps each."""
    import torch

    (folder / "run").mkdir(parents=True)
    spec = {"identity": identity, "previous": str(previous) if previous else None, "recipe": recipe}
    (folder / "run" / "spec.json").write_text(json.dumps(spec))
    work = folder / "run" / "work"
    save = torch.save
    try:
        resume.save_resumable_states(work, recipe)
        for epoch in epochs:
            for name in ("recipe_state", "logs", f"epoch_{epoch}"):
                (work / name).mkdir(parents=True, exist_ok=True)
            with open(work / "logs" / "log_1.txt", "a") as log:
                log.write(
                    "".join(
                        f"Step {step} | loss:{1 / step} \n"
                        for step in (2 * epoch + 1, 2 * epoch + 2)
                    )
                )
            torch.save(
                {"a": torch.full((100,), float(epoch))},
                work / f"epoch_{epoch}" / "adapter_model.pt",
            )
            torch.save(
                {"epochs_run": epoch + 1, "optimizer": torch.ones(100)},
                work / "recipe_state" / "recipe_state.pt",
            )
    finally:
        torch.save = save
    return folder


def spec_of(*earlier: Path) -> dict[str, Any]:
    return {"identity": "i", "previous": str(earlier[0]) if earlier else None}


def flip(path: Path) -> None:
    """Damage in the middle of the data."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate_all(folder: Path) -> None:
    for path in folder.iterdir():
        os.truncate(path, 10)


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "none": (lambda work: None, 4),
    "cut short": (lambda work: os.truncate(work / "recipe_state" / "recipe_state.pt", 700), 2),
    "one bit": (lambda work: flip(work / "recipe_state" / "recipe_state.pt"), 2),
    "killed between two renames": (
        lambda work: (work / "recipe_state" / "recipe_state.pt").unlink(),
        2,
    ),
    "the adapter": (lambda work: flip(work / "epoch_1" / "adapter_model.pt"), 2),
    "both states": (lambda work: truncate_all(work / "recipe_state"), 0),
    "both adapters": (lambda work: remove(work.glob("epoch_*/*")), 0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_last_sound_checkpoint_is_taken(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    old = attempt(tmp_path / "old", 0, 1)
    break_it, steps = DAMAGE[damage]
    break_it(old / "run" / "work")
    work = tmp_path / "new" / "run" / "work"
    assert resume.copy_checkpoint([old], work, "r") == steps
    said = capsys.readouterr().out
    assert ("ignoring the checkpoint" in said) == (
        damage not in ("none", "killed between two renames")
    )
    assert (f"resuming after step {steps}" if steps else "starting from the first step") in said
    assert resume.losses_before(work) == [[step, 1 / step] for step in range(1, steps + 1)]
    if steps:
        [epoch] = work.glob("epoch_*")  # torchtune takes the highest
        assert torch.load(epoch / "adapter_model.pt")["a"][0] == steps / 2 - 1
        assert torch.load(work / "recipe_state" / "recipe_state.pt")["epochs_run"] == steps / 2
    else:
        assert not work.exists()


def test_an_attempt_that_took_over_serves_the_next(tmp_path: Path) -> None:
    first = attempt(tmp_path / "1", 0)
    second = attempt(tmp_path / "2", previous=first)
    assert resume.copy_checkpoint([first], second / "run" / "work", "r") == 2
    (first / "run" / "work").rename(tmp_path / "gone")
    third = tmp_path / "3" / "run" / "work"
    assert resume.copy_checkpoint(list(resume.earlier(spec_of(second))), third, "r") == 2
    (third / "logs").mkdir()
    (third / "logs" / "log_9.txt").write_text("Step 1 | loss:0.5 \nStep 2 | loss:0.25 \n")
    assert resume.losses_of(third) == [[1, 1.0], [2, 0.5], [3, 0.5], [4, 0.25]], (
        "the single-device recipe counts from 1 again"
    )


def test_an_attempt_that_got_nowhere_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = attempt(tmp_path / "1", 0)
    second = attempt(tmp_path / "2", previous=first)
    assert list(resume.earlier(spec_of(second))) == [second, first]
    assert resume.copy_checkpoint([second, first], tmp_path / "new", "r") == 2
    assert resume.copy_checkpoint([second], tmp_path / "newer", "r") == 0
    assert list(resume.earlier(spec_of(tmp_path / "3"))) == []
    assert (
        list(resume.earlier(spec_of(attempt(tmp_path / "4", previous=first, identity="another"))))
        == []
    )
    assert "belongs to another run" in capsys.readouterr().out


def test_another_recipes_state_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        resume.copy_checkpoint(
            [attempt(tmp_path / "old", 0, recipe="single")], tmp_path / "new", "distributed"
        )
        == 0
    )
    assert "it belongs to the recipe single" in capsys.readouterr().out


def test_who_cannot_use_a_checkpoint_does_not_pass_it_on(tmp_path: Path) -> None:
    second = attempt(tmp_path / "2", 0, previous=attempt(tmp_path / "1", 0))
    resume.discard_checkpoints(second, json.loads((second / "run" / "spec.json").read_text()))
    assert list(resume.earlier(spec_of(second))) == [second]
    assert resume.copy_checkpoint([second], tmp_path / "new", "r") == 0


def test_a_packaged_adapter_is_taken_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = attempt(tmp_path / "old", 0)
    assert resume.copy_trained([old], tmp_path) is None
    (old / "adapter").mkdir()
    (old / "adapter" / "weights").write_bytes(b"12345678")
    resume.mark_trained(old, [[1, 0.5]])
    assert resume.copy_trained([old], tmp_path) == [[1, 0.5]]
    assert (tmp_path / "adapter" / "weights").read_bytes() == b"12345678"
    flip(old / "adapter" / "weights")
    assert resume.copy_trained([old], tmp_path / "run") is None
    assert not (tmp_path / "run" / "adapter").exists()
    assert "its adapter is corrupt" in capsys.readouterr().out


# -- the runs --------------------------------------------------------------------------------------


def interrupted(
    folder: Path,
    words: Path,
    base: Path,
    until: str,
    settings: dict[str, Any] = SETTINGS,
    **options: Any,
) -> Path:
    """A run whose processes are killed as soon as the file ``until`` is there (``name: text``: and
    has the text in it).
    """
    name, _, text = until.partition(": ")

    async def go() -> None:
        run = await TorchtuneTrainingBackend(RECIPE, folder, device="cpu", **options).train(
            words, base, settings
        )
        while not (folder / name).exists() or text not in (folder / name).read_text(
            errors="replace"
        ):
            assert await run.refresh() == "running"
            await asyncio.sleep(0.002)
        os.killpg(run._process.pid, signal.SIGKILL)
        await run.wait()

    with pytest.raises(StageError, match="killed"):
        asyncio.run(go())
    return folder


def complete(
    folder: Path, words: Path, base: Path, settings: dict[str, Any] = SETTINGS, **options: Any
) -> TorchtuneTrainingRun:
    async def go() -> TorchtuneTrainingRun:
        run = await TorchtuneTrainingBackend(RECIPE, folder, device="cpu", **options).train(
            words, base, settings
        )
        await run.wait()
        return run

    return asyncio.run(go())


STATE = "run/work/recipe_state/recipe_state.pt"


@pytest.mark.parametrize(("processes", "dropout"), [(1, 0.1), (2, 0.0)])
def test_killed_twice_is_as_never_killed(
    tmp_path: Path, words: Path, base: Path, processes: int, dropout: float
) -> None:
    # of several processes, only the first keeps its random numbers
    settings = {**SETTINGS, "model.lora_dropout": dropout}
    whole = complete(tmp_path / "whole", words, base, settings, processes=processes)
    first = interrupted(tmp_path / "1", words, base, STATE, settings, processes=processes)
    second = interrupted(
        tmp_path / "2",
        words,
        base,
        "torchtune.log: resuming after step 4",
        settings,
        processes=processes,
        previous=first,
    )
    assert not (second / "run" / "work" / "epoch_1").exists(), (
        "killed before a checkpoint of its own"
    )
    resumed = complete(tmp_path / "3", words, base, settings, processes=processes, previous=second)
    result, expected = resumed.result(), whole.result()
    assert (result.resumed_at_step, expected.resumed_at_step) == (4, 0)
    assert result.world_size == expected.world_size == processes
    assert result.steps == 12
    assert [step for step, _ in result.losses] == list(range(1, 13))
    assert [loss for _, loss in result.losses] == pytest.approx(
        [loss for _, loss in expected.losses], abs=1e-6
    )
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in ours)
    assert not (first / "run" / "work").exists()
    assert (first / "torchtune.log").stat().st_size > 0


def weights(run: TorchtuneTrainingRun) -> Any:
    from safetensors.torch import load_file

    return load_file(run.adapter / "adapter_model.safetensors")


def test_killed_while_merging_trains_no_second_time(
    tmp_path: Path, words: Path, base: Path
) -> None:
    first = interrupted(tmp_path / "1", words, base, "run/trained.json", merged=True)
    run = complete(tmp_path / "2", words, base, merged=True, previous=first)
    assert run.result().resumed_at_step == run.result().steps == 12
    assert run.result().train_seconds == 0
    assert (run.folder / "merged" / "config.json").exists()
    assert "finished training: using its adapter" in run.log.read_text()
    assert {path.name for path in first.iterdir()} >= {"torchtune.log", "run"}


def test_another_runs_checkpoint_is_not_taken(tmp_path: Path, words: Path, base: Path) -> None:
    first = interrupted(tmp_path / "1", words, base, STATE)
    run = complete(tmp_path / "2", words, base, {**SETTINGS, "optimizer.lr": 1e-3}, previous=first)
    assert run.result().resumed_at_step == 0
    assert "it belongs to another run" in run.log.read_text()
    assert (first / STATE).exists()


def test_a_checkpoint_that_torchtune_refuses_is_tried_once(
    tmp_path: Path, words: Path, base: Path
) -> None:
    import torch

    first = interrupted(tmp_path / "1", words, base, STATE)
    state = torch.load(first / STATE)
    torch.save({**state, "optimizer": {}, "max_steps_per_epoch": "?"}, first / STATE)
    with pytest.raises(StageError, match="torchtune: "):
        complete(tmp_path / "2", words, base, previous=first)
    assert (
        "the next attempt starts from the first step"
        in (tmp_path / "2" / "torchtune.log").read_text()
    )
    assert (
        complete(tmp_path / "3", words, base, previous=tmp_path / "2").result().resumed_at_step == 0
    )
