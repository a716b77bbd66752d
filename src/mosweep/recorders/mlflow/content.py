"""What a sweep looks like in MLflow, as plain data. Neither imports nor calls MLflow.

There is a run per sweep, and below it a run per trial. A trial's run has its factors as params, its
scores as metrics ``<task>/<metric>``, its data sets as inputs, and its models as logged models: the
base model is an input, the fine-tuned one an output and, where it was evaluated, also an input with
the scores attached. Trials that share a fine-tune share its logged model.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.config.secrets import looks_secret
from mosweep.core import fingerprint
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.recorders.mlflow.entities import Dataset, Metric, Model, Run
from mosweep.recorders.mlflow.naming import (
    DIGEST,
    KEY,
    PARAM,
    TAG,
    base_name,
    key,
    model_name,
    params_of,
)

__all__ = ["Content", "run_digest", "sweep_id"]

#: Raise it when an unchanged trial is written differently: everything is then recorded again.
FORMAT = 1

_STATUS = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "running": "RUNNING",
    "pending": "SCHEDULED",
    "cancelled": "KILLED",
}


def sweep_id(result: SweepResult) -> str:
    """The identity of a sweep among MLflow's runs: its folder's."""
    return fingerprint.digest_bytes(str(result.folder.absolute()).encode())[:32]


def run_digest(result: SweepResult | TrialResult) -> str:
    """Changes whenever the run should be written again."""
    if isinstance(result, TrialResult):
        return f"{FORMAT}-{result.digest}"
    trials = "".join(trial.digest for trial in result.trials)
    return f"{FORMAT}-{fingerprint.digest_bytes(trials.encode())}"


@dataclass(frozen=True)
class Content:
    """The runs of a sweep, each created on request."""

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
        trials = self.result.trials
        params = dict.fromkeys(key(name) for trial in trials for name in trial.factors)
        if self.result.pretended:
            params["dummy"] = None
        metrics = dict.fromkeys(key(name) for trial in trials for name in trial.metrics)
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
            name=trial.name[:KEY],
            status=_STATUS[trial.status],
            # the work it took, however long ago a shared stage was made
            start_ms=end - sum(b - a for a, b in spans),
            end_ms=end if done else None,
            params=params_of(trial),
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
        if trial.pretended:
            tags["mosweep.dummy"] = "true"
        for stage in trial.stages:
            tags[key(f"mosweep.stage.{stage.label}")] = stage.key
            if stage.error:
                tags["mosweep.error"] = f"{stage.label}: {_error(stage)}"[:TAG]
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
            first, *others = [params_of(user) for user in users]
            shared = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
            varied = {key(factor) for factor in users[0].factors}
            factors = [f"{k}={v}" for k, v in shared.items() if k in varied]
            base, model = stage.base, stage.model
            known = base.name if base else model.model_id if model else None
            own = first.get("model") or known or stage.label
            name = ",".join(factors if "model" in varied else [own, *(factors or [stage.label])])
            kept = {"model", "dummy"} if base else {"model", "dummy", "dataset", *varied}
            self._models[stage.key] = Model(
                key=stage.key,
                name=model_name(own if base else name),
                type="base" if base else stage.kind.name,
                params={k: v for k, v in shared.items() if k in kept},
                tags=_model_tags(stage),
                created_ms=_finished(stage),
                source=None if base else users[0].name,
            )
        return self._models[stage.key]

    def _base(self, trial: TrialResult) -> Model | None:
        """The base model of a trial: a stage made it, or only its name is known."""
        for stage in trial.stages:
            if stage.base:
                return self._model(stage)
        name, user = base_name(trial), next((stage for stage in trial.stages if stage.record), None)
        if name is None or user is None:
            return None
        identity = f"base:{name}"
        if identity not in self._models:
            dummy = {"dummy": "true"} if user.pretended else {}
            tags = {"mosweep.key": identity, "mlflow.model.isExternal": "true"}
            self._models[identity] = Model(
                key=identity,
                name=model_name(name),
                type="base",
                params={"model": name[:PARAM], **dummy},
                tags=tags | {f"mosweep.{mark}": value for mark, value in dummy.items()},
                created_ms=_finished(user),
            )
        return self._models[identity]

    def _datasets(self, trial: TrialResult) -> dict[str, Dataset]:
        """Data sets by the key of their stage."""
        trained_on = {
            need
            for stage in trial.stages
            if stage.kind.leaves == "model"
            for need in stage.needs.values()
        }
        datasets = {}
        for stage in trial.stages:
            if facts := stage.dataset:
                datasets[stage.key] = Dataset(
                    name=facts.name or stage.label,
                    digest=facts.digest[:DIGEST],
                    source=json.dumps({"uri": str(stage.folder or "")}),
                    profile=json.dumps({"num_rows": facts.rows}),
                    context="training" if stage.key in trained_on else "eval",
                )
        return datasets

    def _scores(
        self, trial: TrialResult, datasets: Mapping[str, Dataset]
    ) -> tuple[tuple[Metric, ...], list[Model]]:
        """The metrics of a trial, and the models that they belong to."""
        metrics: dict[tuple[str, int], Metric] = {}
        evaluated = []
        models = {
            stage.key: stage
            for stage in trial.stages
            if _leaves_model(stage) and not stage.kind.given
        }

        def add(metric: Metric) -> None:
            metrics[metric.name, metric.step] = metric

        for stage in trial.stages:
            time_ms = _finished(stage)
            for name, points in stage.curves.items():
                for step, value in points:
                    add(Metric(key(f"train/{name}"), float(value), time_ms, int(step)))
            evaluation = stage.evaluation
            if evaluation is None:
                continue
            if of_round := stage.round:
                name = key(f"rounds/{evaluation.task}/{of_round.watched}")
                add(Metric(name, of_round.score, time_ms, of_round.number))
            if not stage.kind.scores:
                continue
            needs = stage.needs.values()
            tuned = next((models[need] for need in needs if need in models), None)
            model = self._model(tuned) if tuned else self._base(trial)
            dataset = next((datasets[need] for need in needs if need in datasets), None)
            if model:
                evaluated.append(model)
            for name, value in evaluation.metrics.items():
                if isinstance(value, int | float):
                    add(
                        Metric(
                            key(f"{evaluation.task}/{name}"),
                            float(value),
                            time_ms,
                            model=model.key if model else None,
                            dataset=dataset,
                        )
                    )
        return tuple(metrics.values()), evaluated


def _model_tags(stage: StageResult) -> dict[str, str]:
    tags = {
        "mosweep.key": stage.key,
        "mosweep.stage": stage.label,
        "mlflow.model.isExternal": "true",
    }
    if model := stage.model:
        about = {"model_id": model.model_id} | {
            name: model.more.get(name) for name in ("uri", "base")
        }
        tags |= {
            f"mosweep.{name}": value[:TAG]
            for name, value in about.items()
            if isinstance(value, str)
        }
    if stage.folder:
        tags["mosweep.folder"] = str(stage.folder)
    if stage.pretended:
        tags["mosweep.dummy"] = "true"
    return tags


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
        "dummy": trial.pretended,
    }
    return {**head, "status": trial.status, "metrics": trial.metrics, "stages": stages}


def _files(folder: Path, copied: str, made: Mapping[str, Any]) -> dict[str, bytes]:
    files = {name: json.dumps(data, indent=1, default=str).encode() for name, data in made.items()}
    with contextlib.suppress(OSError):  # not there: the sweep was made by the Python API
        files[copied] = (folder / copied).read_bytes()
    return files


def _error(stage: StageResult) -> str | None:
    """The error, unless its message seems to contain an API key."""
    return (
        "(looks like a secret; see the log)"
        if stage.error and looks_secret("", stage.error)
        else stage.error
    )


def _leaves_model(stage: StageResult) -> bool:
    return stage.record is not None and stage.kind.leaves == "model" and not stage.kind.optional


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
