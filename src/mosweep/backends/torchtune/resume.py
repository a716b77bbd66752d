"""Resume a killed run of torchtune. ``child`` loads this file by path. It must not import mosweep.

torchtune saves a checkpoint after every epoch except the last, in ``run/work``:
``epoch_<n>/adapter_model.pt`` (counting from 0) and ``recipe_state/recipe_state.pt`` (the
optimizer, the number of epochs and so on). This module adds to the latter the
recipe's name, all losses so far, and the state of the random numbers. The state of the previous
epoch is kept as ``recipe_state/before.pt``. A resumed run has copies of the files that it started
from in the same places, and the earlier losses in ``before.json``.

If a run is trained in parts, each part saves the same two files in a folder for the next part.

After its adapter is packaged, a run has ``run/trained.json`` with its losses and the digests of
the adapter's files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "begin_part",
    "copy_checkpoint",
    "copy_trained",
    "discard_checkpoints",
    "earlier",
    "end_part",
    "losses_before",
    "losses_of",
    "mark_trained",
    "read_losses",
    "restore_random",
    "save_resumable_states",
]

#: A line of torchtune's DiskLogger.
LOSS = re.compile(r"^Step (\d+) \|.*?\bloss:(\S+)")
#: The files of the last recipe state and of the previous one.
STATES = ("recipe_state/recipe_state.pt", "recipe_state/before.pt")
Losses = list[list[float]]


def read_losses(folder: Path) -> Losses:
    """``[[step, loss], …]`` by step, from the files of torchtune's DiskLogger in ``folder``."""
    losses: dict[int, float] = {}
    for path in sorted(folder.glob("log_*.txt")):
        for line in path.read_text().splitlines():
            if match := LOSS.match(line):
                losses[int(match[1])] = float(match[2])
    return [[step, losses[step]] for step in sorted(losses)]


def losses_before(work: Path) -> Losses:
    """The losses before the checkpoint that the run in ``work`` resumed from.

    Empty if it started from the first step.
    """
    try:
        losses: Losses = json.loads((work / "before.json").read_text())
    except FileNotFoundError:
        return []
    return losses


def losses_of(work: Path) -> Losses:
    """All losses from step 1.

    The single-device recipe may number the steps of a resumed run from 1 again.
    """
    before, rows = losses_before(work), read_losses(work / "logs")
    shift = len(before) + 1 - rows[0][0] if before and rows else 0
    return before + [[step + shift, loss] for step, loss in rows]


# -- during training -------------------------------------------------------------------------------


def save_resumable_states(work: Path, recipe: str) -> None:
    """Patch ``torch.save`` to write recipe states atomically, with everything for a resumed run.

    The previous state is kept. torchtune itself overwrites its only state in place, so a kill at
    that moment would destroy it.
    """
    import torch

    save = torch.save

    def save_whole(state: Any, file: Any, *args: Any, **options: Any) -> None:
        if not isinstance(file, str | os.PathLike) or Path(file) != work / STATES[0]:
            save(state, file, *args, **options)
            return
        path = Path(file)
        part = path.with_name("part.pt")
        save(
            {**state, "recipe": recipe, "losses": losses_of(work), "random": _random()},
            part,
            *args,
            **options,
        )
        if path.exists():
            path.replace(work / STATES[1])
        part.replace(path)

    torch.save = save_whole  # type: ignore[assignment]


def _random() -> dict[str, Any]:
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random(work: Path) -> None:
    """Restore the state of the random numbers (for dropout) from the checkpoint.

    With several processes, only the state of the first one is saved.
    """
    import torch

    states = torch.load(work / STATES[0], map_location="cpu", weights_only=True)["random"]
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


# -- before and after training ---------------------------------------------------------------------


def earlier(spec: Mapping[str, Any]) -> Iterator[Path]:
    """Folders of the earlier attempts at the same run, newest first."""
    while spec["previous"]:
        folder = Path(spec["previous"])
        try:
            before = json.loads((folder / "run" / "spec.json").read_text())
        except (OSError, ValueError):  # the attempt was killed before it started
            return
        if before["identity"] != spec["identity"]:
            print(f"ignoring {folder}: it belongs to another run", flush=True)
            return
        yield folder
        spec = before


