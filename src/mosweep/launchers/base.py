"""What a launcher is: it runs the missing stages of a plan where they belong.

A launcher whose stages are jobs of their own, one each, is best written as a
``launchers.jobs.JobLauncher``: four methods say how a job is started, seen, ended and read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mosweep.core.checks import Check
from mosweep.core.errors import UserError
from mosweep.core.events import Recorder
from mosweep.core.results import Queued
from mosweep.core.store import Store
from mosweep.sweep.plan import Plan

__all__ = ["Launcher", "Outcome"]


@dataclass
class Outcome:
    """How a launch ended: the keys whose record is there now, and for the others what went wrong.

    ``detached``: it returned before the end, and the rest goes on without us.
    """

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    detached: bool = False


class Launcher(ABC):
    """Runs plans. Subclass it as a frozen dataclass; its fields are the keys of ``hydra.launcher``.

    - ``kind``: its name, such as ``slurm``: in the frozen design of a sweep and in the store.
    - ``title``: what people call the place, such as ``Slurm``.
    - ``outlives``: its jobs go on when our process ends. Then ``observe``, ``withdraw`` and
      ``in_use`` must work from any process that sees the store, whatever the options.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    outlives: ClassVar[bool] = False

    @property
    def waits(self) -> bool:
        """Whether ``run`` returns only when nothing more can be done."""
        return True

    def waiting(self, wait: bool) -> Launcher:
        """The same launcher, but ``run`` waits, or returns when all jobs are submitted."""
        if wait:
            return self
        raise UserError(f"hydra/launcher={self.kind}: stages end with mosweep, so it has to wait")

    def check(self, plan: Plan) -> None:  # noqa: B027 - most launchers take any plan
        """Raise ``UserError`` for what could never run here. Nothing is written yet."""

    @abstractmethod
    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run every stage of ``plan.to_run`` whose needs can be met.

        ``sweep`` is the sweep's folder. Returns when nothing more can be done.
        """

    def observe(self, store: Store, keys: Collection[str]) -> Mapping[str, Queued]:
        """What is known of the jobs of those stages among ``keys`` that have no record."""
        return {}

    def withdraw(self, store: Store, keys: Collection[str]) -> Mapping[str, str]:
        """End the jobs of those stages among ``keys`` that have no record; the jobs by stage."""
        return {}

    def in_use(self, store: Store) -> set[str]:
        """Stages that have jobs, and their inputs: records that must stay."""
        return set()

    @classmethod
    def checks(cls) -> Sequence[Check]:
        """Whether it would work here, for ``mosweep doctor``."""
        return ()
