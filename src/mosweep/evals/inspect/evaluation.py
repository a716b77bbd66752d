"""``eval=inspect``: evaluations with Inspect AI.

Each task is a stage, so a task that is added later does not repeat the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mosweep.core.checks import Check, check_libraries
from mosweep.core.errors import ConfigError
from mosweep.core.facts import AdapterAccess, EvalFacts, HostedAccess, ModelFacts, WeightsAccess
from mosweep.core.fingerprint import unkeyed
from mosweep.core.generation import check_settings
from mosweep.core.paths import cached_here
from mosweep.core.task_code import check_code, code_digest
from mosweep.core.types import Stage
from mosweep.core.work import EVAL, Context, Kind, Traits, Work
from mosweep.core.yaml_text import load_yaml
from mosweep.cost import prices
from mosweep.evals.evaluation import Evaluation
from mosweep.evals.inspect.arguments import with_digests, with_paths
from mosweep.evals.inspect.options import LOCAL, inspect_options
from mosweep.evals.inspect.signature import check_arguments, task_signature
from mosweep.evals.inspect.tasks import code_files, located
from mosweep.stages.base import TrialConfig, served_by
from mosweep.stages.data import (
    data_folder,
    data_stage,
    dataset_ref,
    task_folder,
)
from mosweep.stages.model import ModelSource, base_model, folder_of

__all__ = ["InspectEval", "InspectEvaluation"]

#: The top-level key of native options.
SECTION = "inspect"

#: Options that change how fast an evaluation runs, but not its result.
_PACE = frozenset(
    "max_connections max_samples max_subprocesses max_sandboxes max_retries timeout "
    "attempt_timeout stream_idle_timeout "
    "adaptive_connections max_dataset_memory sandbox_cleanup sandbox_prebuilt tags log_images "
    "log_model_api log_refusals cache_prompt "
    "batch model_base_url".split()
)


@dataclass(frozen=True)
class InspectEval(Work):
    """One Inspect task on one model."""

    task: str
    code: str | None
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]
    data_ext: str
    source: ModelSource | None
    model: str = field(metadata=unkeyed)
    target: str = field(metadata=unkeyed)
    pace: Mapping[str, Any] = field(metadata=unkeyed)
    paths: Mapping[str, str] = field(default_factory=dict, metadata=unkeyed)
    provider: str | None = field(default=None, metadata=unkeyed)

    kind: ClassVar[Kind] = EVAL
    version: ClassVar[int] = 2

    @property
    def traits(self) -> Traits:
        """Evaluations share a process, because Inspect is slow to import."""
        return Traits(requires={"inspect_ai": "inspect"}, runtime="inspect", provider=self.provider)

    def sources(self) -> tuple[Path, Mapping[str, str]] | None:
        """The files of the task, unless an installed library has it."""
        files = task_code(self.target)
        place = located(self.target)
        return (place[0].parent if place else Path.cwd(), files) if files else None

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Evaluate the model. Leaves the ``.eval`` log and ``samples.jsonl``."""
        from mosweep.evals.inspect.backend import InspectEvalBackend

        if self.code is not None:
            check_code(code_files(self.target), self.code, self.target.partition("@")[0])
        name, model_args = self._model(context)
        data = context.inputs.get("data")
        backend = InspectEvalBackend(context.out, {**self.options, **self.pace})
        job = await backend.evaluate(
            name,
            self.target,
            task_args=with_paths(self.arguments, self.paths),
            model_args=model_args,
            data_path=data_folder(data) if data else None,
            data_ext=self.data_ext,
        )
        results = await job.wait()
        [(task, metrics)] = results.metrics.items()
        scores = {metric: value for metric, value in metrics.items() if metric != "n"}
        scorers = tuple(results.scorers.get(task, ()))
        used = _used(results.usage or {})
        facts = EvalFacts(
            task=self.task,
            model_id=self._model_id(context),
            metrics=scores,
            n=int(metrics["n"]),
            scorers=scorers,
            dataset=dataset_ref(data) if data else None,
            usage=used if len(used) > 1 else used[0] if used else None,
            more={"inspect_task": task, "eval_log": Path((results.logs or {})[task]).name},
        )
        return facts.to_json()

    def _model_id(self, context: Context) -> str:
        tuned = context.inputs.get("tuned")
        return str(tuned.facts["model_id"]) if tuned else self.model

    def _model(self, context: Context) -> tuple[str, dict[str, Any]]:
        """Inspect's name for the model, and its arguments."""
        tuned = context.inputs.get("tuned")
        access = ModelFacts.of(tuned.facts).access if tuned else None
        if isinstance(access, HostedAccess):
            arguments = dict(access.options)
            if access.base_url:
                arguments["base_url"] = access.base_url
            if access.base_tokenizer:
                arguments["tokenizer"] = str(folder_of(context, self.source))
            return f"{access.provider}/{access.model}", arguments
        if tuned and isinstance(access, WeightsAccess):
            return f"mosweep/{self.model}", {"base": str(tuned.folder / access.folder)}
        if self.source is not None and self.source.inspect:
            return self.source.inspect, {}
        arguments = {"base": str(folder_of(context, self.source))}
        if tuned and isinstance(access, AdapterAccess):
            arguments["adapter"] = str(tuned.folder / access.folder)
        return f"mosweep/{self.model}", arguments


