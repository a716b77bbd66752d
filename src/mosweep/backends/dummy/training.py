"""Simulated fine-tuning: instant and deterministic, with the failure modes of real training."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from mosweep.backends.training import RunStatus
from mosweep.core import fingerprint
from mosweep.core.errors import StageError

if TYPE_CHECKING:
    from mosweep.datasets.jsonl import JSONLDataset

__all__ = ["DummyTrainingBackend", "DummyTrainingRun", "Failure"]

#: Failure modes: raise an error, exit, be killed as if out of memory, or hang.
Failure = Literal["none", "raise", "exit", "oom", "hang"]


@dataclass
class DummyTrainingRun:
    """A run that takes ``delay_s`` seconds from the first ``wait`` and then fails.

    ``fail`` is the failure mode. With ``fail="none"`` it succeeds.
    """

    id: str
    model_id: str | None
    delay_s: float = 0.0
    fail: Failure = "none"
    status: RunStatus = "running"

    async def refresh(self) -> RunStatus:
        """The state. Without a delay or failure, the first poll finds that the run succeeded."""
        if self.status == "running" and self.fail == "none" and self.delay_s == 0:
            self.status = "succeeded"
        return self.status

    async def wait(self) -> str:
        """The model id, after ``delay_s``. Raises ``StageError`` after a failure or ``cancel``."""
        if self.status == "running":
            await _pause(self.delay_s)
            await _fail(self)
            if self.status == "running":  # not cancelled in the meantime
                self.status = "succeeded"
        if self.status != "succeeded" or self.model_id is None:
            problem = "fail=raise" if self.fail == "raise" else self.status
            raise StageError(f"dummy fine-tuning {self.id} failed: {problem}")
        return self.model_id

    async def cancel(self) -> None:
        """Stop the run."""
        if self.status in ("queued", "running"):
            self.status = "cancelled"

    async def save(self, path: Path) -> None:
        """Write the run as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The run that ``save`` wrote."""
        return cls(**json.loads(path.read_text()))


@dataclass(frozen=True)
class DummyTrainingBackend:
    """Trains nothing. Model ids start with ``dummy/``.

    They end with a digest of data, model and hyperparameters.
    """

    delay_s: float = 0.0
    fail: Failure = "none"

    async def train(
        self,
        dataset: JSONLDataset,
        model: str,
        hyperparameters: Mapping[str, Any] | None = None,
        suffix: str | None = None,
    ) -> DummyTrainingRun:
        """Start a simulated run."""
        key = fingerprint.fingerprint(
            {"data": dataset.digest, "model": model, "hyperparameters": dict(hyperparameters or {})}
        )
        name = "-".join(part for part in (model.rsplit("/", 1)[-1], suffix, key[:12]) if part)
        return DummyTrainingRun(f"dummy-{key[:12]}", f"dummy/{name}", self.delay_s, self.fail)


async def _pause(seconds: float) -> None:
    if seconds:
        import asyncio

        await asyncio.sleep(seconds)


async def _fail(run: DummyTrainingRun) -> None:
    match run.fail:
        case "raise":
            run.status = "failed"
        case "exit":
            os._exit(3)
        case "oom":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            while run.status == "running":
                await _pause(0.05)
        case "none":
            pass
