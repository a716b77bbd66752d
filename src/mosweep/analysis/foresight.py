"""Before a launch: the smallest effects that a design can detect.

They depend on how much the scores of seeds and items vary. ``detectable`` takes that as an
assumption. ``foresee`` takes the trials that are about to run, and measures it in the records of
similar evaluations. numpy and scipy are loaded when there is something to compute, not before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.analysis.contrasts import CONTROL, SEED, Contrast, contrasts_of, with_bundles
from mosweep.analysis.effects import Effect
from mosweep.analysis.scores import FactoredSweep, TaskScores
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.store import Store
from mosweep.core.types import Stage, Trial
from mosweep.core.work import Kind
from mosweep.cost.estimate import likeness, newest

if TYPE_CHECKING:
    from mosweep.analysis.statistics import Components, Scores

__all__ = ["Detectable", "Foresight", "detectable", "foresee", "spread_of"]

#: The most similar evaluations that are read, newest first.
MOST_EVALUATIONS = 400
#: The most configurations that are compared.
MOST_CONFIGURATIONS = 8
#: The most seeds of a configuration.
MOST_SEEDS = 8

NO_LIBRARY = "unknown: needs scipy; pip install 'mosweep[reports]'"
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
    """The effects that ``trials``, which need not have run, can detect.

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
    spreads = {task: _spread(task, trials, store, primary_metric) for task in tasks}
    return [
        _foresight(sweep, contrast, task, spreads[task], 1 - level, power)
        for contrast in compared
        for task in tasks
    ]


def _unrun(trial: Trial) -> TrialResult:
    """The trial as reports see it, with no results yet."""
    stages = tuple(
        StageResult(stage.label, stage.kind, stage.key, "pending") for stage in trial.stages
    )
    return TrialResult(trial.name, trial.name, trial.factors, trial.control, stages, "")


def _foresight(
    sweep: FactoredSweep,
    contrast: Contrast,
    task: str,
    spread: _Spread | str,
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
        (f"{task}/{spread.scorer}", spread.items) if isinstance(spread, _Spread) else (task, None)
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


# -- how much similar evaluations varied -----------------------------------------------------------


@dataclass(frozen=True)
class _Spread:
    """How much the scores of ``scorer`` varied over ``items``.

    ``levels`` are of two configurations, ``control`` of a configuration and its untouched model.
    """

    scorer: str
    items: int
    levels: Components | None
    control: Components | None


def _spread(
    task: str, trials: Iterable[Trial], store: Store, primary_metric: str | None
) -> _Spread | str:
    """The spread of similar evaluations in the store, or why it is unknown."""
    wanted = {
        likeness(stage.payload) for trial in trials for stage in trial.stages if _is_of(stage, task)
    }
    groups = _replicated(store, wanted)
    if not any(tuned for tuned, _ in groups.values()):
        return "unknown: no earlier results of several seeds under this evaluation"
    try:
        import numpy as np

        from mosweep.analysis.statistics import Scores, compare
    except ImportError:
        return NO_LIBRARY
    chosen = [
        stage
        for tuned, control in groups.values()
        for stage in (*(one for runs in tuned for one in runs), *control)
    ]
    scores = TaskScores(task, chosen)
    metric = (primary_metric or "").removeprefix(f"{task}/")
    scorer = (scores.scorer(metric) if metric else None) or next(iter(scores.scores), None)
    if scorer is None:
        return "unknown: earlier results of this evaluation have no scores of items"

    def side(runs: Sequence[StageResult], fixed: bool = False) -> Scores:
        return Scores(
            scores.scores[scorer][[scores.rows[run.key] for run in runs if run.key in scores.rows]],
            fixed=fixed,
        )

    levels, control = [], []
    for tuned, untouched in groups.values():
        sides = [one for runs in tuned if (one := side(runs)).values.size]
        base = side(untouched[:1], fixed=True)
        levels += [compare([(sides[0], other)]).components for other in sides[1:]]
        control += [compare([(base, other)]).components for other in sides if base.values.size]
    items = int(np.isfinite(scores.scores[scorer]).sum(axis=1).max())
    if items < 2:
        return "unknown: earlier results of this evaluation have one item"
    return _Spread(scorer, items, _mean(levels), _mean(control))


def _is_of(stage: Stage, task: str) -> bool:
    return stage.kind.scores and stage.label.removeprefix("eval:") == task


def _replicated(
    store: Store, wanted: set[str]
) -> dict[str, tuple[list[list[StageResult]], list[StageResult]]]:
    """Similar evaluations in the store, by what they share.

    Those of tuned models that differ in their seed alone stand together; those of untouched models
    are listed apart.
    """
    groups: dict[str, tuple[dict[str, list[StageResult]], list[StageResult]]] = {}
    similar = (
        (name, data)
        for data in newest(store)
        if Kind.of(data["kind"]).scores and (name := likeness(data["payload"])) in wanted
    )
    for name, data in islice(similar, MOST_EVALUATIONS):
        tuned, untouched = groups.setdefault(name, ({}, []))
        stage = StageResult(
            str(data["label"]),
            Kind.of(data["kind"]),
            str(data["key"]),
            "succeeded",
            record=data,
            folder=store.root / data["folder"],
        )
        configuration = _configuration(store, data["payload"])
        (untouched if configuration is None else tuned.setdefault(configuration, [])).append(stage)
    several = {
        name: ([runs[:MOST_SEEDS] for runs in tuned.values() if len(runs) > 1], untouched)
        for name, (tuned, untouched) in groups.items()
    }
    return {
        name: (runs[:MOST_CONFIGURATIONS], untouched) for name, (runs, untouched) in several.items()
    }


def _configuration(store: Store, payload: Mapping[str, Any]) -> str | None:
    """What a fine-tune shares with those of other seeds; ``None`` for an untouched model."""
    for key in payload["inputs"].values():
        record = store.read(key, whole=True)
        if record is not None and Kind.of(record.data["kind"]).tunes:
            rest = {name: value for name, value in payload.items() if name != "inputs"}
            return json.dumps([_seedless(record.data["payload"]), rest], sort_keys=True)
    return None


def _seedless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _seedless(item) for name, item in value.items() if name != SEED}
    return value


# -- by assumption ---------------------------------------------------------------------------------


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
    result is about one contrast; several at once need larger effects.
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


def spread_of(effects: Iterable[Effect]) -> Components | None:
    """How much seeds, items and single scores varied in an earlier sweep, as root mean squares.

    ``None`` where its effects do not show it.
    """
    spreads = [
        effect.spread
        for effect in effects
        if effect.spread and effect.spread.runs is not None and effect.contrast.factor != CONTROL
    ]
    return _mean(spreads)


def _mean(spreads: Sequence[Components]) -> Components | None:
    """Root mean squares; ``None`` for none."""
    if not spreads:
        return None
    from mosweep.analysis.statistics import Components

    parts = (
        [getattr(spread, name) or 0.0 for spread in spreads] for name in ("runs", "items", "rest")
    )
    return Components(
        *(math.sqrt(math.fsum(value**2 for value in part) / len(spreads)) for part in parts)
    )
