"""Simulated evaluation: instant per-item scores that depend only on names."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mosweep.core.errors import ConfigError
from mosweep.evals.base import EvalResults, EvalStatus

__all__ = ["SCORE", "DummyEvalBackend", "DummyEvalJob", "draw", "mean_and_stderr"]

#: Name of the scorer and of its metric.
SCORE = "score"


@dataclass
class DummyEvalJob:
    """An evaluation that has its results from the start."""

    results: EvalResults
    status: EvalStatus = "succeeded"

    async def wait(self) -> EvalResults:
        """The results."""
        return self.results

    async def cancel(self) -> None:
        """Nothing to stop."""

    async def save(self, path: Path) -> None:
        """Write the results."""
        await self.results.save(path)

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The job that ``save`` wrote."""
        return cls(await EvalResults.load(path))


@dataclass(frozen=True)
class DummyEvalBackend:
    """Scores ``items`` items per task.

    The model's level is ``mean`` plus ``shift`` plus noise with the standard deviation ``seed_sd``.
    By default ``mean`` is a number between 0.2 and 0.8, derived from the model's name. The noise is
    derived from the name and ``seed``. Each item adds a difficulty, which is the same for all
    models, and its own noise. Together they have the standard deviation ``item_sd``.
    """

    items: int = 100
    mean: float | None = None
    shift: float = 0.0
    item_sd: float = 0.1
    seed_sd: float = 0.0
    seed: int = 0

    async def evaluate(
        self,
        model_id: str,
        eval_suite: str | Sequence[str],
        *,
        task_args: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> DummyEvalJob:
        """Draw scores. They depend on ``task_args``, but not on ``model_args``."""
        if self.items < 1:
            raise ConfigError("items", self.items, "must be ≥ 1")
        suite = [eval_suite] if isinstance(eval_suite, str) else list(eval_suite)
        metrics, samples = {}, []
        for task in suite:
            arguments = json.dumps(task_args or {}, sort_keys=True, default=str)
            scores = draw(
                model_id,
                f"{task} {arguments}",
                self.items,
                self._level(model_id, task),
                self.item_sd,
            )
            metrics[task] = {**mean_and_stderr(scores), "n": float(len(scores))}
            samples += [
                {
                    "task": task,
                    "id": item,
                    "epoch": 1,
                    "scores": {SCORE: score},
                    "metadata": {"dummy": True},
                }
                for item, score in enumerate(scores, 1)
            ]
        return DummyEvalJob(EvalResults(model_id, metrics, samples))

    def _level(self, model_id: str, task: str) -> float:
        level = (
            random.Random(f"model|{model_id}|{task}").uniform(0.2, 0.8)
            if self.mean is None
            else self.mean
        )
        return (
            level
            + self.shift
            + random.Random(f"seed|{model_id}|{self.seed}").gauss(0, 1) * self.seed_sd
        )


def draw(model: str, task: str, items: int, mean: float, item_sd: float) -> list[float]:
    """Simulated scores of ``model`` on ``task``: normal, with ``mean`` and ``item_sd``.

    Half of the variance is the item's difficulty, which is the same for all models, so paired
    comparisons gain as they do on real data. The other half is the model's own. Scores are not
    clipped, so they are exactly normal.
    """
    own = random.Random(f"{model}|{task}").gauss
    spread = item_sd * math.sqrt(0.5)
    return [
        round(mean + spread * (difficulty + own(0.0, 1.0)), 6)
        for difficulty in _difficulties(task, items)
    ]


@functools.lru_cache(maxsize=64)
def _difficulties(task: str, items: int) -> tuple[float, ...]:
    shared = random.Random(f"items|{task}").gauss
    return tuple(shared(0.0, 1.0) for _ in range(items))


def mean_and_stderr(scores: Sequence[float]) -> dict[str, float]:
    """The mean as metric ``score``, and its standard error s/√n with the n-1 denominator.

    The standard error of a single score is 0.
    """
    n = len(scores)
    mean = math.fsum(scores) / n
    variance = math.fsum((score - mean) ** 2 for score in scores) / (n - 1) if n > 1 else 0.0
    return {SCORE: mean, "stderr": math.sqrt(variance / n)}
