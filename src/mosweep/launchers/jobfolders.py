"""The jobs of ``JobLauncher``s, on disk before they are submitted.

    jobs/KIND/open/NAME          a mark per job that has not been seen to end
    jobs/KIND/NAME/job.json      the stage's key, the launcher with its options, the sweep
    jobs/KIND/NAME/stage.json    the stage in full
    jobs/KIND/NAME/id            what the launcher calls the job; missing if we died submitting it
    jobs/KIND/NAME/output.txt    what the job prints outside of its stage
    jobs/KIND/NAME/started       the stage began: its log, when
    jobs/KIND/NAME/ended         how the stage ended
    jobs/KIND/NAME/void          the job was given up: it ends at once if it begins after all

They lie in the store, so that every sweep which wants a stage finds the job that another one has
submitted for it.
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
        """The stage in full."""
        spec: Mapping[str, Any] = json.loads((self.folder / "stage.json").read_bytes())
        return spec

    @property
    def id(self) -> str:
        """What the launcher calls the job; empty if it is not known to have been submitted."""
        try:
            return (self.folder / "id").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    @property
    def output(self) -> Path:
        """What the job prints outside of its stage."""
        return self.folder / "output.txt"

    def command(self, store: Store) -> list[str]:
        """What runs the stage."""
        return [
            sys.executable,
            "-m",
            "mosweep.launchers.job",
            str(store.root),
            str(self.folder),
        ]

    def mark(self, what: str) -> Mapping[str, Any] | None:
        """What the job wrote when its stage ``started`` or ``ended``, if it did."""
        try:
            mark: Mapping[str, Any] = json.loads((self.folder / what).read_bytes())
        except FileNotFoundError:
            return None
        return mark

    def submitted(self, id: str) -> None:
        """Remember what the launcher calls the job."""
        write_whole(self.folder / "id", id)

    def close(self, *, void: bool = False) -> None:
        """Nothing more will come of the job; ``void``: it is to end at once if it begins."""
        if void:
            (self.folder / "void").touch()
        (self.folder.parent / "open" / self.folder.name).unlink(missing_ok=True)


@dataclass(frozen=True)
class JobFolders:
    """All jobs of one kind of launcher in one store."""

    root: Path

    def open(self) -> list[JobFolder]:
        """Those that have not been seen to end, oldest first."""
        try:
            names = os.listdir(self.root / "open")
        except FileNotFoundError:
            return []
        jobs = [JobFolder(self.root / name) for name in names]
        return sorted(jobs, key=lambda job: (job.about["time"], job.folder.name))

    def create(self, stage: Stage, launcher: Mapping[str, Any], sweep: Path) -> JobFolder:
        """Write down that a job for ``stage`` is about to be submitted."""
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
