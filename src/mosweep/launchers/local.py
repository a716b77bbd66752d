"""``hydra/launcher=local``: the missing stages on this machine, in a bounded pool of worker
processes.

Workers outlive stages, so that what a stage imported serves the next of its kind; a stage that
kills its process (``os._exit``, the kernel's out-of-memory killer, a segmentation fault) costs that
stage alone. Quick stages are handed out many at a time. Stages that wait for somebody else's
computer (a work's ``remote`` names the provider) share one more process, up to ``max_concurrent``
of a provider's at a time.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import selectors
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosweep.core.errors import ConfigError, MosweepError
from mosweep.core.events import Notice, Recorder, StageFailed, StageFinished, StageStarted
from mosweep.core.schema import between
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.cost.budget import Meter
from mosweep.launchers.base import Outcome, dependents
from mosweep.launchers.processes import RemoteWorker, Worker, count_gpus
from mosweep.sweep.plan import Plan

__all__ = ["Local"]

#: How many quick stages a worker is handed ahead of time, and below what mean duration (seconds)
#: stages count as quick.
AHEAD, QUICK_S = 32, 0.05
#: A second process that has to load a stage's runtime (torch, Inspect …) pays once this many
#: seconds of work wait for it.
LOADING_S = 15.0
#: How often stages that other processes have claimed are looked at, in seconds.
LOOK_S = 0.25
#: Workers that die before their first stage, in a row, until the launch is given up.
STILLBORN = 3


@dataclass(frozen=True)
class Local:
    """``workers``: processes at a time. By default one per GPU, or per as many as a stage asks for;
    without GPUs one per core, up to four, and one per four cores beyond.
    """

    workers: int | None = field(default=None, metadata=between(ge=1))

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
        """Run the plan; see ``launchers.base.Launcher``. On Ctrl-C every worker is ended before the
        exception goes on.
        """
        if not plan.to_run:
            return Outcome(finished=set(plan.records))
        gpus = count_gpus()
        each = (
            min(max((stage.resources.gpus or 1 for stage in plan.to_run), default=1), gpus)
            if gpus
            else 1
        )
        wanted = self.workers or gpus // each or _by_cores(os.cpu_count() or 1)
        here = sum(not _provider(stage) for stage in plan.to_run)
        launch = _Launch(plan, store, recorder, min(wanted, here), gpus, each)
        try:
            return launch.run()
        except KeyboardInterrupt:
            launch.tell_what_goes_on()
            raise
        finally:
            launch.close()


def _by_cores(cores: int) -> int:
    return cores if cores <= 4 else max(4, cores // 4)


def _provider(stage: Stage) -> str | None:
    return getattr(stage.work, "remote", None)


class _Launch:
    """One run of one plan."""

    def __init__(
        self, plan: Plan, store: Store, recorder: Recorder, workers: int, gpus: int, each: int
    ) -> None:
        self.plan, self.store, self.recorder, self.size, self.gpus, self.each = (
            plan,
            store,
            recorder,
            workers,
            gpus,
            each,
        )
        self.outcome = Outcome(finished=set(plan.records))
        self.dependents = dependents(plan)
        self.missing = {
            stage.key: {need.key for need in stage.needs.values() if need.key not in plan.records}
            for stage in plan.to_run
        }
        self.height: dict[str, int] = {}
        for stage in reversed(plan.to_run):
            self.height[stage.key] = 1 + max(
                (self.height[key] for key in self.dependents[stage.key]), default=0
            )
        self.order = {stage.key: index for index, stage in enumerate(plan.to_run)}
        # by runtime: longest chain first, then as planned
        self.ready: dict[str, list[tuple[int, int, str]]] = {}
        self.ready_remote: dict[str, list[tuple[int, int, str]]] = {}  # by provider, the same
        self.elsewhere: dict[str, float] = {}
        self.durations: dict[str, tuple[int, float]] = {}
        self.workers: dict[int, Worker] = {}
        self.remote: RemoteWorker | None = None
        self.selector = selectors.DefaultSelector()
        self.stillborn = 0
        self.bereft: set[str] = set()  # remote stages whose process died
        self.meter = Meter.of(plan, store)
        for stage in plan.to_run:
            if not self.missing[stage.key]:
                self.offer(stage.key)

    def run(self) -> Outcome:
        todo = len(self.plan.to_run)
        for number in range(self.size):
            self.workers[number] = self.hire(number)
        while True:
            self.hand_out()
            if (
                len(self.outcome.finished) - len(self.plan.records) + len(self.outcome.failed)
                >= todo
            ):
                return self.outcome
            for event, _ in self.selector.select(self.patience()):
                self.hear(event.data)
            self.look_elsewhere()
            self.enforce_time_limits()

    # -- what can run ------------------------------------------------------------------------------

    def offer(self, key: str) -> None:
        if self.meter:
            self.meter.returns(key)
        provider = _provider(self.plan.stages[key])
        queue = (
            self.ready_remote.setdefault(provider, [])
            if provider
            else self.ready.setdefault(self.runtime(key), [])
        )
        heapq.heappush(queue, (-self.height[key], self.order[key], key))

    def runtime(self, key: str) -> str:
        return getattr(self.plan.stages[key].work, "runtime", "")

    def hand_out(self) -> None:
        for worker in self.workers.values():
            while (room := self.room(worker)) and (batch := self.choose(worker, room)):
                worker.runtimes.add(self.runtime(batch[0]))
                worker.orders += batch
                lines = "".join(json.dumps(self.plan.stages[key].spec) + "\n" for key in batch)
                if worker.started is None:
                    worker.started = time.monotonic()
                worker.send(lines)
        for provider, waiting in self.ready_remote.items():
            under_way = self.under_way(provider) if waiting else 0
            while (
                self.may_start(waiting)
                and under_way < self.plan.stages[waiting[0][2]].work.max_concurrent  # type: ignore[attr-defined]
            ):
                self.remote = self.remote or self.hire_remote()
                key = self.take(waiting)
                under_way += 1
                self.remote.orders.append(key)
                self.remote.send(json.dumps(self.plan.stages[key].spec) + "\n")

    def may_start(self, queue: list[tuple[int, int, str]]) -> bool:
        """Whether the first in line may start now; those that a cap keeps from starting at all
        leave the line.
        """
        while queue and self.meter and (why := self.meter.refusal(queue[0][2])):
            key = heapq.heappop(queue)[2]
            self.outcome.failed[key] = why
            self.recorder.stage_failed(
                StageFailed(key, self.label(key), self.plan.trial_of[key], "", why, cancelled=True)
            )
            self.give_up(key)
        return bool(queue) and not (self.meter and self.meter.must_wait(queue[0][2]))

    def take(self, queue: list[tuple[int, int, str]]) -> str:
        """The first in line, which starts now."""
        key = heapq.heappop(queue)[2]
        if self.meter:
            self.meter.starts(key)
        return key

    def under_way(self, provider: str) -> int:
        """How many of the plan's stages are at ``provider``, by us or by another process."""
        ours = self.remote.orders if self.remote else []
        return sum(
            _provider(self.plan.stages[key]) == provider
            for keys in (ours, self.elsewhere)
            for key in keys
        )

    def room(self, worker: Worker) -> int:
        if not worker.orders:
            return 1 if self.mean(worker.orders) is None else AHEAD
        mean = self.mean(worker.orders)
        return (
            AHEAD - len(worker.orders)
            if mean is not None and mean < QUICK_S and len(worker.orders) <= AHEAD // 2
            else 0
        )

    def mean(self, keys: list[str]) -> float | None:
        """The mean duration of stages like ``keys``, in seconds; the longest where kinds differ."""
        kinds = {self.plan.stages[key].label for key in keys} or set(self.durations)
        means = [
            total / count
            for kind in kinds
            if (known := self.durations.get(kind))
            for count, total in [known]
        ]
        return max(means) if means and len(means) == len(kinds) else None

    def choose(self, worker: Worker, room: int) -> list[str]:
        """Up to ``room`` stages for an idle worker; more than one only if they are quick."""
        ready = [runtime for runtime, queue in self.ready.items() if self.may_start(queue)]
        best = min(((self.ready[runtime][0], runtime) for runtime in ready), default=None)
        if best is None:
            return []
        mine = [runtime for runtime in ready if runtime in worker.runtimes or not runtime]
        pool = mine or [runtime for runtime in ready if self.worth_loading(runtime)]
        if not pool:
            return []
        runtime = min(pool, key=lambda runtime: self.ready[runtime][0])
        if (
            best[1] != runtime
            and best[0][0] < self.ready[runtime][0][0]
            and self.worth_loading(best[1])
        ):
            runtime = best[1]  # a longer chain waits, and its runtime is worth loading here
        queue = self.ready[runtime]
        batch = [self.take(queue)]
        mean = self.mean(batch)
        while len(batch) < room and mean is not None and mean < QUICK_S and self.may_start(queue):
            if self.label(queue[0][2]) != self.label(batch[0]):
                break
            batch.append(self.take(queue))
        return batch

    def worth_loading(self, runtime: str) -> bool:
        """Whether another process should load ``runtime``: nobody has, or enough work waits."""
        holders = [worker for worker in self.workers.values() if runtime in worker.runtimes]
        if not runtime or not holders:
            return True
        queue = self.ready[runtime]
        mean = self.mean([queue[0][2]])
        if mean is None:
            now = time.monotonic()
            mean = max(
                (now - worker.started for worker in holders if worker.started is not None),
                default=0.0,
            )
        return mean * len(queue) / len(holders) > LOADING_S

    # -- what happened -----------------------------------------------------------------------------

    def hear(self, worker: Worker) -> None:
        data = os.read(worker.events.fileno(), 1 << 16)
        if not data:
            self.bury(worker)
            return
        *lines, worker.buffer = (worker.buffer + data).split(b"\n")
        for line in lines:
            self.note(worker, json.loads(line))

    def note(self, worker: Worker, event: dict[str, Any]) -> None:
        key, kind = event["key"], event["event"]
        if kind == "started":
            if isinstance(worker, RemoteWorker):
                worker.logs[key] = Path(event["log"])
            else:
                worker.started, worker.log = time.monotonic(), event["log"]
            self.recorder.stage_started(
                StageStarted(
                    key, self.label(key), self.plan.trial_of[key], worker.name, Path(event["log"])
                )
            )
            return
        worker.orders.remove(key)
        if isinstance(worker, RemoteWorker):
            worker.logs.pop(key, None)
        worker.log = None
        worker.started = time.monotonic() if worker.orders else None
        if kind == "finished":
            if not event.get("elsewhere"):
                count, total = self.durations.get(self.label(key), (0, 0.0))
                self.durations[self.label(key)] = (count + 1, total + event["seconds"])
            if self.meter:
                (self.meter.returns if event.get("elsewhere") else self.meter.finished)(key)
            self.finished(key, worker.name, event["seconds"], bool(event.get("elsewhere")))
        elif kind == "failed":
            self.failed(key, worker.name, event["error"], Path(event["log"]))
        else:
            if self.meter:
                self.meter.returns(key)
            self.elsewhere[key] = time.monotonic() + LOOK_S

    def finished(self, key: str, job: str, seconds: float, elsewhere: bool) -> None:
        self.outcome.finished.add(key)
        self.recorder.stage_finished(
            StageFinished(key, self.label(key), self.plan.trial_of[key], job, seconds, elsewhere)
        )
        for other in self.dependents[key]:
            self.missing[other].discard(key)
            if not self.missing[other]:
                self.offer(other)

    def failed(self, key: str, job: str, error: str, log: Path | None) -> None:
        if self.meter:
            self.meter.failed(key)
        self.outcome.failed[key] = error
        self.recorder.stage_failed(
            StageFailed(key, self.label(key), self.plan.trial_of[key], job, error, log)
        )
        self.give_up(key)

    def give_up(self, key: str) -> None:
        """What needs a failed stage will not run."""
        for other in self.dependents[key]:
            if other not in self.outcome.failed:
                self.outcome.failed[other] = f"not run: {self.label(key)} failed"
                self.give_up(other)

    def label(self, key: str) -> str:
        return self.plan.stages[key].label

    def look_elsewhere(self) -> None:
        """See after the stages that other processes are at: done, or theirs no more."""
        now = time.monotonic()
        for key in [key for key, due in self.elsewhere.items() if due <= now]:
            if self.store.read(key):
                del self.elsewhere[key]
                self.finished(key, "another process", 0.0, True)
            elif self.store.claims.owner(key):
                self.elsewhere[key] = now + LOOK_S
            else:
                del self.elsewhere[key]
                self.offer(key)

    def patience(self) -> float | None:
        limited = any(worker.orders and self.limit(worker) for worker in self.workers.values())
        return LOOK_S if self.elsewhere else 1.0 if limited or any(self.ready.values()) else None

    # -- workers -----------------------------------------------------------------------------------

    def hire(self, number: int) -> Worker:
        worker = Worker.start(number, self.size, self.gpus, self.store.root, self.each)
        self.selector.register(worker.events, selectors.EVENT_READ, worker)
        return worker

    def hire_remote(self) -> RemoteWorker:
        worker = RemoteWorker.start(len(self.workers), 1, 0, self.store.root, mode=["remote"])
        self.selector.register(worker.events, selectors.EVENT_READ, worker)
        return worker

    def bury_remote(self, worker: RemoteWorker) -> None:
        """The process of the remote stages is gone. Those it had begun are begun once more, as what
        is at the provider goes on.
        """
        self.remote = None
        for key in worker.orders:
            error, log = f"its process died ({worker.cause})", worker.logs.get(key)
            if log:
                worker.note(error, log)
            if log and key in self.bereft:
                self.failed(key, worker.name, error, log)
            else:
                self.offer(key)
        self.bereft |= set(worker.logs)

    def tell_what_goes_on(self) -> None:
        """Say what was begun at providers and goes on there without us."""
        begun = self.remote.logs if self.remote else {}
        works = [self.plan.stages[key].work for key in begun]
        for provider, count in Counter(
            work.remote  # type: ignore[attr-defined]
            for work in works
            if getattr(work, "outlives", False)
        ).items():
            what = (
                f"what {count} stage{'s' if count > 1 else ''} began at {provider} goes on "
                "without us"
            )
            self.recorder.notice(
                Notice(f"{what}: the same command attaches to it, mosweep cancel ends it")
            )

    def bury(self, worker: Worker) -> None:
        """A worker is gone: the stage it was at has failed, what it had not begun goes back,
        another takes its place.
        """
        self.selector.unregister(worker.events)
        worker.end()
        if isinstance(worker, RemoteWorker) and worker.logs:
            self.bury_remote(worker)
            return
        if worker.log is None and worker.orders:
            self.stillborn += 1
            if self.stillborn >= STILLBORN:
                raise MosweepError(
                    "worker processes die before they start a stage (exit status "
                    f"{worker.process.returncode})"
                )
        else:
            self.stillborn = 0
        if worker.log is not None:
            error = f"its process died ({worker.cause})"
            worker.note(error, Path(worker.log))
            self.failed(worker.orders.pop(0), worker.name, error, Path(worker.log))
        for key in worker.orders:
            self.offer(key)
        if worker is self.remote:
            self.remote = None
        else:
            self.workers[worker.number] = self.hire(worker.number)

    def limit(self, worker: Worker) -> float | None:
        return self.plan.stages[worker.orders[0]].resources.time_min

    def enforce_time_limits(self) -> None:
        now = time.monotonic()
        for worker in list(self.workers.values()):
            if (
                worker.log
                and worker.started
                and (limit := self.limit(worker))
                and now - worker.started > limit * 60
            ):
                error = f"over its time limit of {limit:g} min"
                worker.note(error, Path(worker.log))
                self.failed(worker.orders.pop(0), worker.name, error, Path(worker.log))
                worker.log = None
                for key in worker.orders:
                    self.offer(key)
                worker.orders = []
                self.bury(worker)

    def close(self) -> None:
        everyone = [*self.workers.values(), *([self.remote] if self.remote else [])]
        for worker in everyone:
            self.selector.unregister(worker.events)
            if worker.orders:
                worker.end()
            else:
                worker.dismiss()
        for worker in everyone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(5)
            worker.end()
        self.selector.close()
