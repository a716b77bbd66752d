"""Going on where a killed run of torchtune stopped. Loaded by path from ``child``; needs
no mosweep.

torchtune saves at the end of every epoch but the last, into ``run/work``:
``epoch_<n>/adapter_model.pt`` (counting from 0) and ``recipe_state/recipe_state.pt`` (optimizer,
epochs done, …), to which is added here what else going on takes: the recipe's name, all losses so
far, the state of the random numbers. The state of the epoch before is kept as
``recipe_state/before.pt``. A run that goes on has copies of the files it started from in the same
places, and the losses of the steps before it in ``before.json``.

The parts of a run that is made in parts hand on the same two files, in a folder.

Once its adapter is packaged a run has ``run/trained.json``: its losses, and the digests of the
adapter's files.
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
    "adopt",
    "begin_part",
    "earlier",
    "end_part",
    "follow",
    "forget",
    "losses_before",
    "losses_of",
    "mark_trained",
    "read_losses",
    "restore_random",
    "take_trained",
]

LOSS = re.compile(r"^Step (\d+) \|.*?\bloss:(\S+)")
STATES = "recipe_state/recipe_state.pt", "recipe_state/before.pt"
Losses = list[list[float]]


def read_losses(folder: Path) -> Losses:
    """``[[step, loss], …]`` from the files that torchtune's DiskLogger wrote into ``folder``, by
    step.
    """
    found: dict[int, float] = {}
    for path in sorted(folder.glob("log_*.txt")):
        for line in path.read_text().splitlines():
            if match := LOSS.match(line):
                found[int(match[1])] = float(match[2])
    return [[step, found[step]] for step in sorted(found)]


def losses_before(work: Path) -> Losses:
    """The losses of the steps that an earlier run took, from which the one in ``work`` goes on;
    empty if it began anew.
    """
    try:
        losses: Losses = json.loads((work / "before.json").read_text())
    except FileNotFoundError:
        return []
    return losses


def losses_of(work: Path) -> Losses:
    """All losses from step 1. The single-device recipe may number the steps of a resumed run from 1
    again.
    """
    before, rows = losses_before(work), read_losses(work / "logs")
    shift = len(before) + 1 - rows[0][0] if before and rows else 0
    return before + [[step + shift, loss] for step, loss in rows]


# -- while it trains -------------------------------------------------------------------------------


def follow(work: Path, recipe: str) -> None:
    """From now on in this process, torchtune's recipe states are written whole, with what going on
    takes, and the last but one is kept.

    torchtune itself writes over its only one in place: a kill in that moment would leave none.
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
    """Go on with the random numbers (of dropout) where the run before stopped. Only the first of
    several processes left its own.
    """
    import torch

    states = torch.load(work / STATES[0], map_location="cpu", weights_only=True)["random"]
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


# -- before it trains ------------------------------------------------------------------------------


def earlier(spec: Mapping[str, Any]) -> Iterator[Path]:
    """Folders of the attempts before this one at the very same run, newest first."""
    while spec["previous"]:
        folder = Path(spec["previous"])
        try:
            before = json.loads((folder / "run" / "spec.json").read_text())
        except (OSError, ValueError):  # it had not begun
            return
        if before["identity"] != spec["identity"]:
            print(f"{folder} is of another run: nothing is taken from it", flush=True)
            return
        yield folder
        spec = before


def take_trained(earlier: list[Path], folder: Path) -> Losses | None:
    """The losses of an earlier attempt that was killed after its training; its adapter is copied to
    ``folder``. ``None``: there is none.
    """
    for other in earlier:
        try:
            known = json.loads((other / "run" / "trained.json").read_text())
            shutil.copytree(other / "adapter", folder / "adapter")
            if _digest(folder / "adapter") != known["adapter"]:
                raise ValueError("its adapter is damaged")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            print(f"{other} had trained, but {error}", flush=True)
            shutil.rmtree(folder / "adapter", ignore_errors=True)
            continue
        print(f"{other} had trained: its adapter is taken", flush=True)
        losses: Losses = known["losses"]
        return losses
    return None


