"""The base class of launchers, which run the missing stages of a plan.

A launcher with one job per stage should derive from ``launchers.jobs.JobLauncher``. It has four
methods to write: they start, list and cancel jobs, and find their logs.
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
    """The result of a launch: the keys of finished stages, and the errors of failed ones.

    ``detached``: it returned before the end, and the other stages continue.
    """

    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    detached: bool = False


class Launcher(ABC):
    """Runs plans. Subclass it as a frozen dataclass; its fields are the keys of ``hydra.launcher``.

    - ``kind``: its name in the frozen design of a sweep and in the store, such as ``slurm``.
    - ``title``: its name in messages, such as ``Slurm``.
    - ``outlives``: its jobs continue when this process ends. Then ``observe``, ``withdraw`` and
      ``in_use`` must work in any process that can read the store, with any options.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    outlives: ClassVar[bool] = False

    @property
    def waits(self) -> bool:
        """Whether ``run`` returns only when all stages have ended."""
        return True

    def waiting(self, wait: bool) -> Launcher:
        """A copy whose ``run`` waits, or returns when all jobs are submitted."""
        if wait:
            return self
        raise UserError(f"hydra/launcher={self.kind} must wait, because stages end with mosweep")

    def exporting(self, environment: Mapping[str, str]) -> Launcher:
        """A copy that also sets the variables ``environment`` where stages run.

        This process has them already, so launchers whose processes inherit them need nothing.
        """
        return self

    def check(self, plan: Plan) -> None:  # noqa: B027 - most launchers accept any plan
        """Raise ``UserError`` for a plan that can never run here. Nothing is written yet."""

    @abstractmethod
    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run every stage of ``plan.to_run`` whose inputs can be made.

        ``sweep`` is the sweep's folder. Returns when all stages have ended.
        """

    def observe(self, store: Store, keys: Collection[str]) -> Mapping[str, Queued]:
        """The jobs of the stages in ``keys`` without a record."""
        return {}

    def withdraw(self, store: Store, keys: Collection[str]) -> Mapping[str, str]:
        """Cancel the jobs of the stages in ``keys`` without a record. Returns the jobs by stage."""
        return {}

    def in_use(self, store: Store) -> set[str]:
        """Stages with jobs, and their inputs. Their records must not be removed."""
        return set()

    @classmethod
    def checks(cls) -> Sequence[Check]:
        """Whether it works on this machine, for ``mosweep doctor``."""
        return ()
