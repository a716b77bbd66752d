"""Before a launch: the smallest effects that a design can detect.

They depend on how much the scores of seeds and items vary. ``detectable`` assumes a variation.
``foresee`` takes the trials of a launch, and measures the variation in the records of similar
evaluations. numpy and scipy are loaded when there is something to compute, not before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.analysis.contrasts import CONTROL, SEED, Contrast, contrasts_of, with_bundles
from mosweep.analysis.scores import FactoredSweep
from mosweep.analysis.spread import Spread, spread_in
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.store import Store
from mosweep.core.types import Trial

if TYPE_CHECKING:
    from mosweep.analysis.statistics import Components

__all__ = ["Detectable", "Foresight", "detectable", "foresee"]

ONE_SEED = "unknown: one seed does not show how much fine-tunes vary"


@dataclass(frozen=True)
class Foresight:
    """The minimum detectable effect of a ``contrast`` on ``metric``, in units of the metric.

    An effect of ``mde`` is detected 4 times in 5, by one comparison at 95 %. It is ``None`` where
    it is unknown; ``note`` says why. ``seeds`` are the fewest on a side of a block, ``blocks`` the
    combinations of the other factors, ``items`` those of each evaluation.
    """

    contrast: str
    metric: str
    seeds: int
    blocks: int
    items: int | None
    mde: float | None
    note: str = ""


def foresee(
    trials: Sequence[Trial],
    store: Store,
    contrasts: Any = None,
    primary_metric: str | None = None,
    bundles: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> list[Foresight]:
    """The effects that ``trials`` can detect, before they run.

    There is one entry per contrast and evaluation task.
    """
    factors: dict[str, dict[str, Any]] = {}
    for trial in trials:
        for name, value in trial.factors.items():
            factors.setdefault(name, {}).setdefault(str(value), value)
    design = {
        "treatments": {name: list(levels.values()) for name, levels in factors.items()},
        "bundles": bundles or {},
    }
    sweep = FactoredSweep(with_bundles(SweepResult("", Path(), tuple(map(_unrun, trials)), design)))
    compared = contrasts_of(contrasts, sweep.treatments, control=bool(sweep.result.controls))
    tasks = dict.fromkeys(task for evals in sweep.evals.values() for task in evals)
    if primary_metric and (
        own := [task for task in tasks if primary_metric.startswith(f"{task}/")]
    ):
        tasks = dict.fromkeys(own)
    spreads = {task: spread_in(task, trials, store, primary_metric) for task in tasks}
    return [
        _foresight(sweep, contrast, task, spreads[task], 1 - level, power)
        for contrast in compared
        for task in tasks
    ]


def _unrun(trial: Trial) -> TrialResult:
    """The trial without results."""
    stages = tuple(
        StageResult(stage.label, stage.kind, stage.key, "pending") for stage in trial.stages
    )
    return TrialResult(trial.name, trial.name, trial.factors, trial.control, stages, "")


def _foresight(
    sweep: FactoredSweep,
    contrast: Contrast,
    task: str,
    spread: Spread | str,
    alpha: float,
    power: float,
) -> Foresight:
    fixed = contrast.factor == CONTROL
    seeds = []
    for sides in sweep.pairs(contrast).values():
        counted = [
            {
                sweep.levels[trial.name].get(SEED)
                for trial in side
                if task in sweep.evals[trial.name]
            }
            for side in sides
        ]
        if all(counted):
            seeds.append(min(map(len, counted[fixed:])))
    metric, items = (
        (f"{task}/{spread.scorer}", spread.items) if isinstance(spread, Spread) else (task, None)
    )
    mde, note = None, ""
    if not seeds:
        note = "nothing to compare: no two trials differ in this factor alone"
    elif min(seeds) < 2:
        note = ONE_SEED
    elif isinstance(spread, str):
        note = spread
    elif (parts := spread.control if fixed else spread.levels) is None:
        note = "unknown: no earlier result of " + (
            "an untouched model under this evaluation"
            if fixed
            else "two configurations under this evaluation"
        )
    else:
        from mosweep.analysis.power import minimum_effect

        mde = minimum_effect(
            parts,
            runs=min(seeds),
            items=spread.items,
            blocks=len(seeds),
            alpha=alpha,
            power=power,
            fixed=fixed,
        )
    return Foresight(str(contrast), metric, min(seeds, default=0), len(seeds), items, mde, note)


@dataclass(frozen=True)
class Detectable:
    """The minimum detectable effect (``mde``) of contrasts of ``factor``.

    It is ``None`` where it is unknown; ``note`` says why.
    """

    factor: str
    seeds: int
    blocks: int
    items: int | None
    mde: float | None
    note: str | None = None


def detectable(
    design: Mapping[str, Any],
    items: int | None = None,
    spread: Components | None = None,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> list[Detectable]:
    """The effects that a design can detect, before it is launched: one entry per treatment.

    ``design["treatments"]`` has the levels of each factor, which are crossed. ``items`` per
    evaluation and ``spread`` are assumed, or taken from an earlier sweep (``spread_of``). The
    result is about one contrast; several together need larger effects.
    """
    treatments = design.get("treatments") or {}
    seeds = len(treatments.get(SEED) or [None])
    varied = {
        name: len(levels) for name, levels in treatments.items() if name != SEED and len(levels) > 1
    }
    entries = []
    for factor, n in varied.items():
        blocks = math.prod(varied.values()) // n
        note, mde = None, None
        if seeds < 2:
            note = ONE_SEED
        elif items is None or items < 2:
            note = "unknown: the number of items in the evaluation"
        elif spread is None:
            note = "unknown: how much seeds and items vary; give an earlier sweep or an assumption"
        else:
            from mosweep.analysis.power import minimum_effect

            mde = minimum_effect(
                spread, runs=seeds, items=items, blocks=blocks, alpha=1 - level, power=power
            )
        entries.append(Detectable(factor, seeds, blocks, items, mde, note))
    return entries