def mark_trained(folder: Path, losses: Losses) -> None:
    """From now on ``take_trained`` finds this run's adapter."""
    _write(
        folder / "run" / "trained.json", {"losses": losses, "adapter": _digest(folder / "adapter")}
    )


def adopt(earlier: list[Path], work: Path, recipe: str) -> int:
    """Copy to ``work`` the last sound checkpoint that an earlier attempt left; the steps it has
    behind it, 0 where there is none.
    """
    for folder in earlier:
        for state in STATES:
            if not (folder / "run" / "work" / state).exists():
                continue
            try:
                losses = _take(folder / "run" / "work", state, work, recipe)
            # torch raises much, and none of it may keep us from training
            except Exception as error:
                shutil.rmtree(work, ignore_errors=True)
                print(
                    f"the checkpoint {folder}/run/work/{state} cannot be used: {error}", flush=True
                )
                continue
            print(f"going on after step {len(losses)}, from {folder}/run/work/{state}", flush=True)
            return len(losses)
    if earlier:
        print(
            "no earlier attempt left a checkpoint that can be used: starting from the first step",
            flush=True,
        )
    return 0


def _take(old: Path, state: str, work: Path, recipe: str) -> Losses:
    """Copies are looked at, not originals: whoever wrote those is dead as far as can be known."""
    known = _copied(old / state, work / STATES[0])
    if known["recipe"] != recipe:
        # the optimizer's state has another form
        raise ValueError(f"it is of the recipe {known['recipe']}")
    losses: Losses = known["losses"]
    if not losses or any(
        step != number or not math.isfinite(loss) for number, (step, loss) in enumerate(losses, 1)
    ):
        raise ValueError("the losses up to it are not complete")
    name = f"epoch_{known['epochs_run'] - 1}/adapter_model.pt"
    adapter = _copied(old / name, work / name)
    if not all(tensor.isfinite().all() for tensor in adapter.values()):
        raise ValueError("its adapter is not finite")
    _write(work / "before.json", losses)
    return losses


def begin_part(state: Path, work: Path, recipe: str, max_steps_per_epoch: int | None) -> None:
    """Have a recipe go on from what the part before left in ``state``, as if it were about to begin
    its first epoch.
    """
    import torch

    known = _copied(state / "recipe_state.pt", work / STATES[0])
    if known["recipe"] != recipe:
        problem = (
            f"this part is trained by the recipe {recipe}, the one before was by "
            f"{known['recipe']}, whose optimizer has another state"
        )
        raise RuntimeError(f"{problem}: give all rounds the same resources")
    _copied(state / "adapter_model.pt", work / "epoch_0" / "adapter_model.pt")
    torch.save(
        {**known, "epochs_run": 0, "max_steps_per_epoch": max_steps_per_epoch}, work / STATES[0]
    )


def end_part(work: Path, state: Path, wanted: int, taken: int) -> None:
    """Leave in ``state`` what the next part goes on from; ``RuntimeError`` if not all steps were
    taken.
    """
    if taken != wanted:
        raise RuntimeError(f"training took {taken} steps where {wanted} were asked for")
    state.mkdir()
    for source in (work / STATES[0], work / "epoch_0" / "adapter_model.pt"):
        shutil.copyfile(source, state / source.name)


def _copied(source: Path, target: Path) -> Any:
    """What is in the copy. ``torch.load`` finds a file that is cut short; only the archive's
    checksums find other damage.
    """
    import torch

    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with zipfile.ZipFile(target) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in {source} is damaged")
    return torch.load(target, map_location="cpu", weights_only=True)


def forget(folder: Path, spec: Mapping[str, Any]) -> None:
    """Nobody goes on from this run, or from those before it."""
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
