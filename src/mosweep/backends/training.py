"""Protocols of fine-tuning: a training backend starts a run, and the run returns a model id.

They do not depend on trials, stages or the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from mosweep.datasets.jsonl import JSONLDataset

__all__ = ["RunStatus", "TrainingBackend", "TrainingRun"]

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@runtime_checkable
class TrainingRun(Protocol):
    """One fine-tuning job. It may outlive the process that started it."""

    @property
    def id(self) -> str:
        """The id that the backend gave the job."""
        ...

    @property
    def model_id(self) -> str | None:
        """The fine-tuned model, or ``None`` until the run has succeeded."""
        ...

    @property
    def status(self) -> RunStatus:
        """The state at the last ``refresh``."""
        ...

    async def refresh(self) -> RunStatus:
        """Poll the job and return its state."""
        ...

    async def wait(self) -> str:
        """Wait until the run ends and return the model id.

        Raises ``StageError``, with the log, if the run failed or was cancelled.
        """
        ...

    async def cancel(self) -> None:
        """Stop the run. Does nothing if it has ended."""
        ...

    async def save(self, path: Path) -> None:
        """Write a file from which ``load`` can attach to this run in another process."""
        ...

    @classmethod
    async def load(cls, path: Path) -> Self:
        """Attach to the run that ``save`` wrote."""
        ...


@runtime_checkable
class TrainingBackend(Protocol):
    """Starts fine-tuning jobs."""

    async def train(
        self,
        dataset: JSONLDataset,
        model: str,
        hyperparameters: Mapping[str, Any] | None = None,
        suffix: str | None = None,
    ) -> TrainingRun:
        """Start fine-tuning ``model`` on ``dataset``.

        Raises ``ConfigError`` for unknown hyperparameters.
        """
        ...
