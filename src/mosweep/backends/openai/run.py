"""A fine-tuning job at OpenAI: its status, its progress and its result."""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mosweep.backends.openai.account import ENDED, Account
from mosweep.backends.training import RunStatus
from mosweep.core.errors import StageError
from mosweep.core.providers import RemoteError

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.fine_tuning import FineTuningJob

__all__ = ["OpenAIResult", "OpenAITrainingRun"]

_STATUS: dict[str, RunStatus] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
_HINTS = {
    "paused": ": resume it at OpenAI to continue",
    "validating_files": " at OpenAI",
    "queued": " at OpenAI",
}


@dataclass(frozen=True)
class OpenAIResult:
    """What OpenAI reports of a finished job.

    - ``settings``: the hyperparameters that it used
    - ``losses``: step and training loss
    - ``checkpoints``: step, model id and loss of the checkpoints that OpenAI keeps
    - ``trained_tokens``: the billed tokens
    """

    base: str
    seed: int | None
    settings: Mapping[str, Any]
    losses: tuple[tuple[int, float], ...]
    checkpoints: tuple[Mapping[str, Any], ...]
    trained_tokens: int | None
    created: int
    finished: int | None


@dataclass
class OpenAITrainingRun:
    """A fine-tuning job. ``state`` is OpenAI's name for its status.

    ``wait`` polls it every ``poll_s`` seconds.
    """

    id: str
    status: RunStatus = "queued"
    model_id: str | None = None
    state: str = "validating_files"
    client: AsyncOpenAI | None = field(default=None, repr=False)
    poll_s: float = 20.0
    patience_s: float | None = None
    job: FineTuningJob | None = field(default=None, repr=False)
    _seen: str | None = field(default=None, repr=False)

    async def _account(self) -> Account:
        return await Account.of(self.client, self.patience_s)

    async def refresh(self) -> RunStatus:
        """Poll the job unless it has ended."""
        if self.job is None or self.state not in ENDED:
            self.note(await (await self._account()).poll(self.id))
        return self.status

    async def wait(self) -> str:
        """Wait until the job ends, print its progress, and return the model id.

        Raises ``StageError`` with OpenAI's reason if there is no model. The job continues if the
        wait is interrupted.
        """
        pause, shown = min(1.0, self.poll_s), ""
        while True:
            await self.refresh()
            if self.state != shown:
                shown = self.state
                print(
                    f"{self.id}: {shown.replace('_', ' ')}{_HINTS.get(shown, '')}{self._expected()}"
                )
            if self.state in ENDED:
                break
            if self.state == "running":
                await self._print_steps()
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(1.5 * pause, self.poll_s)
        if self.model_id is None:
            raise StageError(self._failure())
        return self.model_id

    async def result(self) -> OpenAIResult:
        """What OpenAI reports of the finished job.

        Prints a notice if OpenAI has deleted the results, and leaves them out.
        """
        await self.refresh()
        job, account = self.job, await self._account()
        assert job is not None
        losses: tuple[tuple[int, float], ...] = ()
        checkpoints: list[Mapping[str, Any]] = []
        try:
            for file in job.result_files:
                losses += _losses(await account.content(file))
            for checkpoint in await account.checkpoints(job.id):
                model, loss = checkpoint.fine_tuned_model_checkpoint, checkpoint.metrics.train_loss
                checkpoints.append(
                    {"step": checkpoint.step_number, "model_id": model, "loss": loss}
                )
        except RemoteError as error:
            if error.failure.status != 404:
                raise
            print(f"results not recorded: {error}")
        method = getattr(job.method, job.method.type, None) if job.method else None
        settings = (method and method.hyperparameters) or job.hyperparameters
        return OpenAIResult(
            base=job.model,
            seed=job.seed,
            settings={
                name: value for name, value in settings.to_dict().items() if value is not None
            },
            losses=losses,
            checkpoints=tuple(checkpoints),
            trained_tokens=job.trained_tokens,
            created=job.created_at,
            finished=job.finished_at,
        )

    async def cancel(self) -> None:
        """Cancel the job. Does nothing if it has ended."""
        if await self.refresh() in ("queued", "running"):
            self.note(await (await self._account()).cancel(self.id))

    async def save(self, path: Path) -> None:
        """Write the job's id."""
        path.write_text(json.dumps({"job": self.id}) + "\n")

    @classmethod
    async def load(cls, path: Path, client: AsyncOpenAI | None = None) -> Self:
        """Attach to the job that ``save`` wrote, in any state."""
        run = cls(str(json.loads(path.read_text())["job"]), client=client)
        await run.refresh()
        return run

    def note(self, job: FineTuningJob) -> None:
        """Update the status from OpenAI's answer."""
        self.job, self.state = job, str(job.status)
        started = self.state in ("running", "pausing", "paused")
        self.status = _STATUS.get(self.state, "running" if started else "queued")
        self.model_id = job.fine_tuned_model if self.state == "succeeded" else None

    async def _print_steps(self) -> None:
        for event in await (await self._account()).events(self.id, self._seen):
            self._seen = event.id
            data = event.data if isinstance(event.data, dict) else {}
            if event.type == "metrics" and "step" in data:
                total, loss = data.get("total_steps"), data.get("train_loss")
                of = f" of {total}" if total else ""
                print(
                    f"step {data['step']}{of}"
                    + (f": loss {loss:.4g}" if isinstance(loss, int | float) else "")
                )

    def _expected(self) -> str:
        """The expected end of a running job, as a suffix for a message."""
        if self.state != "running" or self.job is None or not self.job.estimated_finish:
            return ""
        return f", until about {datetime.fromtimestamp(self.job.estimated_finish):%Y-%m-%d %H:%M}"

    def _failure(self) -> str:
        error = self.job.error if self.job else None
        if self.state == "succeeded":
            return f"OpenAI: {self.id} succeeded without a model name"
        if self.state == "cancelled":
            return f"OpenAI: {self.id} was cancelled"
        return f"OpenAI: {self.id} failed: " + (
            f"{error.message} ({error.code})" if error and error.message else "no reason given"
        )


def _losses(content: bytes) -> tuple[tuple[int, float], ...]:
    """Step and training loss from a result file: CSV, plain or base64-encoded."""
    try:
        text = base64.b64decode(content, validate=True).decode()
    except (binascii.Error, ValueError):
        text = content.decode()
    rows = csv.DictReader(io.StringIO(text))
    return tuple(
        (int(float(row["step"])), float(row["train_loss"]))
        for row in rows
        if row.get("step") and row.get("train_loss")
    )
