"""Fine-tuning at OpenAI, supervised and DPO. A job is paid for once, whatever fails on our side.

A job's metadata hold the ``key`` that it was started for. Before a job is created, an active or
succeeded job with that key is looked up and used. So a restarted process or another machine finds
the job and does not pay for a second one. This also holds if OpenAI's answer was lost. A failed or
cancelled job is not used again: the next attempt is a new job with the next attempt number.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
import json
import random
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from mosweep.backends.openai.account import ATTEMPT, ENDED, FULL, KEY, Account
from mosweep.backends.training import RunStatus
from mosweep.core.errors import StageError, UserError
from mosweep.core.files import write_whole
from mosweep.core.providers import RemoteError
from mosweep.core.schema import between, build
from mosweep.datasets.jsonl import JSONLDataset, Sample
from mosweep.datasets.preferences import preference

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.fine_tuning import FineTuningJob

__all__ = [
    "CLOSING",
    "DPO",
    "Method",
    "OpenAIResult",
    "OpenAITrainingBackend",
    "OpenAITrainingRun",
    "Supervised",
    "training_file",
]

#: The end of OpenAI's fine-tuning, as announced (November 2026).
CLOSING = (
    "OpenAI is closing fine-tuning: since 2026-07-02 organisations without recent fine-tunes "
    "cannot start jobs, and from 2027-01-06 nobody can; "
    "fine-tunes of gpt-4o-mini, gpt-4.1 and gpt-4.1-mini retire on 2027-01-14"
)

Method = Literal["supervised", "dpo"]

#: Fewest samples that OpenAI fine-tunes on.
FEWEST = 10
#: Roles of messages that OpenAI fine-tunes on.
ROLES = ("system", "user", "assistant", "tool")
#: Longest suffix of a model name, in characters.
LONGEST_SUFFIX = 64
#: Greatest seed that OpenAI accepts.
GREATEST_SEED = 2**31 - 1
_STATUS: dict[str, RunStatus] = {
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


@dataclass(frozen=True)
class Supervised:
    """Hyperparameters of supervised fine-tuning. For ``None``, OpenAI chooses by the data."""

    n_epochs: int | None = field(default=None, metadata=between(ge=1, le=50))
    batch_size: int | None = field(default=None, metadata=between(ge=1, le=256))
    learning_rate_multiplier: float | None = field(default=None, metadata=between(gt=0))


@dataclass(frozen=True)
class DPO(Supervised):
    """Hyperparameters of direct preference optimisation (arXiv:2305.18290)."""

    beta: float | None = field(default=None, metadata=between(gt=0, le=2))


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
        """Poll the job, unless it is known to have ended."""
        if self.job is None or self.state not in ENDED:
            self._note(await (await self._account()).look(self.id))
        return self.status

    async def wait(self) -> str:
        """Wait until the job ends, print its progress, and return the model id.

        Raises ``StageError`` with OpenAI's reason if there is no model. Interrupting the wait does
        not affect the job.
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

        Results that OpenAI has deleted are left out, with a printed notice.
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
            print(f"not recorded: {error}")
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
            self._note(await (await self._account()).cancel(self.id))

    async def save(self, path: Path) -> None:
        """Write the job's id."""
        path.write_text(json.dumps({"job": self.id}) + "\n")

    @classmethod
    async def load(cls, path: Path, client: AsyncOpenAI | None = None) -> Self:
        """Attach to the job that ``save`` wrote, whatever its state."""
        run = cls(str(json.loads(path.read_text())["job"]), client=client)
        await run.refresh()
        return run

    def _note(self, job: FineTuningJob) -> None:
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
        """When OpenAI expects the job to end, while it runs."""
        if self.state != "running" or self.job is None or not self.job.estimated_finish:
            return ""
        return f", until about {datetime.fromtimestamp(self.job.estimated_finish):%Y-%m-%d %H:%M}"

    def _failure(self) -> str:
        error = self.job.error if self.job else None
        if self.state == "succeeded":
            return f"OpenAI: {self.id} succeeded but names no model"
        if self.state == "cancelled":
            return f"OpenAI: {self.id} was cancelled"
        return f"OpenAI: {self.id} failed: " + (
            f"{error.message} ({error.code})" if error and error.message else "no reason given"
        )


_HINTS = {
    "paused": ": resume it at OpenAI to continue",
    "validating_files": " at OpenAI",
    "queued": " at OpenAI",
}


