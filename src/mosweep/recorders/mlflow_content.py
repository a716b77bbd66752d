"""What a sweep looks like in MLflow, as plain data. Knows MLflow's vocabulary and limits, but
neither imports nor calls it.

A run per sweep, a run per trial below it. A trial's run shows its factors as params, its scores as
metrics ``<task>/<metric>``, its data sets as inputs and its models as logged models: the base model
as input, the fine-tuned one as output and, where it was evaluated, as input with the scores
attached to it. Trials that share a fine-tune share its logged model.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mosweep.config.secrets import looks_secret
from mosweep.core import fingerprint
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.work import DATA, MODEL, ROUND_EVAL
from mosweep.recorders.mlflow_entities import Dataset, Metric, Model, Run

__all__ = ["Content", "run_digest", "sweep_id"]

#: Raise it when what is written for an unchanged trial changes: everything is then recorded anew.
FORMAT = 1

#: MLflow's limits, in characters.
_PARAM, _TAG, _KEY, _DIGEST = 6000, 8000, 250, 32

_STATUS = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "running": "RUNNING",
    "pending": "SCHEDULED",
    "cancelled": "KILLED",
}


def sweep_id(result: SweepResult) -> str:
    """Identity of a sweep among MLflow's runs: that of its folder."""
    return fingerprint.digest_bytes(str(result.folder.absolute()).encode())[:32]


def run_digest(result: SweepResult | TrialResult) -> str:
    """Changes whenever the run should be written again."""
    if isinstance(result, TrialResult):
        return f"{FORMAT}-{result.digest}"
    trials = "".join(trial.digest for trial in result.trials)
    return f"{FORMAT}-{fingerprint.digest_bytes(trials.encode())}"


