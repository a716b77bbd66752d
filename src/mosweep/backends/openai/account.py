"""Calls to OpenAI's API: files, and fine-tuning jobs with their events, checkpoints and results.

All calls share one retry policy. The client reads the API key from ``OPENAI_API_KEY`` and the
address from ``OPENAI_BASE_URL``. This module does not depend on stages.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mosweep.core import fingerprint
from mosweep.core.errors import MissingExtra, UserError
from mosweep.core.providers import Failure, Policy, RemoteError, retry_after

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import FileObject
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
    from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

__all__ = ["ATTEMPT", "ENDED", "FULL", "KEY", "Account", "failure_of", "usable"]

T = TypeVar("T")

#: Metadata of a job: the key of its stage.
KEY = "mosweep_key"
#: Metadata of a job: the number of the attempt, starting at 1.
ATTEMPT = "mosweep_attempt"
#: Final states of a job.
ENDED = ("succeeded", "failed", "cancelled")
#: ``Failure.code`` of an organisation that has reached its limit of active jobs.
FULL = "too_many_active_jobs"
#: Timeout of a request, in seconds.
TIMEOUT_S = 120.0


@dataclass
class Account:
    """The API for one event loop: a client without its own retries, and the retry policy."""

    client: AsyncOpenAI
    policy: Policy
    _files: dict[str, asyncio.Task[str]] = field(default_factory=dict, repr=False)

    @classmethod
    async def of(
        cls, client: AsyncOpenAI | None = None, patience_s: float | None = None
    ) -> Account:
        """The running event loop's account for ``client``, shared by all callers with that client.

        ``None`` stands for a client configured by the environment. ``patience_s``, if set,
        replaces the patience of the shared policy.
        """
        name = (asyncio.get_running_loop(), None if client is None else id(client))
        if name not in _accounts:
            own = _client() if client is None else client.with_options(max_retries=0)
            lifetime = _lifetime(name, cls(own, Policy("OpenAI", failure_of)), client is None)
            _accounts[name] = (await anext(lifetime), lifetime, client)
        account = _accounts[name][0]
        account.policy.patience_s = patience_s or account.policy.patience_s
        return account

    async def ask(
        self, what: str, request: Callable[[], Awaitable[T]], patience_s: float | None = None
    ) -> T:
        """The answer to ``request``; see ``Policy.call``."""
        return await self.policy.call(what, request, patience_s=patience_s)

    async def file(self, content: bytes) -> str:
        """The id of the training file with ``content``. Each content is uploaded only once."""
        name = f"mosweep-{fingerprint.digest_bytes(content)[:40]}.jsonl"
        task = self._files.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._files[name] = asyncio.create_task(self._file(name, content))
        return await asyncio.shield(task)

    async def _file(self, name: str, content: bytes) -> str:
        async def uploaded() -> FileObject | None:
            page = await self.client.files.list(purpose="fine-tune")
            while True:
                for file in page.data:
                    if file.filename == name and file.status != "error":
                        return file
                if not page.has_next_page():
                    return None
                await self.policy.opened()
                page = await page.get_next_page()

        def upload() -> Awaitable[FileObject]:
            return self.client.files.create(
                file=(name, content), purpose="fine-tune", timeout=10 * TIMEOUT_S
            )

        file, requests = await self.policy.find_or_make("the training file", uploaded, upload)
        size = f"{len(content):,} bytes uploaded" if requests else "already uploaded"
        print(f"{file.id}: training file, {size}")
        return file.id

    async def jobs(self, key: str | None = None) -> list[FineTuningJob]:
        """All jobs for ``key``, or all jobs that mosweep started. Call it through ``ask``."""
        ours: list[FineTuningJob] = []
        listed = self.client.fine_tuning.jobs.list
        page = await (listed(limit=100) if key is None else listed(metadata={KEY: key}, limit=100))
        while True:
            ours += [
                job
                for job in page.data
                if KEY in (job.metadata or {}) and key in (None, (job.metadata or {})[KEY])
            ]
            if not page.has_next_page():
                return ours
            await self.policy.opened()
            page = await page.get_next_page()

    async def job(
        self,
        key: str,
        spent: Iterable[str],
        create: Callable[[int], Awaitable[FineTuningJob]],
        requested_before: bool = False,
    ) -> tuple[FineTuningJob, bool]:
        """The active or succeeded job for ``key`` and True, or a new job and False.

        ``create(attempt)`` creates a new job. Jobs in ``spent`` are ignored. ``requested_before``:
        an earlier process requested the job and did not receive the answer.
        """
        ignored, attempt = frozenset(spent), 1

        async def candidates() -> list[FineTuningJob]:
            nonlocal attempt
            jobs = await self.jobs(key)
            attempt = 1 + max(
                (int((job.metadata or {}).get(ATTEMPT, "0")) for job in jobs), default=0
            )
            return usable(jobs, ignored)

        async def first() -> FineTuningJob | None:
            return next(iter(await candidates()), None)

        before = int(requested_before)
        job, requests = await self.policy.find_or_make(
            "the job", first, lambda: create(attempt), before
        )
        # An earlier request without an answer may have created a job too.
        if requests > 1 and requests > before:
            others = [
                other
                for other in await self.ask("listing its jobs", candidates)
                if other.id != job.id
            ]
            job, *duplicates = sorted([job, *others], key=_preference)
            for duplicate in duplicates:
                if duplicate.status not in ENDED:
                    await self.cancel(duplicate.id)
                    print(f"{duplicate.id}: cancelled, a duplicate of {job.id}")
        return job, requests == before

    async def poll(self, job_id: str) -> FineTuningJob:
        """The current state of the job."""
        return await self.ask(
            f"polling {job_id}", lambda: self.client.fine_tuning.jobs.retrieve(job_id)
        )

    async def cancel(self, job_id: str) -> FineTuningJob:
        """Cancel the job unless it has ended, and return its state."""
        try:
            return await self.ask(
                f"cancelling {job_id}", lambda: self.client.fine_tuning.jobs.cancel(job_id)
            )
        except RemoteError:
            job = await self.poll(job_id)
            if job.status not in ENDED:
                raise
            return job

    async def events(self, job_id: str, seen: str | None) -> list[FineTuningJobEvent]:
        """Events of the job after the event ``seen``, oldest first. At most the latest 100."""

        async def latest() -> list[FineTuningJobEvent]:
            return (await self.client.fine_tuning.jobs.list_events(job_id, limit=100)).data

        new: list[FineTuningJobEvent] = []
        for event in await self.ask(f"events of {job_id}", latest):
            if event.id == seen:
                break
            new.insert(0, event)
        return new

    async def checkpoints(self, job_id: str) -> list[FineTuningJobCheckpoint]:
        """The job's checkpoints, by step."""

        async def latest() -> list[FineTuningJobCheckpoint]:
            return (await self.client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)).data

        return sorted(
            await self.ask(f"checkpoints of {job_id}", latest),
            key=lambda checkpoint: checkpoint.step_number,
        )

    async def content(self, file_id: str) -> bytes:
        """The content of a file."""

        async def whole() -> bytes:
            return await (await self.client.files.content(file_id)).aread()

        return await self.ask(f"reading {file_id}", whole)


