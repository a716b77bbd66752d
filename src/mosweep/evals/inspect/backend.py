"""Evaluation with Inspect in this process, for any task and any model of Inspect.

A task is named by its file, folder, import path or registered name.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mosweep.core.causes import decisive_line, reason_of
from mosweep.core.errors import ConfigError, MissingExtra, StageError, UserError
from mosweep.core.facts import ScorerFacts
from mosweep.evals.base import EvalResults, EvalStatus, write_samples
from mosweep.evals.inspect.endpoint import await_endpoint
from mosweep.evals.inspect.options import InspectOptions, inspect_options
from mosweep.evals.inspect.signature import check_arguments
from mosweep.evals.inspect.tasks import located, reference, signature_of, with_own_modules

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog
    from inspect_ai.model import Model

__all__ = ["SAMPLES", "InspectEvalBackend", "InspectEvalJob"]

#: The file of per-item results of all tasks, next to the logs.
SAMPLES = "samples.jsonl"
#: Inspect's prefix for models of our provider.
PROVIDER = "mosweep/"

_one_at_a_time = threading.Lock()


@dataclass
class InspectEvalJob:
    """An evaluation that runs as a task of the event loop it was started in."""

    model_id: str
    _task: asyncio.Task[EvalResults] = field(repr=False)

    @property
    def status(self) -> EvalStatus:
        """The state of the job."""
        if not self._task.done():
            return "running"
        if self._task.cancelled():
            return "cancelled"
        return "failed" if self._task.exception() else "succeeded"

    async def wait(self) -> EvalResults:
        """The results.

        Raises ``StageError``, with the log, if a task failed, and ``UserError`` if it could not
        start.
        """
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise StageError(f"the evaluation of {self.model_id} was cancelled") from None
            raise

    async def cancel(self) -> None:
        """Stop the evaluation."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def save(self, path: Path) -> None:
        """Wait for the results and write them.

        The evaluation itself cannot move to another process.
        """
        await (await self.wait()).save(path)

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The finished job that ``save`` wrote."""
        results = await EvalResults.load(path)

        async def finished() -> EvalResults:
            return results

        task = asyncio.create_task(finished())
        await task
        return cls(results.model_id, task)


@dataclass(frozen=True)
class InspectEvalBackend:
    """Evaluates with Inspect and writes the ``.eval`` logs and ``samples.jsonl`` to ``folder``.

    ``options`` are Inspect's: ``{"limit": 10, "temperature": 0.5, "task_args": {…}}``, see
    ``inspect_options``. Unless they set ``fail_on_error``, one failed sample fails the evaluation.
    """

    folder: str | Path
    options: Mapping[str, Any] = field(default_factory=dict)

    async def evaluate(
        self,
        model_id: str | Model,
        eval_suite: str | Sequence[str],
        *,
        task_args: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
        data_path: str | Path | None = None,
        data_ext: str = "jsonl",
    ) -> InspectEvalJob:
        """Start evaluating.

        - ``model_id``: an Inspect model name, a folder with a local checkpoint or adapter, or an
          Inspect model
        - ``eval_suite``: task folders, ``file.py``, ``file.py@task``, ``package.module:function``,
          or names registered with Inspect
        - ``task_args``: arguments of the tasks. Those in the options override them.
        - ``data_path`` and ``data_ext``: passed to the tasks that take them

        Raises ``ConfigError`` for an argument that a task does not take.
        """
        options = inspect_options(self.options)
        arguments = {**(task_args or {}), **options.task_args}
        suite = [eval_suite] if isinstance(eval_suite, str) else list(eval_suite)
        data = (
            {}
            if data_path is None
            else {"data_path": str(Path(data_path).resolve()), "data_ext": data_ext}
        )
        plan = []
        for spec in suite:
            if located(spec) is None:
                await asyncio.to_thread(_import)
            signature = signature_of(spec)
            given = {**{k: v for k, v in data.items() if signature.takes(k)}, **arguments}
            check_arguments(signature, given)
            plan.append((spec, given))
        name = model_id if isinstance(model_id, str) else str(model_id)
        models = {**(model_args or {}), **options.model_args}
        job = asyncio.create_task(
            self._run(model_id, name, models, plan, options), name=f"evaluate {name}"
        )
        return InspectEvalJob(name, job)

    async def _run(
        self,
        model_id: str | Model,
        name: str,
        model_args: Mapping[str, Any],
        plan: Sequence[tuple[str, Mapping[str, Any]]],
        options: InspectOptions,
    ) -> EvalResults:
        from mosweep.evals.inspect.log import (
            add_usage,
            check_log,
            check_model,
            metrics_of,
            samples_of,
            scorers_of,
        )

        folder = Path(self.folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        metrics: dict[str, dict[str, float]] = {}
        scorers: dict[str, list[ScorerFacts]] = {}
        logs: dict[str, str] = {}
        samples: list[dict[str, Any]] = []
        usage: dict[str, dict[str, int]] = {}
        tolerate = options.eval.get("fail_on_error") not in (None, True)
        async with _turn():
            model = _model(model_id, model_args, options) if isinstance(model_id, str) else model_id
            for spec, given in plan:
                log = await _evaluate(spec, given, model, folder, options)
                check_log(log, tolerate_errors=tolerate)
                check_model(log, str(model))
                task = log.eval.task if log.eval.task not in metrics else spec
                scorers[task] = scorers_of(log)
                metrics[task] = metrics_of(scorers[task])
                logs[task] = log.location
                samples += [{**row, "task": task} for row in samples_of(log)]
                add_usage(usage, log)
        write_samples(samples, folder / SAMPLES)
        return EvalResults(name, metrics, samples, logs, usage, scorers)


@contextlib.asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """Wait for our turn: Inspect runs only one evaluation at a time in a process."""
    while not _one_at_a_time.acquire(blocking=False):
        await asyncio.sleep(0.02)
    thresholds = gc.get_threshold()
    try:
        # Otherwise garbage collection visits hundreds of thousands of live objects again and again.
        # That is half of the time of a short evaluation.
        gc.set_threshold(100_000, 50, 100)
        await asyncio.to_thread(_import)
        yield
    finally:
        gc.set_threshold(*thresholds)
        _one_at_a_time.release()


def _import() -> None:
    try:
        import inspect_ai

        import mosweep.evals.inspect.registry  # noqa: F401 - also where mosweep is not installed and has no entry point
    except ModuleNotFoundError as error:
        if error.name == "inspect_ai":
            raise MissingExtra("inspect-ai", "inspect", "evaluating") from error
        raise
    del inspect_ai


async def _evaluate(
    spec: str, given: Mapping[str, Any], model: Model, folder: Path, options: InspectOptions
) -> EvalLog:
    from inspect_ai import eval_async
    from inspect_ai.log import read_eval_log_async
    from inspect_ai.util import display_type

    native = {**_quiet(), **options.eval, **options.generate}
    if _is_local(model):
        # Start all samples at once, so that they form large batches. Adaptive concurrency would
        # start with 20.
        native = {"max_connections": 1000, "max_samples": 1000, **native}
    task, arguments = reference(spec, given)
    try:
        _silence(display_type())
        with with_own_modules(spec):
            logs = await eval_async(
                task, model=model, task_args=arguments, log_dir=str(folder), **native
            )
    except asyncio.CancelledError:
        raise
    except Exception as error:
        raise StageError(
            f"evaluation {spec} could not run: {reason_of(error)}", _newest_log(folder)
        ) from error
    if len(logs) != 1:
        raise StageError(f"evaluation {spec} left {len(logs)} logs, expected one")
    # The samples are still on disk. Inspect could read them on first use, but that re-enters this
    # event loop and patches asyncio for the whole process.
    log: EvalLog = await read_eval_log_async(logs[0].location)
    return log


def _quiet() -> dict[str, Any]:
    """Options that turn off output, servers and the live log. The log is written once."""
    return {
        "log_format": "eval",
        "log_realtime": False,
        "log_model_api": False,
        "score_display": False,
        "ctl_server": False,
        "acp_server": False,
        "log_level": "warning",
    }


def _silence(display: str) -> None:
    from inspect_ai.util._display import init_display_type

    if display != "none":
        init_display_type("none")


def _model(model_id: str, model_args: Mapping[str, Any], options: InspectOptions) -> Model:
    from inspect_ai._util.dotenv import init_dotenv
    from inspect_ai.model import get_model

    name, arguments = model_id, dict(model_args)
    path = Path(model_id)
    if (path / "adapter_config.json").exists():
        base = json.loads((path / "adapter_config.json").read_text()).get("base_model_name_or_path")
        name, arguments = (
            f"{PROVIDER}{path.name}",
            {"base": base, "adapter": str(path.resolve()), **arguments},
        )
    elif (path / "config.json").exists():
        name, arguments = f"{PROVIDER}{path.name}", {"base": str(path.resolve()), **arguments}
    if name.startswith(PROVIDER) and not arguments.get("base"):
        raise ConfigError(
            "inspect.model_args.base",
            arguments.get("base"),
            f"{name} needs the folder of its base model",
        )
    init_dotenv()  # As ``inspect eval`` does: keys may be in .env, here or in a folder above.
    await_endpoint(name, options.eval.get("model_base_url") or arguments.get("base_url"))
    try:
        return get_model(
            name, memoize=False, base_url=options.eval.get("model_base_url"), **arguments
        )
    except Exception as error:
        raise UserError(
            f"Inspect cannot use the model {name}: {decisive_line(str(error))}"
        ) from error


def _is_local(model: Model) -> bool:
    from inspect_ai._util.registry import registry_info

    return registry_info(model.api).name.rpartition("/")[2] == "mosweep"


def _newest_log(folder: Path) -> str | None:
    logs = sorted(folder.glob("*.eval"), key=lambda path: path.stat().st_mtime)
    return str(logs[-1]) if logs else None
