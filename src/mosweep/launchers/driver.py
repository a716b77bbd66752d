"""Runs a plan with any launcher.

``PlanRun`` tracks the outcome, the budget, events, and stages that cannot run after a failure.
``Driver`` adds the ready stages, and a loop that starts a stage once its inputs are done. Slurm
accepts jobs before their inputs are done, so ``launchers.slurm`` has its own loop over a
``PlanRun``.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mosweep.core.events import (
    Notice,
    Recorder,
    StageFailed,
    StageFinished,
    StageQueued,
    StageStarted,
)
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.cost.budget import Meter
from mosweep.launchers.base import Outcome
from mosweep.sweep.plan import Plan

__all__ = ["Driver", "PlanRun", "Site"]

#: Seconds between checks of stages that other processes have claimed.
POLL_S = 0.25


class PlanRun:
    """One run of a plan. ``todo`` maps keys to stages that have not ended, inputs first."""

    def __init__(self, plan: Plan, store: Store, recorder: Recorder) -> None:
        self.plan, self.store, self.recorder = plan, store, recorder
        self.outcome = Outcome(finished=set(plan.records))
        self.todo: dict[str, Stage] = {stage.key: stage for stage in plan.to_run}
        self.dependents: dict[str, list[str]] = {key: [] for key in self.todo}
        for stage in plan.to_run:
            for need in {need.key for need in stage.needs.values()} & self.todo.keys():
                self.dependents[need].append(stage.key)
        self.meter = Meter.of(plan, store)

    def label(self, key: str) -> str:
        """The stage's label."""
        return self.plan.stages[key].label

    def is_ready(self, stage: Stage) -> bool:
        """Whether the stage's inputs are done."""
        return all(need.key in self.outcome.finished for need in stage.needs.values())

    def descendants(self, key: str) -> set[str]:
        """All stages that depend on the stage, directly or not."""
        below: set[str] = set()
        waiting = [key]
        while waiting:
            new = [other for other in self.dependents[waiting.pop()] if other not in below]
            below.update(new)
            waiting += new
        return below

    def notice(self, text: str) -> None:
        """Show the user a message that is not about a single stage."""
        self.recorder.notice(Notice(text))

    def queued(
        self,
        jobs: Mapping[str, str],
        tries: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
    ) -> None:
        """The stages were queued as these jobs. ``tries``: how earlier jobs ended."""
        self.recorder.stages_queued(
            [
                StageQueued(
                    key, self.label(key), self.plan.trial_of[key], job, (tries or {}).get(key, ())
                )
                for key, job in jobs.items()
            ]
        )

    def started(self, key: str, job: str, log: Path) -> None:
        """The stage started."""
        self.recorder.stage_started(
            StageStarted(key, self.label(key), self.plan.trial_of[key], job, log)
        )

    def finished(self, key: str, job: str, seconds: float, elsewhere: bool = False) -> None:
        """The stage's record exists. ``elsewhere``: another process made it."""
        stage = self.todo.pop(key)
        if self.meter:
            (self.meter.returns if elsewhere else self.meter.finished)(key)
        self.outcome.finished.add(key)
        self.recorder.stage_finished(
            StageFinished(key, self.label(key), self.plan.trial_of[key], job, seconds, elsewhere)
        )
        if stage.work.kind.trains and not stage.work.traits.silent:
            self._pass_on_warning(key)

    def _pass_on_warning(self, key: str) -> None:
        """Show what a fine-tune warns of in its facts."""
        try:
            warning = self.store.unchecked(key)["facts"].get("warning")
        except (OSError, ValueError):
            return
        if warning:
            self.notice(f"warning: {self.label(key)} of {self.plan.trial_of[key]}: {warning}")

    def failed(
        self, key: str, job: str, error: str, log: Path | None = None, *, cancelled: bool = False
    ) -> list[str]:
        """The stage failed and is not retried. Returns the stages that now cannot run."""
        del self.todo[key]
        if self.meter:
            self.meter.failed(key)
        self.outcome.failed[key] = error
        self.recorder.stage_failed(
            StageFailed(key, self.label(key), self.plan.trial_of[key], job, error, log, cancelled)
        )
        given_up = [other for other in self.descendants(key) if other in self.todo]
        for other in given_up:
            if self.meter:
                self.meter.returns(other)
            del self.todo[other]
            self.outcome.failed[other] = f"not run: {self.label(key)} failed"
        return given_up


