"""Groups stages into job arrays with dependencies. Pure functions, without calls to Slurm.

An array holds stages of one kind with the same resources. In Slurm, all elements of an array can
wait for the same jobs (``afterok``), or element *i* for element *i* of one other array
(``aftercorr``). With the latter, an eval starts when its own fine-tune is done.
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
    """The job of a stage: element ``index`` of Slurm's array ``array``."""

    array: str
    index: int

    def __str__(self) -> str:
        return f"{self.array}_{self.index}"


@dataclass(frozen=True)
class Array:
    """Stages by index, and their dependencies.

    All of them wait for ``after``. Each also waits for the element of ``along`` with its index.
    """

    stages: Mapping[int, Stage]
    after: Sequence[Place] = ()
    along: str | None = None

    @property
    def first(self) -> Stage:
        """The first stage. All have its label and resources."""
        return next(iter(self.stages.values()))

    @property
    def dependency(self) -> str | None:
        """The value of ``sbatch --dependency``."""
        parts = [f"aftercorr:{self.along}"] if self.along else []
        parts += [":".join(["afterok", *map(str, self.after)])] if self.after else []
        return ",".join(parts) or None


def arrange(stages: Iterable[tuple[Stage, Sequence[Place]]], size: int) -> list[Array]:
    """Group ``stages``, with the places that each waits for, into as few arrays as possible.

    An array has at most ``size`` elements. Indices are below ``size``, or those of the array
    ``along``.
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
    """Indices in the form of ``sbatch --array``: ``0-3,7``."""
    runs: list[list[int]] = []
    for index in sorted(array):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _together(members: Sequence[tuple[Stage, frozenset[Place]]], size: int) -> list[Array]:
    """Arrays of stages that wait for the same places."""
    groups: dict[frozenset[Place], list[Stage]] = {}
    for stage, places in members:
        groups.setdefault(places, []).append(stage)
    return [
        Array(dict(enumerate(group[start : start + size])), tuple(sorted(places)))
        for places, group in groups.items()
        for start in range(0, len(group), size)
    ]


def _along(members: Sequence[tuple[Stage, frozenset[Place]]], size: int) -> list[Array]:
    """Arrays in which each stage has the index of the place that only it waits for.

    All other dependencies are common to the array.
    """
    uses: dict[Place, int] = {}
    for _, places in members:
        for place in places:
            uses[place] = uses.get(place, 0) + 1
    groups: dict[tuple[str, frozenset[Place], int], dict[int, Stage]] = {}
    for stage, places in members:
        own = min(places, key=lambda place: (uses[place], place))
        layer = 0  # Two stages with the same index cannot be in one array.
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