_Name = tuple[asyncio.AbstractEventLoop, int | None]
_accounts: dict[_Name, tuple[Account, AsyncGenerator[Account, None], AsyncOpenAI | None]] = {}


async def _lifetime(name: _Name, account: Account, owned: bool) -> AsyncGenerator[Account, None]:
    """Yield the account and clean up when its loop closes this suspended generator."""
    try:
        yield account
    finally:
        del _accounts[name]
        if owned:
            await account.client.close()


def _client() -> AsyncOpenAI:
    try:
        from openai import AsyncOpenAI
    except ModuleNotFoundError as error:
        raise MissingExtra("openai", "openai", "backend=openai") from error
    if not os.environ.get("OPENAI_API_KEY"):
        raise UserError(
            "backend=openai needs the API key of your OpenAI account: OPENAI_API_KEY is not set"
        )
    return AsyncOpenAI(max_retries=0, timeout=TIMEOUT_S)


def usable(jobs: list[FineTuningJob], spent: frozenset[str] = frozenset()) -> list[FineTuningJob]:
    """Jobs that have produced a model or still may. The preferred job comes first."""
    return sorted(
        (job for job in jobs if job.status not in ("failed", "cancelled") and job.id not in spent),
        key=_preference,
    )


def _preference(job: FineTuningJob) -> tuple[bool, int, str]:
    """Sort key: succeeded jobs first, then the oldest. Every process chooses the same job."""
    return job.status != "succeeded", job.created_at, job.id


def failure_of(error: BaseException) -> Failure | None:
    """How to handle an exception of OpenAI's library. ``None`` for any other exception."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _from_status(error.status_code, error.response.headers, error.body, error.message)
    if isinstance(error, openai.APITimeoutError):
        return Failure("no answer in time", again=True, unsure=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        shown = f"{type(cause).__name__}: {cause}".rstrip(": ") if cause else str(error)
        return Failure(f"the connection was lost ({_line(shown)})", again=True, unsure=True)
    if isinstance(error, openai.OpenAIError):
        return Failure(_line(str(error)), again=isinstance(error, openai.APIError), unsure=True)
    return None


def _from_status(status: int, headers: Mapping[str, str], body: Any, message: str) -> Failure:
    details = body if isinstance(body, Mapping) else {}
    code, param = (str(details[name]) if details.get(name) else None for name in ("code", "param"))
    text = str(details.get("message") or message)
    if status == 401:
        text = "OpenAI rejects the key in OPENAI_API_KEY"
    full = status == 429 and re.search(r"maximum of \d+ active", text) is not None
    permanent = status == 429 and (full or code == "insufficient_quota")
    advice = headers.get("x-should-retry")
    again = not permanent and (
        advice == "true" or (advice != "false" and (status in (408, 409, 429) or status >= 500))
    )
    wait_s = retry_after(headers)
    return Failure(
        _line(f"{status} {code or ''}: {text}".replace(" :", ":")),
        again=again,
        wait_s=wait_s,
        limited=again and (status == 429 or wait_s is not None),
        unsure=status in (408, 409) or status >= 500,
        status=status,
        code=FULL if full else code,
        param=param,
    )


def _line(text: str) -> str:
    """``text`` on one line, with API keys removed."""
    text = re.sub(r"\bsk-[\w*-]+", "sk-…", " ".join(text.split()))
    return text if len(text) <= 300 else text[:299] + "…"
