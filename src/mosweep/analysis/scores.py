"""The scores of a sweep as arrays, and its trials by their factors.

Items are identified by the id that the data set gives them, or else by their content. The epochs of
an item are reduced as the task reduces them, by default to their mean. numpy is loaded when scores
are read, not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mosweep.analysis.contrasts import CONTROL, SEED, Contrast, bundled
from mosweep.core.errors import ConfigError, choices
from mosweep.core.facts import EvalFacts
from mosweep.core.levels import level_text
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.samples import Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["FactoredSweep", "Metric", "TaskScores", "number"]


@dataclass(frozen=True)
class Metric:
    """A metric under the requested ``name``, and the scorer that has its items' scores."""

    name: str
    task: TaskScores
    scorer: str | None


class TaskScores:
    """All scores on one task: for each scorer an array of evaluations × items."""

    def __init__(self, name: str, stages: Iterable[StageResult]) -> None:
        import numpy as np

        self.name = name
        self.rows: dict[str, int] = {}
        self.evaluations: list[EvalFacts] = []
        self.metadata: list[Mapping[str, Any]] = []
        columns: dict[Any, int] = {}
        columns_of: dict[tuple[Any, ...], list[int]] = {}
        read: list[tuple[list[int], dict[str, npt.NDArray[np.float64]]]] = []
        for stage in stages:
            evaluation, samples = stage.evaluation, stage.samples
            if not evaluation or not samples:
                continue
            ids = tuple(samples.items)
            if ids not in columns_of:
                for item, metadata in zip(ids, samples.metadata, strict=True):
                    if columns.setdefault(item, len(columns)) == len(self.metadata):
                        self.metadata.append(metadata)
                columns_of[ids] = [columns[item] for item in ids]
            self.rows[stage.key] = len(read)
            self.evaluations.append(evaluation)
            read.append((columns_of[ids], _numbers(samples)))
        scorers = dict.fromkeys(scorer for _, scores in read for scorer in scores)
        self.scores = {scorer: np.full((len(read), len(columns)), np.nan) for scorer in scorers}
        for row, (places, scores) in enumerate(read):
            for scorer, values in scores.items():
                self.scores[scorer][row] = _by_column(values, places, len(columns))

    def scorer(self, metric: str) -> str | None:
        """The scorer of a metric, by the metric's name in an evaluation.

        Such a name is ``match``, ``match/accuracy`` or, with a single scorer, ``accuracy``.
        """
        for one in self.evaluations:
            if (recorded := one.scorer_of(metric)) in self.scores:
                return recorded
        fitting = [
            scorer for scorer in self.scores if metric == scorer or metric.startswith(f"{scorer}/")
        ]
        if not fitting and any(metric in one.metrics for one in self.evaluations):
            fitting = list(self.scores)
        if len(fitting) > 1:
            fitting = [
                scorer
                for scorer in fitting
                if not self.differing(metric, scorer, range(len(self.evaluations)))
            ] or fitting
        return max(fitting, key=len) if fitting else None

    def differing(
        self, metric: str, scorer: str, rows: Iterable[int]
    ) -> tuple[float, float] | None:
        """The first value of ``metric`` that differs from its items' mean score, and that mean."""
        import numpy as np

        for row in rows:
            reported, scores = self.evaluations[row].metrics.get(metric), self.scores[scorer][row]
            scored = np.isfinite(scores)
            mean = float(scores[scored].sum()) / max(int(scored.sum()), 1)
            if reported is not None and not math.isclose(
                reported, mean, rel_tol=1e-3, abs_tol=1e-3
            ):
                return reported, mean
        return None

    def clusters(self, key: str | None) -> npt.NDArray[np.int64] | None:
        """The items' clusters by their metadata ``key``; an item without it is a cluster itself."""
        import numpy as np

        if key is None:
            return None
        if self.metadata and not any(key in about for about in self.metadata):
            valid = {name for about in self.metadata for name in about}
            raise ConfigError(
                "cluster",
                key,
                f"no such key in the metadata of {self.name}'s samples; {choices(key, valid)}",
            )
        labels: dict[str, int] = {}
        names = (
            level_text(about[key]) if key in about else f"\0{item}"
            for item, about in enumerate(self.metadata)
        )
        return np.array([labels.setdefault(name, len(labels)) for name in names])


def _numbers(samples: Samples) -> dict[str, npt.NDArray[np.float64]]:
    """Numbers by scorer, NaN where there is none."""
    import numpy as np

    numbers = {}
    for scorer, values in samples.of_items.items():
        try:
            numbers[scorer] = np.array(values, dtype=float)
        except (TypeError, ValueError):
            numbers[scorer] = np.array([number(value) for value in values])
    return numbers