@dataclass(frozen=True)
class Content:
    """The runs of a sweep, made one by one as they are asked for."""

    result: SweepResult
    _models: dict[str, Model] = field(default_factory=dict, repr=False)

    @cached_property
    def sweep_run(self) -> Run:
        """The run of the sweep as a whole."""
        result = self.result
        seen = {trial.status for trial in result.trials}
        status = (
            "running"
            if seen & {"running", "pending"}
            else next((s for s in ("failed", "cancelled") if s in seen), "succeeded")
        )
        spans = [span for trial in result.trials for span in _spans(trial.stages)]
        counts = {
            f"mosweep.trials.{s}": str(sum(t.status == s for t in result.trials))
            for s in sorted(seen)
        }
        end = max((end for _, end in spans), default=_now())
        return Run(
            trial="",
            name=result.folder.name,
            status=_STATUS[status],
            start_ms=min((start for start, _ in spans), default=end),
            end_ms=None if status == "running" else end,
            tags={
                **self._tags("", str(result.folder), run_digest(result)),
                "mosweep.status": status,
                **counts,
            },
            files=_files(
                result.folder,
                "experiment.yaml",
                {"design.json": result.design} if result.design else {},
            ),
        )

    @property
    def columns(self) -> list[str]:
        """What the table of runs should show, as MLflow's user interface names its columns."""
        params = dict.fromkeys(
            name for trial in self.result.trials for name in (*map(_name, trial.factors), "dummy")
        )
        metrics = dict.fromkeys(
            _name(name) for trial in self.result.trials for name in trial.metrics
        )
        if not any(_is_dummy(trial.stages) for trial in self.result.trials):
            params.pop("dummy", None)
        return [
            "attributes.`Dataset`",
            *(f"params.`{name}`" for name in params),
            *(f"metrics.`{name}`" for name in metrics),
        ]

    def trial_run(self, trial: TrialResult) -> Run:
        """The run of one trial."""
        spans = _spans(trial.stages)
        end = max((end for _, end in spans), default=_now())
        done = trial.status not in ("running", "pending")
        datasets = self._datasets(trial)
        metrics, evaluated = self._scores(trial, datasets)
        outputs = [
            self._model(stage)
            for stage in trial.stages
            if _leaves_model(stage) and not stage.kind.given
        ]
        base = self._base(trial)
        return Run(
            trial=trial.name,
            name=trial.name[:_KEY],
            status=_STATUS[trial.status],
            # the work it took, however long ago a shared stage was made
            start_ms=end - sum(b - a for a, b in spans),
            end_ms=end if done else None,
            params=_params(trial),
            tags=self._trial_tags(trial),
            metrics=metrics,
            datasets=tuple({(d.name, d.digest): d for d in reversed(datasets.values())}.values()),
            inputs=_unique([base, *evaluated] if base else evaluated),
            outputs=_unique(outputs),
            files=_files(Path(trial.folder), "config.yaml", {"summary.json": _summary(trial)}),
        )

    def _tags(self, trial: str, folder: str, digest: str) -> dict[str, str]:
        return {
            "mosweep.sweep.folder": sweep_id(self.result),
            "mosweep.trial": trial,
            "mosweep.folder": folder,
            "mosweep.digest": digest,
        }

    def _trial_tags(self, trial: TrialResult) -> dict[str, str]:
        tags = self._tags(trial.name, str(trial.folder), run_digest(trial))
        tags |= {
            "mosweep.id": trial.id,
            "mosweep.status": trial.status,
            "mosweep.control": str(trial.control).lower(),
        }
        if _is_dummy(trial.stages):
            tags["mosweep.dummy"] = "true"
        for stage in trial.stages:
            tags[_name(f"mosweep.stage.{stage.label}")] = stage.key
            if stage.error:
                tags["mosweep.error"] = f"{stage.label}: {_error(stage)}"[:_TAG]
        return tags

    @cached_property
    def _users(self) -> dict[str, list[TrialResult]]:
        """The trials that have a stage, by the stage's key."""
        users: dict[str, list[TrialResult]] = defaultdict(list)
        for trial in self.result.trials:
            for stage in trial.stages:
                if _leaves_model(stage):
                    users[stage.key].append(trial)
        return users

    def _model(self, stage: StageResult) -> Model:
        """The logged model of a stage, named by the factors that all its trials have in common."""
        if stage.key not in self._models:
            users = self._users[stage.key]
            facts, base = stage.facts, stage.kind == MODEL
            first, *others = [_params(user) for user in users]
            shared = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
            varied = {_name(factor) for factor in users[0].factors}
            factors = [f"{k}={v}" for k, v in shared.items() if k in varied]
            tags = {
                "mosweep.key": stage.key,
                "mosweep.stage": stage.label,
                "mlflow.model.isExternal": "true",
            }
            for fact in ("model_id", "uri", "base"):
                if isinstance(facts.get(fact), str):
                    tags[f"mosweep.{fact}"] = facts[fact][:_TAG]
            if stage.folder:
                tags["mosweep.folder"] = str(stage.folder)
            if facts.get("dummy"):
                tags["mosweep.dummy"] = "true"
            own = first.get("model") or _called(facts, "name", "model_id") or stage.label
            name = ",".join(factors if "model" in varied else [own, *(factors or [stage.label])])
            self._models[stage.key] = Model(
                key=stage.key,
                name=_model_name(own if base else name),
                type="base" if base else stage.kind.name,
                params={
                    k: v
                    for k, v in shared.items()
                    if k in ("model", "dummy") or (not base and k in varied | {"dataset"})
                },
                tags=tags,
                created_ms=_finished(stage),
                source=None if base else users[0].name,
            )
        return self._models[stage.key]

    def _base(self, trial: TrialResult) -> Model | None:
        """The base model of a trial: the one that a stage prepared, otherwise one that is known by
        its name alone.
        """
        made = next((stage for stage in trial.stages if stage.kind == MODEL and stage.record), None)
        if made:
            return self._model(made)
        name, user = (
            _base_name(trial),
            next((stage for stage in trial.stages if stage.record), None),
        )
        if name is None or user is None:
            return None
        key = f"base:{name}"
        if key not in self._models:
            dummy = {"dummy": "true"} if user.facts.get("dummy") else {}
            tags = {"mosweep.key": key, "mlflow.model.isExternal": "true"} | {
                f"mosweep.{k}": v for k, v in dummy.items()
            }
            self._models[key] = Model(
                key,
                _model_name(name),
                "base",
                {"model": name[:_PARAM], **dummy},
                tags,
                _finished(user),
            )
        return self._models[key]

    def _datasets(self, trial: TrialResult) -> dict[str, Dataset]:
        """Data sets by the key of their stage."""
        trained_on = {
            key
            for stage in trial.stages
            if stage.kind.leaves == "model"
            for key in stage.needs.values()
        }
        found = {}
        for stage in trial.stages:
            if stage.kind == DATA and stage.record:
                facts = stage.facts
                digest = facts.get("digest") or stage.record["artifact_digest"]
                rows = facts.get("rows")
                found[stage.key] = Dataset(
                    name=_called(facts, "name", "dataset")
                    or _configured(stage, "dataset")
                    or stage.label,
                    digest=str(digest)[:_DIGEST],
                    source=json.dumps({"uri": str(stage.folder or "")}),
                    profile=json.dumps({"num_rows": rows}) if rows is not None else None,
                    context="training" if stage.key in trained_on else "eval",
                )
        return found

    def _scores(
        self, trial: TrialResult, datasets: Mapping[str, Dataset]
    ) -> tuple[tuple[Metric, ...], list[Model]]:
        """The metrics of a trial, and the models that they tell about."""
        metrics: dict[tuple[str, int], Metric] = {}
        evaluated = []
        models = {
            stage.key: stage
            for stage in trial.stages
            if _leaves_model(stage) and not stage.kind.given
        }
        for stage in trial.stages:
            time_ms = _finished(stage)
            for name, points in stage.curves.items():
                full = _name(f"train/{name}")
                metrics |= {
                    (full, int(step)): Metric(full, float(value), time_ms, int(step))
                    for step, value in points
                }
            if stage.kind == ROUND_EVAL and stage.record and not stage.stopped:
                full, number = (
                    _name(f"rounds/{stage.facts['task']}/{stage.facts['watched']}"),
                    int(stage.facts["round"]),
                )
                metrics[full, number] = Metric(full, float(stage.facts["score"]), time_ms, number)
            if not stage.kind.scores or not stage.record:
                continue
            tuned = next((models[key] for key in stage.needs.values() if key in models), None)
            model = self._model(tuned) if tuned else self._base(trial)
            dataset = next((datasets[key] for key in stage.needs.values() if key in datasets), None)
            if model:
                evaluated.append(model)
            for name, value in stage.facts["metrics"].items():
                if isinstance(value, int | float):
                    full = _name(f"{stage.facts['task']}/{name}")
                    metrics[full, 0] = Metric(
                        full, float(value), time_ms, 0, model.key if model else None, dataset
                    )
        return tuple(metrics.values()), evaluated


