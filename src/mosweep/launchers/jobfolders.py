"""The jobs of ``JobLauncher``s, as files. They are written before a job is submitted.

    jobs/KIND/open/NAME          exists until the job is known to have ended
    jobs/KIND/NAME/job.json      the stage's key, the launcher with its options, the sweep
    jobs/KIND/NAME/stage.json    the stage's spec
    jobs/KIND/NAME/id            the launcher's id of the job; missing if the submission failed
    jobs/KIND/NAME/output.txt    the job's output outside of its stage
    jobs/KIND/NAME/started       the stage started: its log and time
    jobs/KIND/NAME/ended         the stage ended: its result
    jobs/KIND/NAME/void          the job was abandoned: it ends immediately if it starts later

The files are in the store, so that a sweep finds jobs that other sweeps submitted for its stages.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.core.files import write_whole
from mosweep.core.store import Store
from mosweep.core.types import Stage

__all__ = ["JobFolder", "JobFolders"]


@dataclass(frozen=True)
class JobFolder:
    """One job."""

    folder: Path

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """``key``, ``launcher``, ``sweep`` and ``time``."""
        about: Mapping[str, Any] = json.loads((self.folder / "job.json").read_bytes())
        return about

    @property
    def key(self) -> str:
        """The stage's key."""
        return str(self.about["key"])

    @property
    def spec(self) -> Mapping[str, Any]:
        """The stage's spec."""
        spec: Mapping[str, Any] = json.loads((self.folder / "stage.json").read_bytes())
        return spec

    @property
    def id(self) -> str:
        """The launcher's id of the job. Empty if it may not have been submitted."""
        try:
            return (self.folder / "id").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @property
    def output(self) -> Path:
        """The job's output outside of its stage."""
        return self.folder / "output.txt"

    def command(self, store: Store) -> list[str]:
        """The command that runs the stage."""
        return [
            sys.executable,
            *("-P", "-m", "mosweep.launchers.job"),
            str(store.root),
            str(self.folder),
        ]

    def mark(self, what: str) -> Mapping[str, Any] | None:
        """The content of the mark ``started`` or ``ended``. ``None`` if there is none."""
        try:
            mark: Mapping[str, Any] = json.loads((self.folder / what).read_bytes())
        except FileNotFoundError:
            return None
        return mark

    def submitted(self, id: str) -> None:
        """Store the launcher's id of the job."""
        write_whole(self.folder / "id", id)

    def close(self, *, void: bool = False) -> None:
        """Mark the job as ended. ``void``: it ends immediately if it starts later."""
        if void:
            (self.folder / "void").touch()
        (self.folder.parent / "open" / self.folder.name).unlink(missing_ok=True)


@dataclass(frozen=True)
class JobFolders:
    """All jobs of one kind of launcher in one store."""

    root: Path

    def open(self) -> list[JobFolder]:
        """The jobs that are not known to have ended, oldest first."""
        try:
            names = os.listdir(self.root / "open")
        except FileNotFoundError:
            return []
        jobs = [JobFolder(self.root / name) for name in names]
        return sorted(jobs, key=lambda job: (job.about["time"], job.folder.name))

    def create(self, stage: Stage, launcher: Mapping[str, Any], sweep: Path) -> JobFolder:
        """Create the folder of a job for ``stage``, before it is submitted."""
        job = JobFolder(self.root / f"{stage.key[:16]}-{secrets.token_hex(5)}")
        job.folder.mkdir(parents=True)
        (self.root / "open").mkdir(exist_ok=True)
        about = {
            "key": stage.key,
            "launcher": launcher,
            "sweep": str(sweep),
            "time": round(time.time(), 3),
        }
        write_whole(job.folder / "stage.json", json.dumps(stage.spec))
        write_whole(job.folder / "job.json", json.dumps(about))
        (self.root / "open" / job.folder.name).touch()
        return job