#: The same values as Inspect's ``value_to_float``.
_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def number(value: Any) -> float:
    """A score as a number, or NaN. Words of Inspect's scorers such as ``C`` are converted."""
    if isinstance(value, str):
        known = _VALUES.get(value, _VALUES.get(value.lower()) if len(value) > 1 else None)
        if known is not None:
            return known
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _by_column(
    values: npt.NDArray[np.float64], places: Sequence[int], items: int
) -> npt.NDArray[np.float64]:
    """The values in the items' columns; the mean over epochs where an item has several values."""
    import numpy as np

    there = np.isfinite(values)
    where = np.array(places)[there]
    with np.errstate(invalid="ignore"):
        return np.bincount(where, values[there], items) / np.bincount(where, minlength=items)


class FactoredSweep:
    """A sweep's trials by their factors, and the scores of its tasks."""

    def __init__(self, result: SweepResult) -> None:
        self.result = result
        self.treatments = {
            name: list(levels) for name, levels in (result.design.get("treatments") or {}).items()
        }
        parts = bundled(result.design)
        seen = {
            name: {level_text(level) for level in levels}
            for name, levels in self.treatments.items()
        }
        for trial in result.tuned:  # A later launch may have added levels.
            for name, level in trial.factors.items():
                if name not in parts and level_text(level) not in seen.setdefault(name, set()):
                    seen[name].add(level_text(level))
                    self.treatments.setdefault(name, []).append(level)
        self.levels = {
            trial.name: {name: level_text(level) for name, level in trial.factors.items()}
            for trial in result.trials
        }
        self.evals = {
            trial.name: {stage.task: stage for stage in trial.stages if stage.kind.scores}
            for trial in result.trials
        }
        self.runs: dict[str, int] = {}

    @cached_property
    def tasks(self) -> dict[str, TaskScores]:
        """All tasks by name."""
        stages: dict[str, dict[str, StageResult]] = {}
        for evals in self.evals.values():
            for task, stage in evals.items():
                stages.setdefault(task, {})[stage.key] = stage
        return {task: TaskScores(task, by_key.values()) for task, by_key in stages.items()}

    def metrics(self, name: str | None) -> list[Metric]:
        """The metric of that name, or all metrics; ``ConfigError`` if no metric has the name."""
        known = [
            Metric(f"{task.name}/{scorer}", task, scorer)
            for task in self.tasks.values()
            for scorer in task.scores
        ]
        if name is None:
            return known + [
                Metric(task.name, task, None) for task in self.tasks.values() if not task.scores
            ]
        for task in self.tasks.values():
            if name.startswith(f"{task.name}/"):
                scorer = task.scorer(name.removeprefix(f"{task.name}/"))
                if scorer is not None or not task.scores:
                    return [Metric(name, task, scorer)]
        raise ConfigError(
            "metric",
            name,
            f"not a metric of this sweep; {choices(name, [metric.name for metric in known])}",
        )

    def pairs(
        self, contrast: Contrast
    ) -> dict[tuple[str | None, ...], tuple[list[TrialResult], list[TrialResult]]]:
        """The trials of either side, by block: the levels of all other factors but the seed."""
        others = self.others(contrast)
        sides = [level_text(contrast.base), level_text(contrast.level)]
        at = {name: level_text(level) for name, level in contrast.at.items()}
        pairs: dict[tuple[str | None, ...], tuple[list[TrialResult], list[TrialResult]]] = {}
        for trial in self.result.tuned:
            levels = self.levels[trial.name]
            if any(levels.get(name) != level for name, level in at.items()):
                continue
            block = tuple(levels.get(name) for name in others)
            if contrast.factor == CONTROL:
                low, high = pairs.setdefault(block, ([], []))
                high.append(trial)
                if not low:
                    low += self.result.controls_of(trial)[:1]
            elif levels.get(contrast.factor) in sides:
                side = sides.index(levels[contrast.factor])
                pairs.setdefault(block, ([], []))[side].append(trial)
        return pairs

    def others(self, contrast: Contrast) -> list[str]:
        """The factors whose levels make the blocks of a contrast."""
        return [name for name in self.treatments if name not in (SEED, CONTROL, contrast.factor)]

    def run(self, trial: TrialResult) -> int:
        """A number for the fine-tune that the trial evaluates."""
        keys = [stage.key for stage in trial.stages if stage.kind.tunes]
        return self.runs.setdefault(keys[-1] if keys else trial.id, len(self.runs))
