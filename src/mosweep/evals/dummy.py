"""Pretended evaluation: per-item scores that depend on nothing but names, so that everything downstream can be tried instantly."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mosweep.core.errors import ConfigError
from mosweep.evals.base import EvalResults, EvalStatus

__all__ = ["DummyEvalBackend", "DummyEvalJob"]


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
    """Scores ``items`` items per task between 0 and 1.

    The model's level is ``mean`` (by default a number between 0.2 and 0.8 that follows from its name) plus ``shift`` plus noise of
    ``seed_sd`` that follows from model and ``seed``; each item adds a difficulty that is the same for all models and noise of its
    own, together of ``item_sd``. All are standard deviations on the scale of the score.
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
            rows = self._task(model_id, task, json.dumps(task_args or {}, sort_keys=True, default=str))
            values = [row["scores"]["dummy"] for row in rows]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            metrics[task] = {"accuracy": statistics.fmean(values), "stderr": error, "n": float(len(values))}
            samples += rows
        return DummyEvalJob(EvalResults(model_id, metrics, samples))

    def _task(self, model_id: str, task: str, arguments: str) -> list[dict[str, Any]]:
        own = random.Random(f"model|{model_id}|{task}|{arguments}")
        level = self.mean if self.mean is not None else own.uniform(0.2, 0.8)
        level += self.shift + random.Random(f"seed|{model_id}|{self.seed}").gauss(0, 1) * self.seed_sd
        rows = []
        for item in range(self.items):
            shared = random.Random(f"item|{task}|{arguments}|{item}").gauss(0, 1)
            score = level + self.item_sd * (0.5**0.5) * (shared + own.gauss(0, 1))
            rows.append(
                {
                    "task": task,
                    "id": item,
                    "epoch": 1,
                    "input": f"dummy item {item}",
                    "target": "",
                    "output": "",
                    "scores": {"dummy": min(1.0, max(0.0, score))},
                    "metadata": {"dummy": True},
                }
            )
        return rows
