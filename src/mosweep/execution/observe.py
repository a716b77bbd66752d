"""The current state of a sweep, from its folder and from the launchers' queues."""

from __future__ import annotations

from mosweep.core.results import Queued, SweepResult
from mosweep.launchers.lookup import launchers_with_jobs
from mosweep.sweep.folder import Sweep

__all__ = ["observed"]


def observed(sweep: Sweep) -> SweepResult:
    """The state of a sweep, with the state of its jobs in the launchers' queues."""
    queued: dict[str, Queued] = {}
    for launch in sweep.launches:
        for launcher in launchers_with_jobs(launch.store, strict=False):
            queued |= launcher.observe(launch.store, launch.stages)
    return sweep.result(queued=queued)
