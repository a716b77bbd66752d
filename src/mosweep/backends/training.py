"""What fine-tuning looks like, whoever does it: a backend starts a run, a run ends in a model
id.
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
    """One fine-tuning job. It goes on when the process that started it ends; ``load`` attaches to
    it again.
    """

    @property
    def id(self) -> str:
        """The job's identity with its backend."""
        ...

    @property
    def model_id(self) -> str | None:
        """The fine-tuned model once the run succeeded."""
        ...

    @property
    def status(self) -> RunStatus:
        """The state as of the last ``refresh``."""
        ...

    async def refresh(self) -> RunStatus:
        """Look at the job and return its state."""
        ...

    async def wait(self) -> str:
        """Wait until the run has ended; its model id. ``StageError``, with the log, if it failed or
        was cancelled.
        """
        ...

    async def cancel(self) -> None:
        """Stop the run; a no-op when it has ended."""
        ...

    async def save(self, path: Path) -> None:
        """Write what ``load`` needs to attach to this run from another process."""
        ...

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The run that ``save`` wrote."""
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
        """Start fine-tuning ``model`` on ``dataset``. Settings that the backend does not know are a
        ``ConfigError``.
        """
        ...