class Site(Protocol):
    """Where a driver's stages run."""

    def hand_out(self) -> None:
        """Start as many ready stages as there is room for, with ``Driver.take``."""
        ...

    def listen(self, timeout: float | None) -> None:
        """Wait for events, up to ``timeout`` seconds, and report them to the driver."""
        ...


class Driver(PlanRun):
    """Runs stages once their inputs are done, those with the longest chain of dependents first.

    Ready stages wait in lines. ``line`` returns the line of a stage, such as the runtime it loads.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        recorder: Recorder,
        line: Callable[[Stage], str] = lambda stage: "",
    ) -> None:
        super().__init__(plan, store, recorder)
        self.line = line
        self.missing = {
            key: {need.key for need in stage.needs.values() if need.key not in plan.records}
            for key, stage in self.todo.items()
        }
        self.order = {key: index for index, key in enumerate(self.todo)}
        self.height: dict[str, int] = {}
        for key in reversed(self.todo):
            self.height[key] = 1 + max(
                (self.height[other] for other in self.dependents[key]), default=0
            )
        #: Ready stages by line: longest chain first, then in the plan's order.
        self.lines: dict[str, list[tuple[int, int, str]]] = {}
        #: Stages that other processes have claimed, and when to check them again.
        self.elsewhere: dict[str, float] = {}
        for key in self.todo:
            if not self.missing[key]:
                self.offer(key)

    def run(self, site: Site) -> Outcome:
        """Run until every stage has ended."""
        while True:
            site.hand_out()
            if not self.todo:
                return self.outcome
            site.listen(POLL_S if self.elsewhere else None)
            self.check_elsewhere()

    def offer(self, key: str) -> None:
        """Add a stage that is ready to start, or to start again."""
        if self.meter:
            self.meter.returns(key)
        line = self.lines.setdefault(self.line(self.plan.stages[key]), [])
        heapq.heappush(line, (-self.height[key], self.order[key], key))

    def first(self, line: str) -> str | None:
        """The first stage in line, if it may start now. Stages over the budget fail."""
        waiting = self.lines.get(line, [])
        while waiting and waiting[0][2] not in self.todo:  # It ended in an earlier job.
            heapq.heappop(waiting)
        while waiting and self.meter and (why := self.meter.refusal(waiting[0][2])):
            self.failed(heapq.heappop(waiting)[2], "", why, cancelled=True)
        if not waiting or (self.meter and self.meter.must_wait(waiting[0][2])):
            return None
        return waiting[0][2]

    def take(self, line: str) -> str:
        """Remove and return the first stage in line, which starts now."""
        key = heapq.heappop(self.lines[line])[2]
        if self.meter:
            self.meter.starts(key)
        return key

    def busy(self, key: str) -> None:
        """Another process has claimed the stage. Use its result, or start when its claim ends."""
        if self.meter:
            self.meter.returns(key)
        self.elsewhere[key] = time.monotonic() + POLL_S

    def finished(self, key: str, job: str, seconds: float, elsewhere: bool = False) -> None:
        super().finished(key, job, seconds, elsewhere)
        for other in self.dependents[key]:
            self.missing[other].discard(key)
            if not self.missing[other]:
                self.offer(other)

    def check_elsewhere(self) -> None:
        """Check on the stages that other processes have claimed."""
        now = time.monotonic()
        for key in [key for key, due in self.elsewhere.items() if due <= now]:
            if self.store.read(key):
                del self.elsewhere[key]
                self.finished(key, "another process", 0.0, True)
            elif self.store.claims.owner(key):
                self.elsewhere[key] = now + POLL_S
            else:
                del self.elsewhere[key]
                self.offer(key)
