"""Protocols of evaluation: an evaluation backend starts a job, and the job returns results.

They know nothing of trials, stages or the cache. A job that did not measure everything fails.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from mosweep.core.facts import ScorerFacts

if TYPE_CHECKING:
    import pandas

__all__ = ["EvalBackend", "EvalJob", "EvalResults", "EvalStatus", "write_samples"]

EvalStatus = Literal["running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class EvalResults:
    """What an evaluation measured.

    - ``metrics``: ``{task: {metric: value}}``, with ``n`` (scored samples) and the task's own
      ``stderr``
    - ``samples``: a mapping for each item and epoch with ``task, id, epoch, input, target, output,
      scores {scorer: value or None}, metadata``
    - ``logs``: the path of each task's log
    - ``scorers``: for each task, which scorer measured what
    - ``usage``: ``{model: {"input_tokens", "output_tokens"}}`` of all models, judges included
    """

    model_id: str
    metrics: Mapping[str, Mapping[str, float]]
    samples: Sequence[Mapping[str, Any]] = ()
    logs: Mapping[str, str] | None = None
    usage: Mapping[str, Mapping[str, int]] | None = None
    scorers: Mapping[str, Sequence[ScorerFacts]] = field(default_factory=dict)

    def summary(self) -> pandas.DataFrame:
        """A table of ``model_id, task, metric, value`` with one row for each task and metric."""
        import pandas as pd

        rows = [
            (self.model_id, task, name, value)
            for task, metrics in self.metrics.items()
            for name, value in metrics.items()
        ]
        return pd.DataFrame(rows, columns=["model_id", "task", "metric", "value"])

    async def save(self, path: str | Path) -> None:
        """Write the results as one JSON file."""
        text = json.dumps(asdict(self), ensure_ascii=False)
        import asyncio

        await asyncio.to_thread(Path(path).write_text, text, encoding="utf-8")

    @classmethod
    async def load(cls, path: str | Path) -> Self:
        """The results that ``save`` wrote."""
        import asyncio

        data = json.loads(await asyncio.to_thread(Path(path).read_text, encoding="utf-8"))
        scorers = {
            task: [ScorerFacts(**one) for one in found]
            for task, found in data.pop("scorers", {}).items()
        }
        return cls(**data, scorers=scorers)


def write_samples(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write per-item results as JSONL. ``core.samples`` reads them."""
    path.write_text(
        "".join(json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples),
        encoding="utf-8",
    )


@runtime_checkable
class EvalJob(Protocol):
    """One evaluation of one model."""

    @property
    def status(self) -> EvalStatus:
        """The state of the job."""
        ...

    async def wait(self) -> EvalResults:
        """The results. Raises ``StageError``, with the log, unless the job fully succeeded."""
        ...

    async def cancel(self) -> None:
        """Stop the job. Does nothing if it has ended."""
        ...

    async def save(self, path: Path) -> None:
        """Wait, then write the job and its results."""
        ...

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The job that ``save`` wrote."""
        ...


@runtime_checkable
class EvalBackend(Protocol):
    """Starts evaluations."""

    async def evaluate(
        self,
        model_id: str,
        eval_suite: str | Sequence[str],
        *,
        task_args: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> EvalJob:
        """Start evaluating ``model_id`` on the tasks of ``eval_suite``."""
        ...
