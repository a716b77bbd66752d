"""Records a sweep in MLflow. This projection of the files on disk can be repeated at any time.

``project`` writes the runs that have changed. A marker in the sweep's folder (``MARKER``) lists the
recorded runs, so an unchanged sweep takes a few milliseconds and does not import MLflow. The marker
is optional: without it, or without the database, runs are found by their tags.

One process at a time writes. Others wait and then check the marker again. Trials that are no longer
in the sweep's folder keep their runs.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mosweep.core import fingerprint
from mosweep.core.events import Recorder, SweepFinished
from mosweep.core.files import write_whole
from mosweep.core.results import SweepResult
from mosweep.recorders.base import Projection, ProjectionWarning, turn
from mosweep.recorders.mlflow import client, sqlite
from mosweep.recorders.mlflow.content import Content, run_digest, sweep_id
from mosweep.recorders.mlflow.entities import Run

__all__ = ["MARKER", "MLflowRecorder", "project"]

#: Name of the marker in a sweep's folder.
MARKER = ".mlflow.json"


class Writer(Protocol):
    """Writes the runs of one experiment."""

    batch: int
    experiment_id: str

    def known(self, sweep: str) -> dict[str, str]:
        """The digests of the sweep's runs, by trial. Empty for a run to write again."""
        ...

    def write(self, runs: Sequence[Run]) -> None:
        """Write or replace the runs. The sweep's run comes before those of its trials."""
        ...

    def show(self, columns: Sequence[str]) -> None:
        """Store the view ``VIEW`` of the experiment's table of runs."""
        ...

    def run_id(self, trial: str) -> str | None:
        """The id of a trial's run, or of the sweep's run if ``trial`` is empty."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


def project(
    result: SweepResult, uri: str, artifact_root: Path | None = None, *, locks: Path | None = None
) -> Projection:
    """Update MLflow at ``uri`` with ``result``.

    ``artifact_root`` is the folder for the artifacts of a new experiment, by default beside the
    SQLite file; a server has its own default. ``locks`` is the folder of the lock for writing, by
    default beside the SQLite file or in the sweep's folder. Raises ``MissingExtra``, and MLflow's
    error if it cannot be reached. A trial that cannot be written is counted, with a
    ``ProjectionWarning``.
    """
    wanted = {"": run_digest(result)} | {trial.name: run_digest(trial) for trial in result.trials}
    if page := _recorded(result, uri, wanted):
        return Projection(unchanged=len(result.trials), page=page)
    file = sqlite.file_of(uri)
    with turn(
        locks
        or (file.with_name(f"{file.name}.claims") if file else result.folder / ".mlflow.claims"),
        "mlflow",
    ):
        if page := _recorded(result, uri, wanted):
            return Projection(unchanged=len(result.trials), page=page)
        with contextlib.closing(_open(result.name, uri, file, artifact_root)) as writer:
            known = writer.known(sweep_id(result))
            content = Content(result)
            written, failed = _write(
                content,
                writer,
                [name for name, digest in wanted.items() if known.get(name) != digest],
            )
            writer.show(content.columns)
            page = (
                f"#/experiments/{writer.experiment_id}/runs?workflowType=machine_learning"
                f"&viewStateShareKey={client.VIEW}"
            )
            recorded = {name: digest for name, digest in wanted.items() if name not in failed}
            _mark(
                result,
                {
                    "uri": _anonymous(uri),
                    "run": writer.run_id(""),
                    "page": page,
                    "recorded": recorded,
                },
            )
    created, updated = len(written - known.keys() - {""}), len(written & known.keys() - {""})
    return Projection(
        created, updated, len(result.trials) - created - updated - len(failed), len(failed), page
    )


@dataclass(frozen=True)
class MLflowRecorder(Recorder):
    """Records a sweep in MLflow when it ends.

    A failure is a ``ProjectionWarning``, and does not affect the sweep.
    """

    uri: str
    artifact_root: Path | None = None
    locks: Path | None = None

    def sweep_finished(self, event: SweepFinished) -> None:
        """Record the sweep's results."""
        try:
            project(event.result, self.uri, self.artifact_root, locks=self.locks)
        except Exception as error:
            message = f"not recorded in MLflow ({error}); run `mosweep sync` later"
            warnings.warn(message, ProjectionWarning, stacklevel=2)


def _open(name: str, uri: str, file: Path | None, artifact_root: Path | None) -> Writer:
    if file is None:
        return client.ClientWriter(uri, name, artifact_root)
    artifact_root = artifact_root or file.with_name(f"{file.stem}-artifacts")
    return sqlite.connect(file, name, artifact_root) or client.ClientWriter(
        uri, name, artifact_root
    )


def _write(content: Content, writer: Writer, names: Sequence[str]) -> tuple[set[str], set[str]]:
    """Write the named runs. Returns the names of the written and of the failed runs."""
    trials = {trial.name: trial for trial in content.result.trials}
    written: set[str] = set()
    failed: set[str] = set()

    def attempt(batch: Sequence[str]) -> None:
        try:
            writer.write(
                [content.trial_run(trials[name]) if name else content.sweep_run for name in batch]
            )
            written.update(batch)
        except Exception as error:
            if len(batch) > 1:  # Find the run that cannot be written.
                for name in batch:
                    attempt([name])
            elif not batch[0]:
                raise
            else:
                failed.update(batch)
                warnings.warn(
                    f"trial {batch[0]} was not recorded in MLflow: {error}",
                    ProjectionWarning,
                    stacklevel=4,
                )

    for start in range(0, len(names), writer.batch):
        attempt(names[start : start + writer.batch])
    return written, failed


def _recorded(result: SweepResult, uri: str, wanted: Mapping[str, str]) -> str | None:
    """The page of the runs, if all are recorded according to the marker and the database exists."""
    try:
        marker = json.loads((result.folder / MARKER).read_bytes())
        same = marker["uri"] == _anonymous(uri) and marker["recorded"] == wanted
        return str(marker["page"]) if same and _is_there(uri, marker["run"]) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _is_there(uri: str, run_id: str) -> bool:
    """Whether the sweep's run exists. Also ``False`` if only MLflow's client can tell."""
    file = sqlite.file_of(uri)
    if file is not None:
        return sqlite.has_run(file, run_id)
    if not uri.startswith(("http://", "https://")):
        return False
    import urllib.request

    try:
        with urllib.request.urlopen(
            f"{uri.rstrip('/')}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=10
        ) as reply:
            return bool(json.load(reply)["run"]["info"]["lifecycle_stage"] == "active")
    except Exception:  # MLflow's client has a better message (password, no answer …).
        return False


def _mark(result: SweepResult, marker: Mapping[str, Any]) -> None:
    write_whole(result.folder / MARKER, json.dumps(marker, separators=(",", ":")))


def _anonymous(uri: str) -> str:
    """A digest of the URI for the marker, because the URI may contain a password."""
    return fingerprint.digest_bytes(uri.encode())
