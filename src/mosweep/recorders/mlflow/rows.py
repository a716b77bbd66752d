"""The rows of runs in MLflow's tables, and the files of their artifacts."""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from collections.abc import Mapping
from urllib.parse import unquote

from mosweep.core import fingerprint
from mosweep.recorders.mlflow.entities import Dataset, Model, Run, model_file

__all__ = ["CLEAR", "INSERT", "Rows"]

_READY = 2  # MLflow's LoggedModelStatus.READY

#: Statements that add a row, by table, in the order of the tables' references.
INSERT = {
    "runs": "insert into runs (run_uuid, name, status, start_time, end_time, artifact_uri, "
    "experiment_id, source_type, source_name, entry_point_name, source_version, user_id, "
    "lifecycle_stage) values (?,?,?,?,?,?,?,'UNKNOWN','','','','unknown','active') "
    "on conflict (run_uuid) do update set name=excluded.name, status=excluded.status, "
    "start_time=excluded.start_time, end_time=excluded.end_time, lifecycle_stage='active', "
    "deleted_time=null",
    "tags": "insert or replace into tags (run_uuid, key, value) values (?,?,?)",
    "params": "insert into params (run_uuid, key, value) values (?,?,?)",
    "metrics": "insert into metrics (run_uuid, key, value, timestamp, step, is_nan) "
    "values (?,?,?,?,?,0)",
    "latest_metrics": "insert into latest_metrics (run_uuid, key, value, timestamp, step, is_nan) "
    "values (?,?,?,?,?,0)",
    "datasets": "insert into datasets (dataset_uuid, experiment_id, name, digest, "
    "dataset_source_type, dataset_source, dataset_profile) values (?,?,?,?,'local',?,?)",
    "logged_models": "insert into logged_models (model_id, experiment_id, name, "
    "artifact_location, creation_timestamp_ms, last_updated_timestamp_ms, status, "
    "lifecycle_stage, model_type, source_run_id) values "
    f"(?,?,?,?,?,?,{_READY},'active',?,?) "
    "on conflict (model_id) do update set lifecycle_stage='active'",  # The user had deleted it.
    "logged_model_params": "insert or replace into logged_model_params (model_id, experiment_id, "
    "param_key, param_value) values (?,?,?,?)",
    "logged_model_tags": "insert or replace into logged_model_tags (model_id, experiment_id, "
    "tag_key, tag_value) values (?,?,?,?)",
    "logged_model_metrics": "insert into logged_model_metrics (run_id, metric_name, metric_value, "
    "metric_timestamp_ms, metric_step, model_id, experiment_id, dataset_name, dataset_digest) "
    "values (?,?,?,?,?,?,?,?,?)",
    "inputs": "insert into inputs (input_uuid, source_type, source_id, destination_type, "
    "destination_id, step) values (?,?,?,?,?,0)",
    "input_tags": "insert into input_tags (input_uuid, name, value) "
    "values (?,'mlflow.data.context',?)",
}

#: Removes a run's rows before it is written again. Tags that are not mosweep's stay.
CLEAR = (
    "delete from input_tags where input_uuid in (select input_uuid from inputs where "
    "destination_type='RUN' and destination_id = ?)",
    "delete from inputs where destination_type='RUN' and destination_id = ?",
    "delete from inputs where source_type='RUN_INPUT' and source_id = ?",
    "delete from inputs where source_type='RUN_OUTPUT' and source_id = ?",
    "delete from metrics where run_uuid = ?",
    "delete from latest_metrics where run_uuid = ?",
    "delete from params where run_uuid = ?",
    "delete from tags where key like 'mosweep.%' and run_uuid = ?",
)


