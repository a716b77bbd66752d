"""The runs of a sweep for MLflow, as plain data. This module does not use MLflow.

A sweep has a run, with a child run per trial. A trial's run has its factors as params, its scores
as metrics ``<task>/<metric>``, its data sets as inputs, and its models as logged models. The base
model is an input. The fine-tuned model is an output and, if it was evaluated, also an input with
the scores attached.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.config.secrets import looks_secret
from mosweep.core import fingerprint
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.recorders.mlflow.entities import Dataset, Metric, Model, Run
from mosweep.recorders.mlflow.models import Models, leaves_model
from mosweep.recorders.mlflow.naming import DIGEST, KEY, TAG, key, params_of
from mosweep.recorders.mlflow.times import finished_ms, now_ms, spans_ms

__all__ = ["Content", "run_digest", "sweep_id"]

#: Increase it when the content of a run changes. Then all runs are recorded again.
FORMAT = 1

_STATUS = {
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "running": "RUNNING",
    "pending": "SCHEDULED",
    "cancelled": "KILLED",
}


def sweep_id(result: SweepResult) -> str:
    """The identity of a sweep in MLflow: a digest of its folder's path."""
    return fingerprint.digest_bytes(str(result.folder.absolute()).encode())[:32]


def run_digest(result: SweepResult | TrialResult) -> str:
    """A digest that changes whenever the run must be written again."""
    if isinstance(result, TrialResult):
        return f"{FORMAT}-{result.digest}"
    trials = "".join(trial.digest for trial in result.trials)
    return f"{FORMAT}-{fingerprint.digest_bytes(trials.encode())}"


@dataclass(frozen=True)
class Content:
    """The runs of a sweep, each created on request."""

    result: SweepResult

    @cached_property
    def _models(self) -> Models:
        return Models(self.result)

    @cached_property
    def sweep_run(self) -> Run:
        """The run of the whole sweep."""
        result = self.result
        seen = {trial.status for trial in result.trials}
        status = (
            "running"
            if seen & {"running", "pending"}
            else next((s for s in ("failed", "cancelled") if s in seen), "succeeded")
        )
        spans = [span for trial in result.trials for span in spans_ms(trial.stages)]
        counts = {
            f"mosweep.trials.{s}": str(sum(t.status == s for t in result.trials))
            for s in sorted(seen)
        }
        end = max((end for _, end in spans), default=now_ms())
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
        """The columns of the table of runs, with the names that MLflow's user interface uses."""
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
        spans = spans_ms(trial.stages)
        end = max((end for _, end in spans), default=now_ms())
        done = trial.status not in ("running", "pending")
        datasets = self._datasets(trial)
        metrics, evaluated = self._scores(trial, datasets)
        outputs = [
            self._models.of(stage)
            for stage in trial.stages
            if leaves_model(stage) and not stage.kind.given
        ]
        base = self._models.base(trial)
        return Run(
            trial=trial.name,
            name=trial.name[:KEY],
            status=_STATUS[trial.status],
            # The run's duration is that of its stages, even if a shared stage ran earlier.
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

    def _datasets(self, trial: TrialResult) -> dict[str, Dataset]:
        """The data sets, by the key of their stage."""
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
        """The metrics of a trial, and the evaluated models."""
        metrics: dict[tuple[str, int], Metric] = {}
        evaluated = []
        models = {
            stage.key: stage
            for stage in trial.stages
            if leaves_model(stage) and not stage.kind.given
        }

        def add(metric: Metric) -> None:
            metrics[metric.name, metric.step] = metric

        for stage in trial.stages:
            time_ms = finished_ms(stage)
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
            model = self._models.of(tuned) if tuned else self._models.base(trial)
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
    with contextlib.suppress(OSError):  # Sweeps of the Python API do not have this file.
        files[copied] = (folder / copied).read_bytes()
    return files


def _error(stage: StageResult) -> str | None:
    """The error, unless its message seems to contain an API key."""
    return (
        "(looks like a secret; see the log)"
        if stage.error and looks_secret("", stage.error)
        else stage.error
    )


def _unique(models: Iterable[Model]) -> tuple[Model, ...]:
    return tuple({model.key: model for model in models}.values())