def _params(trial: TrialResult) -> dict[str, str]:
    """The factors; model, data set and task even where they do not vary; and whether it was only
    pretended.
    """
    params = {_name(factor): _text(value)[:_PARAM] for factor, value in trial.factors.items()}
    for name, value in (("model", _base_name(trial)), ("dataset", _dataset_name(trial))):
        if value and name not in params:
            params[name] = value[:_PARAM]
    tasks = dict.fromkeys(
        str(stage.facts["task"]) for stage in trial.stages if stage.kind.scores and stage.record
    )
    if tasks and "task" not in params:
        params["task"] = ",".join(tasks)[:_PARAM]
    if _is_dummy(trial.stages):
        params["dummy"] = "true"
    return params


def _base_name(trial: TrialResult) -> str | None:
    """The base model's name: as factor, in a stage's configuration, in a model id
    (``torchtune/tiny@3f2a``, ``ft:gpt-4o:org::id``).
    """
    factor = trial.factors.get("model")
    if isinstance(factor, str):
        return factor
    for stage in trial.stages:
        if name := _configured(stage, "model"):
            return name
    for stage in trial.stages:
        identity = _called(stage.facts, "model_id") or ""
        if tuned := re.fullmatch(r"[\w-]+/(.+)@[^@]+|ft:([^:]+):.*", identity):
            return tuned[1] or tuned[2]
        if identity and stage.kind.scores:  # of the base model
            return identity
    return next(
        (
            name
            for stage in trial.stages
            if stage.kind == MODEL and (name := _called(stage.facts, "name"))
        ),
        None,
    )


