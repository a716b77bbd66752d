"""Which stages share a job array, and what each array waits for. Pure: asks Slurm nothing.

An array holds stages of one kind that ask for the same resources. Slurm lets all elements of an
array wait for the same jobs (``afterok``), or element *i* wait for element *i* of one other array
(``aftercorr``): an eval starts when its own fine-tune is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mosweep.core.schema import plain
from mosweep.core.types import Stage
from mosweep.core.work import Resources

__all__ = ["Array", "Place", "arrange", "indices"]


@dataclass(frozen=True, order=True)
class Place:
    """Where a stage's job is: element ``index`` of Slurm's array ``array``."""

    array: str
    index: int

    def __str__(self) -> str:
        return f"{self.array}_{self.index}"


@dataclass(frozen=True)
class Array:
    """Stages by index, the places that all of them wait for, and the array whose element of the
    same index each waits for.
    """

    stages: Mapping[int, Stage]
    after: Sequence[Place] = ()
    along: str | None = None

    @property
    def first(self) -> Stage:
        """A stage that speaks for the label and resources of all."""
        return next(iter(self.stages.values()))

    @property
    def dependency(self) -> str | None:
        """As ``sbatch --dependency`` takes it."""
        parts = [f"aftercorr:{self.along}"] if self.along else []
        parts += [":".join(["afterok", *map(str, self.after)])] if self.after else []
        return ",".join(parts) or None


def arrange(stages: Iterable[tuple[Stage, Sequence[Place]]], size: int) -> list[Array]:
    """As few arrays as can hold the stages, each of which waits for its places; at most ``size``
    elements in each.

    Indices are below ``size``, or those of the array that the stages go along with.
    """
    groups: dict[tuple[str, str], list[tuple[Stage, frozenset[Place]]]] = {}
    known: dict[int, str] = {}
    for stage, places in stages:
        asked = known.setdefault(id(stage.resources), _spelled(stage.resources))
        groups.setdefault((stage.label, asked), []).append((stage, frozenset(places)))
    arrays: list[Array] = []
    for members in groups.values():
        together = _together(members, size)
        along = _along([member for member in members if member[1]], size)
        along += _together([member for member in members if not member[1]], size)
        arrays += along if len(along) < len(together) else together
    return arrays


def indices(array: Iterable[int]) -> str:
    """Indices as ``sbatch --array`` takes them: ``0-3,7``."""
    runs: list[list[int]] = []
    for index in sorted(array):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _together(members: Sequence[tuple[Stage, frozenset[Place]]], size: int) -> list[Array]:
    """Stages that wait for the very same places, together."""
    groups: dict[frozenset[Place], list[Stage]] = {}
    for stage, places in members:
        groups.setdefault(places, []).append(stage)
    return [
        Array(dict(enumerate(group[start : start + size])), tuple(sorted(places)))
        for places, group in groups.items()
        for start in range(0, len(group), size)
    ]


def _along(members: Sequence[tuple[Stage, frozenset[Place]]], size: int) -> list[Array]:
    """Each stage at the index of the one place of its own; what it waits for besides is common to
    its array.
    """
    uses: dict[Place, int] = {}
    for _, places in members:
        for place in places:
            uses[place] = uses.get(place, 0) + 1
    groups: dict[tuple[str, frozenset[Place], int], dict[int, Stage]] = {}
    for stage, places in members:
        own = min(places, key=lambda place: (uses[place], place))
        layer = 0  # two stages at one place cannot be in one array
        while (
            own.index in (group := groups.get((own.array, places - {own}, layer), {}))
            or len(group) >= size
        ):
            layer += 1
        groups.setdefault((own.array, places - {own}, layer), {})[own.index] = stage
    return [
        Array(stages, tuple(sorted(after)), along) for (along, after, _), stages in groups.items()
    ]


def _spelled(resources: Resources) -> str:
    return json.dumps(plain(resources), sort_keys=True, default=str)