def copy_trained(earlier: list[Path], folder: Path) -> Losses | None:
    """Copy the adapter of an earlier attempt that was killed after training to ``folder``.

    Returns its losses, or ``None`` if there is no such attempt.
    """
    for other in earlier:
        try:
            known = json.loads((other / "run" / "trained.json").read_text())
            shutil.copytree(other / "adapter", folder / "adapter")
            if _digest(folder / "adapter") != known["adapter"]:
                raise ValueError("its adapter is corrupt")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            print(f"{other} finished training, but {error}", flush=True)
            shutil.rmtree(folder / "adapter", ignore_errors=True)
            continue
        print(f"{other} finished training: using its adapter", flush=True)
        losses: Losses = known["losses"]
        return losses
    return None


def mark_trained(folder: Path, losses: Losses) -> None:
    """Record that training is finished, for ``copy_trained``."""
    _write(
        folder / "run" / "trained.json", {"losses": losses, "adapter": _digest(folder / "adapter")}
    )


def copy_checkpoint(earlier: list[Path], work: Path, recipe: str) -> int:
    """Copy the last usable checkpoint of an earlier attempt to ``work``.

    Returns the number of its steps, or 0 if there is none.
    """
    for folder in earlier:
        for state in STATES:
            if not (folder / "run" / "work" / state).exists():
                continue
            try:
                losses = _copy_usable(folder / "run" / "work", state, work, recipe)
            # torch raises many types of errors. None of them may prevent training.
            except Exception as error:
                shutil.rmtree(work, ignore_errors=True)
                print(f"ignoring the checkpoint {folder}/run/work/{state}: {error}", flush=True)
                continue
            print(f"resuming after step {len(losses)}, from {folder}/run/work/{state}", flush=True)
            return len(losses)
    if earlier:
        print(
            "no earlier attempt has a usable checkpoint: starting from the first step",
            flush=True,
        )
    return 0


def _copy_usable(old: Path, state: str, work: Path, recipe: str) -> Losses:
    """Copy a checkpoint and check the copy, because its writer may still be running."""
    known = _copied(old / state, work / STATES[0])
    if known["recipe"] != recipe:
        # The optimizer states of recipes have different formats.
        raise ValueError(f"it belongs to the recipe {known['recipe']}")
    losses: Losses = known["losses"]
    if not losses or any(
        step != number or not math.isfinite(loss) for number, (step, loss) in enumerate(losses, 1)
    ):
        raise ValueError("its losses are incomplete")
    name = f"epoch_{known['epochs_run'] - 1}/adapter_model.pt"
    adapter = _copied(old / name, work / name)
    if not all(tensor.isfinite().all() for tensor in adapter.values()):
        raise ValueError("its adapter is not finite")
    _write(work / "before.json", losses)
    return losses


def begin_part(state: Path, work: Path, recipe: str, max_steps_per_epoch: int | None) -> None:
    """Prepare ``work`` so that a recipe resumes from ``state``, which the previous part saved.

    The recipe starts there with its first epoch.
    """
    import torch

    known = _copied(state / "recipe_state.pt", work / STATES[0])
    if known["recipe"] != recipe:
        problem = (
            f"the recipe {recipe} cannot resume from the previous round, which used "
            f"{known['recipe']}: their optimizer states differ"
        )
        raise RuntimeError(f"{problem}; use the same resources for all rounds")
    _copied(state / "adapter_model.pt", work / "epoch_0" / "adapter_model.pt")
    torch.save(
        {**known, "epochs_run": 0, "max_steps_per_epoch": max_steps_per_epoch}, work / STATES[0]
    )


def end_part(work: Path, state: Path, expected: int, taken: int) -> None:
    """Save the files that the next part resumes from to ``state``.

    Raises ``RuntimeError`` unless all expected steps were taken.
    """
    if taken != expected:
        raise RuntimeError(f"training took {taken} of {expected} steps")
    state.mkdir()
    for source in (work / STATES[0], work / "epoch_0" / "adapter_model.pt"):
        shutil.copyfile(source, state / source.name)


def _copied(source: Path, target: Path) -> Any:
    """Copy ``source`` to ``target`` and load the copy.

    ``torch.load`` detects a truncated file. Only the archive's checksums detect other corruption.
    """
    import torch

    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with zipfile.ZipFile(target) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in {source} is corrupt")
    return torch.load(target, map_location="cpu", weights_only=True)


def discard_checkpoints(folder: Path, spec: Mapping[str, Any]) -> None:
    """Prevent other runs from resuming from this run or its earlier attempts."""
    shutil.rmtree(folder / "run" / "work", ignore_errors=True)
    _write(folder / "run" / "spec.json", {**spec, "previous": None})


def _digest(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def _write(path: Path, data: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data) + "\n")
    part.replace(path)
