"""Start supervised and DPO fine-tuning jobs at OpenAI. Each job is paid for once.

A job's metadata contain its ``key``. Before it creates a job, the backend looks for an active or
succeeded job with that key and uses it. So a restarted process or another machine does not pay for
a second job, even if OpenAI's answer was lost. A failed or cancelled job is not reused: the next
attempt is a new job with the next attempt number.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mosweep.backends.openai.account import ATTEMPT, FULL, KEY, Account
from mosweep.backends.openai.run import OpenAITrainingRun
from mosweep.core.errors import UserError
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
    "OpenAITrainingBackend",
    "Supervised",
    "refusal",
    "training_file",
]

#: The end of OpenAI's fine-tuning, as announced (November 2026).
CLOSING = (
    "OpenAI is closing fine-tuning: since 2026-07-02 organisations without recent fine-tunes "
    "cannot start jobs, and from 2027-01-06 nobody can; "
    "fine-tunes of gpt-4o-mini, gpt-4.1 and gpt-4.1-mini retire on 2027-01-14"
)

Method = Literal["supervised", "dpo"]

#: The least number of samples that OpenAI accepts.
MIN_SAMPLES = 10
#: Roles of messages that OpenAI accepts.
ROLES = ("system", "user", "assistant", "tool")
#: Maximum length of a model name's suffix, in characters.
MAX_SUFFIX_LENGTH = 64
#: The greatest seed that OpenAI accepts.
MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class Supervised:
    """Hyperparameters of supervised fine-tuning. ``None``: OpenAI chooses by the data."""

    n_epochs: int | None = field(default=None, metadata=between(ge=1, le=50))
    batch_size: int | None = field(default=None, metadata=between(ge=1, le=256))
    learning_rate_multiplier: float | None = field(default=None, metadata=between(gt=0))


@dataclass(frozen=True)
class DPO(Supervised):
    """Hyperparameters of direct preference optimisation (arXiv:2305.18290)."""

    beta: float | None = field(default=None, metadata=between(gt=0, le=2))


@dataclass(frozen=True)
class OpenAITrainingBackend:
    """Starts jobs at OpenAI.

    - ``client``: by default one configured by ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL``
    - ``key``: identifies the job, so that a later call attaches to it. Without a key every
      ``train`` starts a new job.
    - ``spent``: ids of jobs to ignore, because they were used before
    - ``intent``: a file that records the job before and after the request. If it names a job, the
      backend attaches to that job without a search.
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

        Raises ``UserError`` for data that OpenAI would reject, and ``ConfigError`` for
        hyperparameters that the method does not have.
        """
        settings = build(
            DPO if self.method == "dpo" else Supervised, hyperparameters or {}, "hyperparameters"
        )
        if suffix is not None and len(suffix) > MAX_SUFFIX_LENGTH:
            raise UserError(f"suffix {suffix!r}: must have at most {MAX_SUFFIX_LENGTH} characters")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed {self.seed}: must be between 0 and {MAX_SEED}")
        contents = [
            training_file(data, self.method) for data in (dataset, validation) if data is not None
        ]
        return await self.train_on(contents, model, settings, suffix)

    async def train_on(
        self, contents: list[bytes], model: str, settings: Supervised, suffix: str | None = None
    ) -> OpenAITrainingRun:
        """``train`` with checked settings.

        ``contents``: the training file and, optionally, a validation file.
        """
        key = self.key or secrets.token_hex(32)
        known = self._read_intent(key)
        if (
            known
            and (job_id := known.get("job"))
            and job_id not in self.spent
            and (run := await self._attach(str(job_id)))
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
            self._write_intent(key, attempt, None)
            return await account.client.fine_tuning.jobs.create(**request)

        while True:
            files[:] = [await account.file(content) for content in contents]
            try:
                job, existing = await account.job(key, self.spent, create, known is not None)
                break
            except RemoteError as error:
                if error.failure.code != FULL:
                    raise
                print(f"{error}; waiting for a free slot")
                await asyncio.sleep(self.poll_s * random.uniform(0.75, 1.25))
        self._write_intent(key, int((job.metadata or {}).get(ATTEMPT, "1")), job.id)
        print(f"{job.id}: {'attached to a job started earlier' if existing else 'started'}")
        return self._run(job)

    def _run(self, job: FineTuningJob) -> OpenAITrainingRun:
        run = OpenAITrainingRun(
            job.id, client=self.client, poll_s=self.poll_s, patience_s=self.patience_s
        )
        run.note(job)
        return run

    async def _attach(self, job_id: str) -> OpenAITrainingRun | None:
        """The run of a job from the intent file. ``None`` if it failed or does not exist."""
        try:
            job = await (await Account.of(self.client, self.patience_s)).poll(job_id)
        except RemoteError as error:
            if error.failure.status != 404:
                raise
            return None
        if job.status in ("failed", "cancelled"):
            return None
        print(f"{job.id}: attached to a job started earlier")
        return self._run(job)

    def _read_intent(self, key: str) -> dict[str, Any] | None:
        """The intent file, if it is for ``key``."""
        if self.intent is None or not self.intent.exists():
            return None
        try:
            known: dict[str, Any] = json.loads(self.intent.read_text())
        except ValueError:  # the writer was killed
            return None
        return known if known.get("key") == key else None

    def _write_intent(self, key: str, attempt: int, job: str | None) -> None:
        if self.intent is not None:
            intent = {"key": key, "attempt": attempt, "job": job}
            write_whole(self.intent, json.dumps(intent) + "\n")


def refusal(row: Sample) -> str | None:
    """Why OpenAI does not take a chat, or ``None``."""
    return next(
        (
            f"OpenAI does not accept {message['role']} messages; valid roles: {', '.join(ROLES)}"
            for message in row["messages"]
            if message["role"] not in ROLES
        ),
        None,
    )


def training_file(dataset: JSONLDataset, method: Method = "supervised") -> bytes:
    """``dataset`` in OpenAI's format.

    Raises ``UserError`` for a sample that OpenAI would reject. The error contains its number.
    """
    if len(dataset) < MIN_SAMPLES:
        raise UserError(
            f"the data set has {len(dataset)} samples; OpenAI needs at least {MIN_SAMPLES}"
        )
    rows = (
        dataset.to_openai_format()
        if method == "supervised"
        else [_preference(n, row) for n, row in enumerate(dataset, 1)]
    )
    for number, row in enumerate(rows, 1):
        messages = row["messages"] if method == "supervised" else row["input"]["messages"]
        if problem := refusal({"messages": messages}):
            raise UserError(f"sample {number}: {problem}")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _preference(number: int, row: Sample) -> dict[str, Any]:
    """A preference sample in OpenAI's format."""
    prompt, chosen, rejected = preference(number, row)
    return {
        "input": {"messages": prompt},
        "preferred_output": chosen,
        "non_preferred_output": rejected,
    }