class Rows:
    """The rows of some runs, by table. Adding a run writes its files."""

    def __init__(
        self,
        experiment: str,
        experiment_id: int,
        location: str,
        run_ids: Mapping[str, str],
        model_ids: dict[str, str],
        dataset_ids: dict[tuple[str, str], str],
    ) -> None:
        self.of: dict[str, list[tuple[object, ...]]] = defaultdict(list)
        self.model_ids, self.dataset_ids = model_ids, dataset_ids
        self._experiment = experiment
        self._experiment_id = experiment_id
        self._location = location
        self._run_ids = run_ids

    def add(self, run: Run) -> None:
        """Add a run, with its params, metrics, data sets and models."""
        of, run_id = self.of, self._run_ids[run.trial]
        artifacts = f"{self._location}/{run_id}/artifacts"
        of["runs"].append(
            (run_id, run.name, run.status, run.start_ms, run.end_ms, artifacts, self._experiment_id)
        )
        own = {"mlflow.runName": run.name} | (
            {"mlflow.parentRunId": self._run_ids[""]} if run.trial else {}
        )
        of["tags"] += [(run_id, key, value) for key, value in {**own, **run.tags}.items()]
        of["params"] += [(run_id, key, value) for key, value in run.params.items()]
        for dataset in run.datasets:
            self._input("DATASET", self._dataset(dataset), "RUN", run_id, dataset.context)
        for model in run.inputs:
            self._input("RUN_INPUT", run_id, "MODEL_INPUT", self._model(model))
        for model in run.outputs:
            self._input("RUN_OUTPUT", run_id, "MODEL_OUTPUT", self._model(model))
        latest: dict[str, tuple[object, ...]] = {}
        for metric in sorted(run.metrics, key=lambda metric: metric.step):
            row = (run_id, metric.name, metric.value, metric.time_ms, metric.step)
            of["metrics"].append(row)
            latest[metric.name] = row
            if metric.model:
                dataset_name = (
                    (metric.dataset.name, metric.dataset.digest) if metric.dataset else (None, None)
                )
                of["logged_model_metrics"].append(
                    (*row, self.model_ids[metric.model], self._experiment_id, *dataset_name)
                )
        of["latest_metrics"] += latest.values()
        _write_files(artifacts, run.files)

    def _input(
        self,
        source_type: str,
        source: str,
        destination_type: str,
        destination: str,
        context: str | None = None,
    ) -> None:
        input_id = uuid.uuid4().hex
        self.of["inputs"].append((input_id, source_type, source, destination_type, destination))
        if context:
            self.of["input_tags"].append((input_id, context))

    def _dataset(self, dataset: Dataset) -> str:
        identity = dataset.name, dataset.digest
        if identity not in self.dataset_ids:
            self.dataset_ids[identity] = uuid.uuid4().hex
            self.of["datasets"].append(
                (
                    self.dataset_ids[identity],
                    self._experiment_id,
                    *identity,
                    dataset.source,
                    dataset.profile,
                )
            )
        return self.dataset_ids[identity]

    def _model(self, model: Model) -> str:
        if model.key not in self.model_ids:
            model_id = (
                "m-" + fingerprint.digest_bytes(f"{self._experiment}\n{model.key}".encode())[:32]
            )
            source = self._run_ids.get(model.source) if model.source is not None else None
            location, made = f"{self._location}/models/{model_id}/artifacts", model.created_ms
            self.of["logged_models"].append(
                (
                    model_id,
                    self._experiment_id,
                    model.name,
                    location,
                    made,
                    made,
                    model.type,
                    source,
                )
            )
            self.of["logged_model_params"] += [
                (model_id, self._experiment_id, *item) for item in model.params.items()
            ]
            self.of["logged_model_tags"] += [
                (model_id, self._experiment_id, *item) for item in model.tags.items()
            ]
            _write_files(location, {"MLmodel": model_file(model, model_id, source, location)})
            self.model_ids[model.key] = model_id
        return self.model_ids[model.key]


def _write_files(location: str, files: Mapping[str, bytes]) -> None:
    folder = unquote(location.removeprefix("file://")) if location.startswith("file:") else location
    os.makedirs(folder, exist_ok=True)
    for name, data in files.items():
        with open(f"{folder}/{name}", "wb", buffering=0) as file:
            file.write(data)
