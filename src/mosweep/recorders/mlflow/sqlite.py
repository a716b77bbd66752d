"""Writes runs directly to MLflow's SQLite file: many in one transaction, without MLflow.

MLflow may change its tables at any time. So this requires a schema revision that this module was
tested with (``REVISIONS``), and artifacts in a local folder. Otherwise ``connect`` returns
``None``, and the caller uses MLflow's client. A test checks that both write the same content.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mosweep.core import fingerprint
from mosweep.recorders.mlflow import client
from mosweep.recorders.mlflow.entities import Run
from mosweep.recorders.mlflow.rows import CLEAR, INSERT, Rows

__all__ = ["REVISIONS", "SqliteWriter", "connect", "file_of", "has_run"]

#: Alembic revisions whose tables this module knows: that of MLflow 3.17.2.
REVISIONS = frozenset({"dc11669786a5"})

_BUSY_S = 60.0


def file_of(uri: str) -> Path | None:
    """The file of a ``sqlite:///`` URI. ``None`` for other URIs."""
    prefix = "sqlite:///"
    name = uri.removeprefix(prefix).partition("?")[0]
    return Path(name).absolute() if uri.startswith(prefix) and name and name != ":memory:" else None


def has_run(file: Path, run_id: str) -> bool:
    """Whether the file has the run, and neither it nor its experiment was deleted."""
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
    """A writer for one experiment, or ``None`` if only MLflow's client may write.

    Creates the database and the experiment if they are missing.
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
        self._set_tags(client.KIND)
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
        """Whether the artifacts are in a folder of this machine."""
        return urlsplit(self._location).scheme in ("", "file")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def known(self, sweep: str) -> dict[str, str]:
        """The digests of the sweep's runs, by trial. Empty for a run to write again."""
        rows = self._database.execute(
            "select runs.run_uuid, name.value, digest.value, runs.lifecycle_stage from tags sweep "
            "join runs on runs.run_uuid = sweep.run_uuid "
            "join tags name on name.run_uuid = sweep.run_uuid and name.key = 'mosweep.trial' "
            "left join tags digest on digest.run_uuid = sweep.run_uuid and digest.key = "
            "'mosweep.digest' "
            "where sweep.key = 'mosweep.sweep.folder' and sweep.value = ? and runs.experiment_id "
            "= ? order by runs.lifecycle_stage desc",
            (sweep, self._number),
        ).fetchall()  # 'deleted' comes first, so that an active run of the same name wins.
        self._run_ids = {trial: run_id for run_id, trial, _, _ in rows}
        return {
            trial: digest or "" if stage == "active" else "" for _, trial, digest, stage in rows
        }

    def run_id(self, trial: str) -> str | None:
        """The id of a trial's run, or of the sweep's run if ``trial`` is empty."""
        return self._run_ids.get(trial)

    def write(self, runs: Sequence[Run]) -> None:
        """Write or replace the runs, in one transaction."""
        old = [(self._run_ids[run.trial],) for run in runs if run.trial in self._run_ids]
        run_ids = {run.trial: self._new_id(run.sweep, run.trial) for run in runs} | self._run_ids
        rows = Rows(
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
            for statement in CLEAR if old else ():
                database.executemany(statement, old)
            if old:  # This table has no index, so one scan handles all runs.
                marks = ",".join("?" * len(old))
                database.execute(
                    f"delete from logged_model_metrics where run_id in ({marks})",
                    [run_id for (run_id,) in old],
                )
            for table, statement in INSERT.items():
                database.executemany(statement, rows.of[table])
        self._run_ids, self._model_ids, self._dataset_ids = (
            run_ids,
            rows.model_ids,
            rows.dataset_ids,
        )

    def show(self, columns: Sequence[str]) -> None:
        """Store the view ``VIEW`` of the experiment's table of runs."""
        self._set_tags(dict([client.view_tag(columns)]))

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        statement = (
            "insert or replace into experiment_tags (experiment_id, key, value) values (?,?,?)"
        )
        self._database.executemany(statement, [(self._number, *tag) for tag in tags.items()])

    def _new_id(self, sweep: str, trial: str) -> str:
        """An id derived from the trial, so that a new database finds the old artifact folders."""
        return fingerprint.digest_bytes(f"{self._experiment}\n{sweep}\n{trial}".encode())[:32]

    def _open_experiment(self, artifact_root: Path) -> tuple[int, str]:
        query = (
            "select experiment_id, artifact_location, lifecycle_stage from experiments where "
            "name=? and workspace='default'"
        )
        with _transaction(self._database) as database:
            known = database.execute(query, (self._experiment,)).fetchone()
            if known is None:
                now = round(time.time() * 1000)
                made = database.execute(
                    "insert into experiments (name, lifecycle_stage, creation_time, "
                    "last_update_time, workspace) "
                    "values (?,'active',?,?,'default') returning experiment_id",
                    (self._experiment, now, now),
                )
                number = int(made.fetchone()[0])
                location = client.artifact_location(artifact_root, self._experiment)
                database.execute(
                    "update experiments set artifact_location=? where experiment_id=?",
                    (location, number),
                )
                return number, location
            if known[2] == "deleted":
                database.execute(
                    "update experiments set lifecycle_stage='active' where experiment_id=?",
                    known[:1],
                )
            return int(known[0]), str(known[1])


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    database.execute("begin immediate")
    try:
        yield database
    except BaseException:
        database.execute("rollback")
        raise
    database.execute("commit")


def _create(file: Path) -> None:
    """Create an empty database with MLflow's own migrations, atomically.

    This uses internals of MLflow. If they do not exist, MLflow's client creates the database.
    """
    client.load()
    utils: Any = importlib.import_module("mlflow.store.db.utils")
    if not (hasattr(utils, "create_sqlalchemy_engine") and hasattr(utils, "_initialize_tables")):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{temporary}")
    try:
        utils._initialize_tables(engine)
        engine.dispose()
        if file.exists() and file.stat().st_size == 0:  # Another program created an empty file.
            temporary.replace(file)
        else:
            with contextlib.suppress(FileExistsError):  # Another process has just created it.
                os.link(temporary, file)
    finally:
        engine.dispose()
        temporary.unlink(missing_ok=True)
