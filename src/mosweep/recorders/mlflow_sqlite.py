"""Writing runs straight into MLflow's SQLite file: many in one transaction, without importing
MLflow.

Tables are MLflow's own business, so this is done only when the file's schema revision is one that
this module was tested with (``REVISIONS``) and the experiment's artifacts lie in a local folder. In
every other case ``connect`` returns ``None`` and the caller goes through MLflow's client; a test
holds that both leave the same content.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mosweep.core import fingerprint
from mosweep.recorders import mlflow_client
from mosweep.recorders.mlflow_entities import Dataset, Model, Run, model_file

__all__ = ["REVISIONS", "SqliteWriter", "connect", "file_of", "has_run"]

#: Alembic revisions whose tables this module knows: that of MLflow 3.17.2.
REVISIONS = frozenset({"dc11669786a5"})

_READY = 2  # MLflow's LoggedModelStatus.READY
_BUSY_S = 60.0

_INSERT = {
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
    "on conflict (model_id) do update set lifecycle_stage='active'",  # the user had deleted it
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

#: What is removed of a run before it is written anew. Tags that are not ours stay.
_CLEAR = (
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


def file_of(uri: str) -> Path | None:
    """The file of a ``sqlite:///`` URI; ``None`` for any other."""
    prefix = "sqlite:///"
    name = uri.removeprefix(prefix).partition("?")[0]
    return Path(name).absolute() if uri.startswith(prefix) and name and name != ":memory:" else None


def has_run(file: Path, run_id: str) -> bool:
    """Whether the file holds the run, and neither it nor its experiment was deleted."""
    query = (
        "select 1 from runs join experiments using (experiment_id) where run_uuid=? "
        "and runs.lifecycle_stage='active' and experiments.lifecycle_stage='active'"
    )
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        ) as database:
            return database.execute(query, (run_id,)).fetchone() is not None
    except sqlite3.Error:
        return False


def connect(file: Path, experiment: str, artifact_root: Path) -> SqliteWriter | None:
    """A writer for one experiment of the database, which is made if need be; ``None`` where only
    MLflow's client may write.
    """
    if not file.exists() or file.stat().st_size == 0:
        _create(file)
    if not file.exists():
        return None
    database = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None)
    try:
        (revision,) = database.execute("select version_num from alembic_version").fetchone() or (
            None,
        )
    except sqlite3.OperationalError:
        revision = None
    if revision in REVISIONS:
        writer = SqliteWriter(database, experiment, artifact_root)
        if writer.local:
            return writer
    database.close()
    return None


