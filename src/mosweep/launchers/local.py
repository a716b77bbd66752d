"""``hydra/launcher=local``: runs stages on this machine, in a pool of worker processes."""

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
    """Processes at a time. By default one per GPU, or fewer if stages need more than one GPU.
    Without GPUs one per core, up to four, and then one per four cores."""

    def check(self, plan: Plan) -> None:
        """Raise ``ConfigError`` for a stage that needs more GPUs than this machine has.

        Without any GPU, all stages run on the CPU.
        """
        gpus = count_gpus()
        for stage in plan.to_run:
            if gpus and (stage.resources.gpus or 0) > gpus:
                raise ConfigError(
                    "resources.gpus",
                    stage.resources.gpus,
                    f"{stage.label} needs more GPUs than this machine has ({gpus})",
                )

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run the plan. On Ctrl-C all workers are killed before the exception is raised again."""
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
