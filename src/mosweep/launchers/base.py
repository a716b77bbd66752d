"""What a launcher is: it runs the missing stages of a plan where they belong and tells the recorder
what happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mosweep.core.events import Recorder
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


class Launcher(Protocol):
    """Runs plans. Implementations are frozen dataclasses: their fields are the keys of
    ``hydra.launcher``.
    """

    def check(self, plan: Plan) -> None:
        """Raise ``UserError`` for what could never run here; called before anything is written."""
        ...

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run every stage of ``plan.to_run`` whose needs can be met; returns when nothing more can
        be done.

        ``sweep`` is the sweep's folder.
        """
        ...


def dependents(plan: Plan) -> Mapping[str, list[str]]:
    """For each missing stage the missing stages that need it."""
    missing = {stage.key for stage in plan.to_run}
    waiting: dict[str, list[str]] = {key: [] for key in missing}
    for stage in plan.to_run:
        for need in {need.key for need in stage.needs.values()} & missing:
            waiting[need].append(stage.key)
    return waiting