@dataclass(frozen=True)
class InspectEvaluation(Evaluation):
    """The group ``eval=inspect``.

    Tasks that take an argument ``data_path`` get the trial's data set.
    """

    section: ClassVar[str] = SECTION
    section_help: ClassVar[str] = (
        "Any option of Inspect: ``inspect.temperature=0.7``, ``inspect.task_args.limit=50``."
    )

    tasks: Sequence[str] | None = field(default=None, metadata=unkeyed)
    """Task folders by name, ``file.py@task``, ``package.module:function`` or names that Inspect
    knows. By default the trial's task."""

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """Whether the library is installed."""
        yield check_libraries("eval=inspect", ("inspect-ai",), "inspect")

    def stages(self, trial: TrialConfig, tuned: Stage | None) -> list[Stage]:
        """One stage per evaluation task."""
        return [self._stage(trial, tuned, name) for name in trial.eval_tasks(self.tasks)]

    def _stage(self, trial: TrialConfig, tuned: Stage | None, name: str) -> Stage:
        config = trial.config
        options = inspect_options(trial.native(SECTION))
        model_stage, source = base_model(trial)
        needs = {"tuned": tuned} if tuned else {}
        needs |= {"model": model_stage} if model_stage else {}
        chosen, model_args = {**options.eval, **options.generate}, dict(options.model_args)
        if tuned is None and (hosted := config.backend.hosted_base(trial)):
            source, model_args = hosted.source, {**hosted.arguments, **model_args}
            address = {"model_base_url": hosted.base_url} if hosted.base_url else {}
            chosen = {**address, **chosen}
        arguments, code, target = dict(options.task_args), None, name
        data_ext = "jsonl"
        place = _place(name, config.tasks_dir)
        if place is not None:
            file = place[0]
            defaults = dict(_defaults(file.with_suffix(".yaml"))) if file.name == "eval.py" else {}
            signature = task_signature(*place)
            data_ext = str(defaults.get("data_ext", data_ext))
            if not signature.takes("data_ext"):
                defaults.pop("data_ext", None)
            arguments = {**defaults, **arguments}
            wants_data = signature.takes("data_path") and "data_path" not in arguments
            check_arguments(signature, {**arguments, **({"data_path": ""} if wants_data else {})})
            target = f"{file}@{signature.registered}"
            if wants_data:
                needs["data"] = data_stage(trial)
        if files := task_code(target):
            code = code_digest(files)
        arguments, paths = with_digests(arguments)
        endpoint = source.inspect if source else None
        provider = (served_by(tuned) if tuned else None) or (
            prices.paid_provider(endpoint) if endpoint else None
        )
        if not (provider or endpoint):
            check_settings(options.generate, LOCAL, "local models")
        work = InspectEval(
            model=config.model.name,
            task=name,
            code=code,
            arguments=arguments,
            options={
                **{k: v for k, v in chosen.items() if k not in _PACE},
                **_given(model_args=model_args),
            },
            data_ext=data_ext,
            source=source,
            target=target,
            pace={k: v for k, v in chosen.items() if k in _PACE},
            paths=paths,
            provider=provider,
        )
        resources = trial.resources("eval", computes=not (provider or endpoint))
        return Stage(trial.eval_label(name), work, needs, resources)


def _used(usage: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The tokens used at paid providers, judges included, in the form of ``prices.facts``."""
    paid = (
        (provider, model, tokens)
        for model, tokens in usage.items()
        if (provider := prices.paid_provider(model))
    )
    return [
        prices.facts(prices.Usage(provider, prices.model_at(provider, model), **tokens))
        for provider, model, tokens in paid
    ]


def _given(**options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) for name, value in options.items() if value}


def _place(name: str, tasks_dir: str | None) -> tuple[Path, str | None] | None:
    """The file of the task ``name``, and the function in it. ``None`` if only Inspect knows it.

    ``name`` is a path or the name of a task folder.
    """
    return (
        located(name)
        if set("/:@") & set(name)
        else (task_folder(name, tasks_dir) / "eval.py", None)
    )


#: The files of a task's code, read once per plan.
task_code = cached_here(code_files)


@cached_here
def _defaults(path: Path) -> dict[str, Any]:
    """The task's default arguments."""
    if not path.exists():
        return {}
    import yaml

    try:
        data = load_yaml(path.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise ConfigError("task", path, f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError("task", path, "expected a mapping of task arguments")
    return {str(key): value for key, value in data.items()}
