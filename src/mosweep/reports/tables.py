"""The tables of a report, as DataFrames: trials, items and effects."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core.levels import level_text
from mosweep.core.results import TrialResult
from mosweep.reports.content import Content

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["effects_table", "items_table", "log_place", "seconds", "sizes", "trials_table"]

#: Fields that an effect and each of its blocks share.
_SHARED = ("estimate", "se", "low", "high", "p")


def trials_table(content: Content) -> pd.DataFrame:
    """A row per trial: factors and metrics under their names, then status, times and errors."""
    rows = []
    for trial in content.result.trials:
        failed = [stage for stage in trial.stages if stage.status in ("failed", "cancelled")]
        deltas = {
            f"delta {name}": value
            for name, value in content.deltas(trial).items()
            if name in content.metrics
        }
        rows.append(
            {
                "trial": trial.name,
                **trial.factors,
                **trial.metrics,
                **deltas,
                "id": trial.id,
                "control": trial.control,
                "exploratory": trial.name in content.exploratory,
                "contaminated": trial.name in content.contaminated,
                "dummy": trial.pretended,
                "status": trial.status,
                "n": sizes(trial),
                "seconds": seconds(trial),
                "error": "; ".join(f"{stage.label}: {stage.error}" for stage in failed),
                "log": "; ".join(log_place(content, stage.log) for stage in failed),
            }
        )
    first = ["trial", *content.levels]
    first += [name for trial in content.result.trials for name in trial.metrics]
    return _frame(_columns(rows, [*first, *(name for row in rows for name in row)]))


def items_table(content: Content) -> pd.DataFrame:
    """A row per trial, task, item, epoch and scorer."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("trial", "task", "scorer", "item", "epoch", "score")
    }
    for trial in content.result.trials:
        for stage, evaluation in trial.evaluations:
            if (samples := stage.samples) is None:
                continue
            scorers = list(samples.scores)
            count = len(samples) * len(scorers)
            columns["trial"] += [trial.name] * count
            columns["task"] += [evaluation.task] * count
            columns["scorer"] += scorers * len(samples)
            columns["item"] += [item for item in samples.ids for _ in scorers]
            columns["epoch"] += [epoch for epoch in samples.epochs for _ in scorers]
            columns["score"] += [
                score for scores in zip(*samples.scores.values(), strict=True) for score in scores
            ]
    return _frame(columns)


def effects_table(content: Content) -> pd.DataFrame:
    """A row per effect, followed by one for each of its blocks if it has several."""
    rows: list[dict[str, Any]] = []
    for effect in content.effects:
        contrast, means = effect.contrast, effect.means or (None, None)
        about = {
            "comparison": str(contrast),
            "factor": contrast.factor,
            "base": level_text(contrast.base),
            "level": level_text(contrast.level),
            "metric": effect.metric,
        }
        rows.append(
            {
                **about,
                "block": "",
                "exploratory": content.is_exploratory(effect),
                "verdict": effect.verdict,
                "confidence": effect.level,
                "mean_base": means[0],
                "mean_level": means[1],
                **{name: getattr(effect, name) for name in _SHARED},
                "df": effect.df,
                "p_holm": effect.p_holm,
                "delta": effect.delta,
                "p_equivalence": effect.p_equivalence,
                "mde": effect.mde,
                "items": effect.items,
                "clusters": effect.clusters,
                "seeds_base": effect.seeds[0],
                "seeds_level": effect.seeds[1],
                "paired": effect.paired,
                "heterogeneity": effect.heterogeneity,
                "notes": "; ".join(effect.notes),
            }
        )
        for block in effect.blocks if len(effect.blocks) > 1 else ():
            rows.append(
                {
                    **about,
                    "block": block.name,
                    **{name: getattr(block, name) for name in _SHARED},
                    "items": block.items,
                    "seeds_base": block.seeds[0],
                    "seeds_level": block.seeds[1],
                }
            )
    empty = ["comparison", "metric", "estimate", "low", "high", "verdict"]
    return _frame(_columns(rows, rows[0] if rows else empty))


def log_place(content: Content, log: Path | None) -> str:
    """The path of a log, relative to the sweep's folder."""
    return os.path.relpath(log, content.sweep.folder) if log else ""


def sizes(trial: TrialResult) -> str:
    """The numbers of items of a trial's evaluations: ``100``, or ``100/250``."""
    counts = {evaluation.n for _, evaluation in trial.evaluations}
    return "/".join(map(str, sorted(counts)))


def seconds(trial: TrialResult) -> float | None:
    """The total seconds that a trial's stages ran."""
    times = [stage.seconds for stage in trial.stages if stage.seconds is not None]
    return round(math.fsum(times), 3) if times else None


def _columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(names)}


def _frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: _series(values) for name, values in columns.items()})


def _series(values: Sequence[Any]) -> Any:
    """A column of one type, as Parquet needs it: integers, floats, booleans, or else text."""
    import pandas as pd

    types = {type(value) for value in values} - {type(None)}
    if types == {bool}:
        return pd.array(values, dtype="boolean")
    if types == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pd.array(values, dtype="Int64")
    if types and types <= {int, float, bool}:
        return pd.array(
            [math.nan if value is None else float(value) for value in values], dtype="float64"
        )
    texts = [None if value is None else level_text(value) for value in values]
    return pd.array(texts, dtype="string")