def _dataset_name(trial: TrialResult) -> str | None:
    named = (
        _called(stage.facts, "name") if stage.kind == DATA else _configured(stage, "dataset")
        for stage in trial.stages
    )
    return next(filter(None, named), None)


def _configured(stage: StageResult, name: str) -> str | None:
    value = stage.facts.get(name)
    return (
        _called(value, "name")
        if isinstance(value, Mapping)
        else value
        if isinstance(value, str)
        else None
    )


def _called(facts: Mapping[str, Any], *names: str) -> str | None:
    return next(
        (facts[name] for name in names if isinstance(facts.get(name), str) and facts[name]), None
    )


def _summary(trial: TrialResult) -> dict[str, Any]:
    stages = [
        {
            "label": stage.label,
            "kind": stage.kind.name,
            "key": stage.key,
            "status": stage.status,
            "folder": str(stage.folder) if stage.folder else None,
            "log": str(stage.log) if stage.log else None,
            "error": _error(stage),
        }
        for stage in trial.stages
    ]
    head = {
        "name": trial.name,
        "id": trial.id,
        "factors": trial.factors,
        "control": trial.control,
        "dummy": _is_dummy(trial.stages),
    }
    return {**head, "status": trial.status, "metrics": trial.metrics, "stages": stages}


def _files(folder: Path, copied: str, made: Mapping[str, Any]) -> dict[str, bytes]:
    files = {name: json.dumps(data, indent=1, default=str).encode() for name, data in made.items()}
    with contextlib.suppress(OSError):  # not there: a sweep made by the library, or an old one
        files[copied] = (folder / copied).read_bytes()
    return files


def _error(stage: StageResult) -> str | None:
    """What went wrong, unless a library has put a key into its message."""
    return (
        "(looks like a secret; see the log)"
        if stage.error and looks_secret("", stage.error)
        else stage.error
    )


def _leaves_model(stage: StageResult) -> bool:
    return stage.record is not None and stage.kind.leaves == "model" and not stage.kind.optional


def _is_dummy(stages: Iterable[StageResult]) -> bool:
    return any(stage.facts.get("dummy") for stage in stages)


def _unique(models: Iterable[Model]) -> tuple[Model, ...]:
    return tuple({model.key: model for model in models}.values())


def _spans(stages: Iterable[StageResult]) -> list[tuple[int, int]]:
    """When the recorded stages ran, in milliseconds."""
    records = (stage.record for stage in stages)
    return [
        (_ms(r["started"]), _ms(r["finished"]))
        for r in records
        if r and "started" in r and "finished" in r
    ]


def _finished(stage: StageResult) -> int:
    return _ms(stage.record["finished"]) if stage.record and "finished" in stage.record else _now()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _now() -> int:
    return _ms(time.time())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


@lru_cache(4096)
def _name(text: str) -> str:
    """``text`` as MLflow accepts it for params, metrics and tags."""
    return (
        "/".join(
            part
            for part in re.sub(r"[^\w\-. :/]", "_", text).split("/")
            if part not in ("", ".", "..")
        )[:_KEY]
        or "_"
    )


def _model_name(text: str) -> str:
    return re.sub(r"[/:.%\"']", "_", text)[:_KEY]
