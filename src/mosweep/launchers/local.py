"""``hydra/launcher=local``: the missing stages on this machine, in a bounded pool of worker
processes.

Workers outlive stages, so that what a stage imported serves the next of its kind; a stage that
kills its process (``os._exit``, the kernel's out-of-memory killer, a segmentation fault) costs that
stage alone. Quick stages are handed out many at a time. Stages that wait for a provider's computer
share one more process, up to ``max_concurrent`` of a provider's at a time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mosweep.core.errors import ConfigError
from mosweep.core.events import Recorder
from mosweep.core.schema import between
from mosweep.core.store import Store
from mosweep.launchers.base import Launcher, Outcome
from mosweep.launchers.driver import Driver
from mosweep.launchers.pool import Pool, line_of
from mosweep.launchers.processes import count_gpus
from mosweep.sweep.plan import Plan

__all__ = ["Local"]


@dataclass(frozen=True)
class Local(Launcher):
    """A pool of worker processes on this machine."""

    kind: ClassVar[str] = "local"
    title: ClassVar[str] = "this machine"

    workers: int | None = field(default=None, metadata=between(ge=1))
    """Processes at a time. By default one per GPU, or per as many GPUs as a stage asks for. Without
    GPUs one per core, up to four, and then one per four cores."""

    def check(self, plan: Plan) -> None:
        """Refuse what asks for more GPUs than there are, where there are any; elsewhere processes
        share the CPU.
        """
        gpus = count_gpus()
        for stage in plan.to_run:
            if gpus and (stage.resources.gpus or 0) > gpus:
                raise ConfigError(
                    "resources.gpus",
                    stage.resources.gpus,
                    f"{stage.label} asks for more GPUs than are here ({gpus})",
                )

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run the plan. On Ctrl-C every worker is ended before the exception goes on."""
        if not plan.to_run:
            return Outcome(finished=set(plan.records))
        gpus = count_gpus()
        each = (
            min(max((stage.resources.gpus or 1 for stage in plan.to_run), default=1), gpus)
            if gpus
            else 1
        )
        wanted = self.workers or gpus // each or _by_cores(os.cpu_count() or 1)
        here = sum(stage.work.traits.remote is None for stage in plan.to_run)
        driver = Driver(plan, store, recorder, line_of)
        pool = Pool(driver, min(wanted, here), gpus, each)
        try:
            pool.start()
            return driver.run(pool)
        except KeyboardInterrupt:
            pool.report_remote_jobs()
            raise
        finally:
            pool.close()


def _by_cores(cores: int) -> int:
    return cores if cores <= 4 else max(4, cores // 4)