@dataclass(frozen=True)
class OpenAITrainingBackend:
    """Starts jobs at OpenAI.

    - ``client``: by default one configured by ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``
    - ``key``: identifies the job, so that it is found again. Without a key every ``train`` starts
      a new job.
    - ``spent``: ids of jobs that were used before and are ignored now
    - ``intent``: a file that records the job before and after it is started. If it names a job, no
      search is needed.
    - ``poll_s``: seconds between polls of a job
    - ``patience_s``: seconds that OpenAI may be unreachable
    """

    client: AsyncOpenAI | None = None
    method: Method = "supervised"
    seed: int | None = None
    key: str | None = None
    spent: Collection[str] = ()
    intent: Path | None = None
    poll_s: float = 20.0
    patience_s: float | None = None

    async def train(
        self,
        dataset: JSONLDataset,
        model: str,
        hyperparameters: Mapping[str, Any] | None = None,
        suffix: str | None = None,
        validation: JSONLDataset | None = None,
    ) -> OpenAITrainingRun:
        """Start fine-tuning ``model`` on ``dataset``, or attach to the job that already does.

        Raises ``UserError`` for data that OpenAI would refuse, and ``ConfigError`` for
        hyperparameters that the method does not have.
        """
        settings = build(
            DPO if self.method == "dpo" else Supervised, hyperparameters or {}, "hyperparameters"
        )
        if suffix is not None and len(suffix) > LONGEST_SUFFIX:
            raise UserError(f"suffix {suffix!r}: must have at most {LONGEST_SUFFIX} characters")
        if self.seed is not None and not 0 <= self.seed <= GREATEST_SEED:
            raise UserError(f"seed {self.seed}: must be between 0 and {GREATEST_SEED}")
        contents = [
            training_file(data, self.method) for data in (dataset, validation) if data is not None
        ]
        return await self.train_on(contents, model, settings, suffix)

    async def train_on(
        self, contents: list[bytes], model: str, settings: Supervised, suffix: str | None = None
    ) -> OpenAITrainingRun:
        """``train`` with checked settings.

        ``contents``: of the training file and, optionally, of a validation file.
        """
        key = self.key or secrets.token_hex(32)
        known = self._intended(key)
        if (
            known
            and (job_id := known.get("job"))
            and job_id not in self.spent
            and (run := await self._attached(str(job_id)))
        ):
            return run
        account = await Account.of(self.client, self.patience_s)
        files: list[str] = []

        async def create(attempt: int) -> FineTuningJob:
            given = {name: value for name, value in asdict(settings).items() if value is not None}
            request: dict[str, Any] = {
                "model": model,
                "training_file": files[0],
                "method": {"type": self.method, self.method: {"hyperparameters": given}},
                "metadata": {KEY: key, ATTEMPT: str(attempt)},
            }
            optional = {
                "validation_file": files[1] if len(files) > 1 else None,
                "seed": self.seed,
                "suffix": suffix,
            }
            request |= {name: value for name, value in optional.items() if value is not None}
            self._intend(key, attempt, None)
            return await account.client.fine_tuning.jobs.create(**request)

        while True:
            files[:] = [await account.file(content) for content in contents]
            try:
                job, existing = await account.job(key, self.spent, create, known is not None)
                break
            except RemoteError as error:
                if error.failure.code != FULL:
                    raise
                print(f"{error}; waiting for another job to end")
                await asyncio.sleep(self.poll_s * random.uniform(0.75, 1.25))
        self._intend(key, int((job.metadata or {}).get(ATTEMPT, "1")), job.id)
        print(f"{job.id}: {'found; it was started before' if existing else 'started'}")
        return self._run(job)

    def _run(self, job: FineTuningJob) -> OpenAITrainingRun:
        run = OpenAITrainingRun(
            job.id, client=self.client, poll_s=self.poll_s, patience_s=self.patience_s
        )
        run._note(job)
        return run

    async def _attached(self, job_id: str) -> OpenAITrainingRun | None:
        """The run of the job that the intent names. ``None`` if it failed or does not exist."""
        try:
            job = await (await Account.of(self.client, self.patience_s)).look(job_id)
        except RemoteError as error:
            if error.failure.status != 404:
                raise
            return None
        if job.status in ("failed", "cancelled"):
            return None
        print(f"{job.id}: attached, it was started before")
        return self._run(job)

    def _intended(self, key: str) -> dict[str, Any] | None:
        """The content of the intent file, if it is for ``key``."""
        if self.intent is None or not self.intent.exists():
            return None
        try:
            known: dict[str, Any] = json.loads(self.intent.read_text())
        except ValueError:  # its writer was killed
            return None
        return known if known.get("key") == key else None

    def _intend(self, key: str, attempt: int, job: str | None) -> None:
        if self.intent is not None:
            intent = {"key": key, "attempt": attempt, "job": job}
            write_whole(self.intent, json.dumps(intent) + "\n")


def training_file(dataset: JSONLDataset, method: Method = "supervised") -> bytes:
    """``dataset`` in OpenAI's format. Raises ``UserError`` for a sample that OpenAI would refuse.

    The error names the sample.
    """
    if len(dataset) < FEWEST:
        raise UserError(f"the data set has {len(dataset)} samples; OpenAI needs at least {FEWEST}")
    rows = (
        dataset.to_openai_format()
        if method == "supervised"
        else [_preference(n, row) for n, row in enumerate(dataset, 1)]
    )
    for number, row in enumerate(rows, 1):
        messages = row["messages"] if method == "supervised" else row["input"]["messages"]
        for message in messages:
            if message["role"] not in ROLES:
                raise UserError(
                    f"sample {number}: OpenAI does not fine-tune on {message['role']} messages; "
                    f"valid roles: {', '.join(ROLES)}"
                )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _preference(number: int, row: Sample) -> dict[str, Any]:
    """A preference sample in OpenAI's format."""
    asked, chosen, rejected = preference(number, row)
    return {
        "input": {"messages": asked},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }


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
