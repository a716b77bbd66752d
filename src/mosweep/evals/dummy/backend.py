"""Pretended evaluation: per-item scores that depend on nothing but names, so that everything
downstream can be tried instantly.
"""

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
    """An evaluation that is over before it began."""

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

    The model's level is ``mean`` (by default a number between 0.2 and 0.8 that follows from its
    name) plus ``shift`` plus noise of ``seed_sd`` that follows from model and ``seed``; each item
    adds a difficulty that is the same for all models and noise of its own, together of ``item_sd``.
    All are standard deviations on the scale of the score.
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
        """Pretend to evaluate. ``task_args`` enter the draw, ``model_args`` do not."""
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
    """The pretended scores of ``model`` on the items of ``task``, normal around ``mean`` with
    standard deviation ``item_sd``.

    Half of the variance is the item's difficulty, the same for all models, so that paired
    comparisons gain what they gain in reality; half is the model's own. Scores are not clipped, so
    that they are exactly normal.
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
    """The mean of ``scores`` as metric ``score``, and its standard error s/√n with the n-1
    denominator (0 for a single score).
    """
    n = len(scores)
    mean = math.fsum(scores) / n
    variance = math.fsum((score - mean) ** 2 for score in scores) / (n - 1) if n > 1 else 0.0
    return {SCORE: mean, "stderr": math.sqrt(variance / n)}
