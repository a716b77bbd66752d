"""How much the scores of seeds and items vary, in the records of similar evaluations.

numpy and scipy are loaded when there is something to compute, not before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from mosweep.analysis.contrasts import CONTROL, SEED
from mosweep.analysis.effects import Effect
from mosweep.analysis.scores import TaskScores
from mosweep.core.results import StageResult
from mosweep.core.store import Store
from mosweep.core.types import Stage, Trial
from mosweep.core.work import Kind
from mosweep.cost.estimate import likeness, newest

if TYPE_CHECKING:
    from mosweep.analysis.statistics import Components, Scores

__all__ = ["Spread", "spread_in", "spread_of"]

#: Maximum number of similar evaluations that are read, newest first.
MOST_EVALUATIONS = 400
#: Maximum number of configurations that are compared.
MOST_CONFIGURATIONS = 8
#: Maximum number of seeds per configuration.
MOST_SEEDS = 8

NO_LIBRARY = "unknown: needs scipy; pip install 'mosweep[reports]'"


@dataclass(frozen=True)
class Spread:
    """How much the scores of ``scorer`` varied over ``items``.

    ``levels`` are of two configurations, ``control`` of a configuration and its untouched model.
    """

    scorer: str
    items: int
    levels: Components | None
    control: Components | None


def spread_in(
    task: str, trials: Iterable[Trial], store: Store, primary_metric: str | None
) -> Spread | str:
    """The spread of similar evaluations in the store, or why it is unknown."""
    likenesses = {
        likeness(stage.payload) for trial in trials for stage in trial.stages if _is_of(stage, task)
    }
    groups = _replicated(store, likenesses)
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
    return Spread(scorer, items, _mean(levels), _mean(control))


def _is_of(stage: Stage, task: str) -> bool:
    return stage.kind.scores and stage.label.removeprefix("eval:") == task


def _replicated(
    store: Store, likenesses: set[str]
) -> dict[str, tuple[list[list[StageResult]], list[StageResult]]]:
    """Similar evaluations in the store, by likeness.

    Tuned models that differ only in their seed form one group. Untouched models are listed
    separately.
    """
    groups: dict[str, tuple[dict[str, list[StageResult]], list[StageResult]]] = {}
    similar = (
        (name, data)
        for data in newest(store)
        if Kind.of(data["kind"]).scores and (name := likeness(data["payload"])) in likenesses
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
    """The configuration without the seed, as text. ``None`` for an untouched model."""
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