class SqliteWriter:
    """Writes one experiment, many runs in a transaction."""

    #: Runs per call of ``write``.
    batch = 500

    def __init__(self, database: sqlite3.Connection, experiment: str, artifact_root: Path) -> None:
        self._database = database
        self._experiment = experiment
        self._number, location = self._open_experiment(artifact_root)
        self.experiment_id = str(self._number)
        self._set_tags(mlflow_client.KIND)
        self._location = location.rstrip("/")
        self._run_ids: dict[str, str] = {}
        rows = database.execute(
            "select tag_value, model_id from logged_model_tags join logged_models using (model_id) "
            "where tag_key='mosweep.key' and lifecycle_stage='active' and "
            "logged_models.experiment_id=?",
            (self._number,),
        )
        self._model_ids: dict[str, str] = dict(rows)
        datasets = database.execute(
            "select name, digest, dataset_uuid from datasets where experiment_id=?", (self._number,)
        )
        self._dataset_ids = {(name, digest): dataset_id for name, digest, dataset_id in datasets}

    @property
    def local(self) -> bool:
        """Whether the artifacts lie in a folder of this machine."""
        return urlsplit(self._location).scheme in ("", "file")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def known(self, sweep: str) -> dict[str, str]:
        """The digests of the sweep's runs by trial; empty for a run that has to be written
        again.
        """
        rows = self._database.execute(
            "select runs.run_uuid, name.value, digest.value, runs.lifecycle_stage from tags sweep "
            "join runs on runs.run_uuid = sweep.run_uuid "
            "join tags name on name.run_uuid = sweep.run_uuid and name.key = 'mosweep.trial' "
            "left join tags digest on digest.run_uuid = sweep.run_uuid and digest.key = "
            "'mosweep.digest' "
            "where sweep.key = 'mosweep.sweep.folder' and sweep.value = ? and runs.experiment_id "
            "= ? order by runs.lifecycle_stage desc",
            (sweep, self._number),
        ).fetchall()  # 'deleted' first, so that an active run of the same name wins
        self._run_ids = {trial: run_id for run_id, trial, _, _ in rows}
        return {
            trial: digest or "" if stage == "active" else "" for _, trial, digest, stage in rows
        }

    def run_id(self, trial: str) -> str | None:
        """The id of a trial's run, or of the sweep's where ``trial`` is empty."""
        return self._run_ids.get(trial)

    def write(self, runs: Sequence[Run]) -> None:
        """Write the runs, over what there is of them: all or none."""
        old = [(self._run_ids[run.trial],) for run in runs if run.trial in self._run_ids]
        run_ids = {run.trial: self._new_id(run.sweep, run.trial) for run in runs} | self._run_ids
        rows = _Rows(
            self._experiment,
            self._number,
            self._location,
            run_ids,
            dict(self._model_ids),
            dict(self._dataset_ids),
        )
        for run in runs:
            rows.add(run)
        with _transaction(self._database) as database:
            for statement in _CLEAR if old else ():
                database.executemany(statement, old)
            if old:  # no index here: one scan for all
                marks = ",".join("?" * len(old))
                database.execute(
                    f"delete from logged_model_metrics where run_id in ({marks})",
                    [run_id for (run_id,) in old],
                )
            for table, statement in _INSERT.items():
                database.executemany(statement, rows.of[table])
        self._run_ids, self._model_ids, self._dataset_ids = (
            run_ids,
            rows.model_ids,
            rows.dataset_ids,
        )

    def show(self, columns: Sequence[str]) -> None:
        """Store the view ``VIEW`` of the experiment's table of runs."""
        self._set_tags(dict([mlflow_client.view_tag(columns)]))

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        statement = (
            "insert or replace into experiment_tags (experiment_id, key, value) values (?,?,?)"
        )
        self._database.executemany(statement, [(self._number, *tag) for tag in tags.items()])

    def _new_id(self, sweep: str, trial: str) -> str:
        """The same for the same trial, so that a database made anew finds the artifact folders of
        the old one.
        """
        return fingerprint.digest_bytes(f"{self._experiment}\n{sweep}\n{trial}".encode())[:32]

    def _open_experiment(self, artifact_root: Path) -> tuple[int, str]:
        query = (
            "select experiment_id, artifact_location, lifecycle_stage from experiments where "
            "name=? and workspace='default'"
        )
        with _transaction(self._database) as database:
            found = database.execute(query, (self._experiment,)).fetchone()
            if found is None:
                now = round(time.time() * 1000)
                made = database.execute(
                    "insert into experiments (name, lifecycle_stage, creation_time, "
                    "last_update_time, workspace) "
                    "values (?,'active',?,?,'default') returning experiment_id",
                    (self._experiment, now, now),
                )
                number = int(made.fetchone()[0])
                location = mlflow_client.artifact_location(artifact_root, self._experiment)
                database.execute(
                    "update experiments set artifact_location=? where experiment_id=?",
                    (location, number),
                )
                return number, location
            if found[2] == "deleted":
                database.execute(
                    "update experiments set lifecycle_stage='active' where experiment_id=?",
                    found[:1],
                )
            return int(found[0]), str(found[1])


class _Rows:
    """The rows of some runs, by table. Writes the runs' files on the way."""

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
        self._experiment, self._experiment_id, self._location, self._run_ids = (
            experiment,
            experiment_id,
            location,
            run_ids,
        )

    def add(self, run: Run) -> None:
        """Add a run and all that hangs on it."""
        of, run_id, artifacts = (
            self.of,
            self._run_ids[run.trial],
            f"{self._location}/{self._run_ids[run.trial]}/artifacts",
        )
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


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("begin immediate")
    try:
        yield database
    except BaseException:
        database.execute("rollback")
        raise
    database.execute("commit")


def _write_files(location: str, files: Mapping[str, bytes]) -> None:
    folder = unquote(location.removeprefix("file://")) if location.startswith("file:") else location
    os.makedirs(folder, exist_ok=True)
    for name, data in files.items():
        with open(f"{folder}/{name}", "wb", buffering=0) as file:
            file.write(data)


def _create(file: Path) -> None:
    """Make an empty database with MLflow's own migrations, and show it only once it is whole. Needs
    insides of MLflow's: if they have moved, its client has to do it.
    """
    mlflow_client.load()
    utils: Any = importlib.import_module("mlflow.store.db.utils")
    if not (hasattr(utils, "create_sqlalchemy_engine") and hasattr(utils, "_initialize_tables")):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{temporary}")
    try:
        utils._initialize_tables(engine)
        engine.dispose()
        if file.exists() and file.stat().st_size == 0:  # touched by someone, never filled
            temporary.replace(file)
        else:
            with contextlib.suppress(FileExistsError):  # another program made it meanwhile
                os.link(temporary, file)
    finally:
        engine.dispose()
        temporary.unlink(missing_ok=True)
