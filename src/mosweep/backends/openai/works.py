"""The work of a fine-tuning stage at OpenAI, and the requests before and after it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mosweep.backends.openai.run import OpenAIResult
from mosweep.backends.openai.training import CLOSING, DPO, Method, Supervised
from mosweep.core.errors import ConfigError, UserError
from mosweep.core.facts import HostedAccess, ModelFacts, Usage
from mosweep.core.fingerprint import unkeyed
from mosweep.core.schema import build
from mosweep.core.work import FINETUNE, Artifact, Context, Kind, RemoteWork, Traits
from mosweep.cost.prices import facts as usage_facts
from mosweep.stages.data import TRAIN, data_folder, dataset_ref, training_content

if TYPE_CHECKING:
    from mosweep.backends.openai.account import Account
    from mosweep.core.providers import Failure


#: The data set's validation rows, which are not trained on.
VALIDATION = "validation.jsonl"
#: The id of a file that does not exist.
NO_FILE = "file-none"
#: Patience for requests at launch, in seconds.
LAUNCH_PATIENCE_S = 20.0

__all__ = ["OpenAIFinetune", "settings_of"]


_REQUIRES = {"openai": "openai", "tenacity": "openai"}


@dataclass(frozen=True)
class OpenAIFinetune(RemoteWork):
    """One fine-tuning job. ``model`` is OpenAI's name for the base model."""

    model: str
    method: Method
    settings: Mapping[str, Any]
    seed: int
    validation: bool
    suffix: str | None = field(metadata=unkeyed)
    max_concurrent: int = field(metadata=unkeyed)
    poll_s: float = field(metadata=unkeyed)
    patience_min: float = field(metadata=unkeyed)

    kind: ClassVar[Kind] = FINETUNE
    version: ClassVar[int] = 1
    provider: ClassVar[str] = "openai"
    outlives: ClassVar[bool] = True

    @property
    def traits(self) -> Traits:
        """Waits for OpenAI."""
        return Traits(requires=_REQUIRES, notice=CLOSING, provider=self.provider, remote=self)

    def reads(self, role: str, artifact: Artifact) -> Any:
        """Of the data set, only what is trained on, unless there is a validation file."""
        trains = role == "data" and not self.validation
        return training_content(artifact) if trains else artifact.digest

    def expected_usage(self, tokens: int) -> Usage | None:
        """``tokens · epochs`` trained tokens. ``None`` if OpenAI chooses the epochs."""
        epochs = self.settings.get("n_epochs")
        return epochs and Usage(self.provider, self.model, train_tokens=tokens * epochs)

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Fine-tune, or attach to an earlier job of this stage.

        Writes ``job.json``, which contains the job id.
        """
        from mosweep.backends.openai.training import OpenAITrainingBackend

        data = context.inputs["data"]
        folder = data_folder(data)
        names = [TRAIN, *([VALIDATION] if self.validation else [])]
        contents = [await _upload_content(folder / name, self.method) for name in names]
        intent = context.out / "job.json"
        if context.previous is not None and (context.previous / intent.name).exists():
            intent.write_bytes((context.previous / intent.name).read_bytes())
        backend = OpenAITrainingBackend(
            method=self.method,
            seed=self.seed,
            key=context.key,
            spent=context.spent,
            intent=intent,
            poll_s=self.poll_s,
            patience_s=60 * self.patience_min,
        )
        settings = build(settings_of(self.method), self.settings, "backend")
        run = await backend.train_on(contents, self.model, settings, self.suffix)
        try:
            model_id = await run.wait()
        except asyncio.CancelledError:
            print(f"{run.id} continues at OpenAI; the same command attaches to it")
            raise
        result = await run.result()
        used = Usage(self.provider, result.base, train_tokens=result.trained_tokens or 0)
        last = result.losses[-1] if result.losses else None
        facts = ModelFacts(
            model_id=model_id,
            access=HostedAccess(self.provider, model_id),
            dataset=dataset_ref(data),
            steps=int(last[0]) if last else None,
            final_loss=last[1] if last else None,
            loss=[list(point) for point in result.losses],
            remote_job=run.id,
            usage=usage_facts(used),
            more=_extra_facts(result),
        )
        return facts.to_json()

    @classmethod
    def check_access(cls, works: Sequence[OpenAIFinetune]) -> None:
        """Check once for each model and method that OpenAI accepts jobs.

        Raises ``UserError`` if it does not.
        """
        asyncio.run(_check({(work.model, work.method) for work in works}))

    @classmethod
    def begun(cls, keys: Mapping[str, Collection[str]]) -> set[str]:
        """The ``keys`` with an active or succeeded job other than the jobs listed for each key."""
        return asyncio.run(_keys_with_jobs(keys))

    @classmethod
    def cancel(cls, keys: Sequence[str]) -> dict[str, str]:
        """Cancel the active jobs of ``keys``. Returns their ids by key."""
        return asyncio.run(_cancel(keys))


def _extra_facts(result: OpenAIResult) -> dict[str, Any]:
    """Facts of a finished job that are specific to OpenAI."""
    seconds = None if result.finished is None else result.finished - result.created
    known = {
        "base": result.base,
        "seed": result.seed,
        "settings": dict(result.settings),
        "checkpoints": [dict(checkpoint) for checkpoint in result.checkpoints],
        "trained_tokens": result.trained_tokens,
        "job_seconds": seconds,
    }
    return {name: value for name, value in known.items() if value is not None}


async def _upload_content(path: Path, method: Method) -> bytes:
    """The file content to upload, cached for all trials on one data set.

    Raises ``UserError`` for data that OpenAI would reject.
    """
    if not path.exists():
        raise UserError(f"backend.validation=true: the data set has no {path.name} ({path.parent})")
    return await asyncio.to_thread(_content, str(path), path.stat().st_mtime_ns, method)


@cache
def _content(path: str, time_ns: int, method: Method) -> bytes:
    from mosweep.backends.openai.training import training_file
    from mosweep.datasets.jsonl import JSONLDataset

    dataset = asyncio.run(JSONLDataset.load(path))
    try:
        return training_file(dataset, method)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


async def _check(pairs: set[tuple[str, Method]]) -> None:
    from mosweep.backends.openai.account import Account

    account = await Account.of()
    for model, method in sorted(pairs):
        if failure := await _rejection(account, model, method):
            if failure.again or failure.status in (401, 429):
                where = f" (at {account.client.base_url.host})" if failure.again else ""
                raise UserError(f"backend=openai: {failure.text}{where}")
            key, value = (
                ("backend.method", method)
                if "method" in (failure.param or "")
                else ("model.inspect", f"openai/{model}")
            )
            raise ConfigError(key, value, f"OpenAI rejects it: {failure.text}")


async def _keys_with_jobs(keys: Mapping[str, Collection[str]]) -> set[str]:
    from mosweep.backends.openai.account import KEY, Account, usable
    from mosweep.core.providers import RemoteError

    account = await Account.of()
    try:
        jobs = await account.ask("listing jobs", account.jobs, LAUNCH_PATIENCE_S)
    except RemoteError as error:
        raise UserError(f"backend=openai: {error}") from None
    named = [(str((job.metadata or {}).get(KEY)), job) for job in usable(jobs)]
    return {key for key, job in named if key in keys and job.id not in keys[key]}


async def _cancel(keys: Sequence[str]) -> dict[str, str]:
    from mosweep.backends.openai.account import ENDED, Account

    account, ended = await Account.of(), {}
    for key in keys:
        for job in await account.ask("listing its jobs", lambda key=key: account.jobs(key)):  # type: ignore[misc]
            if job.status not in ENDED:
                ended[key] = (await account.cancel(job.id)).id
    return ended


async def _rejection(account: Account, model: str, method: Method) -> Failure | None:
    """The reason why OpenAI rejects jobs for ``model``, or ``None``.

    Requests a job that cannot start, because its training file does not exist.
    """
    from mosweep.backends.openai.account import FULL
    from mosweep.core.providers import RemoteError

    jobs = account.client.fine_tuning.jobs
    request: dict[str, Any] = {
        "model": model,
        "training_file": NO_FILE,
        "method": {"type": method, method: {"hyperparameters": {}}},
    }
    try:
        created = await account.ask(
            f"testing {model}", lambda: jobs.create(**request), LAUNCH_PATIENCE_S
        )
    except RemoteError as error:
        failure = error.failure
        accepted = (
            failure.code == FULL
            or "training_file" in (failure.param or "")
            or NO_FILE in failure.text
        )
        return None if accepted else failure
    await jobs.cancel(created.id)  # this service checks files only after it has created the job
    return None


def settings_of(method: Method) -> type[Supervised]:
    """The class of a method's hyperparameters."""
    return DPO if method == "dpo" else Supervised
