"""A pool of worker processes, and the choice of their stages.

A worker runs many stages, so that later stages reuse its imports. If a stage kills its process
(``os._exit``, the out-of-memory killer, a segmentation fault), only that stage fails. Workers get
many quick stages at a time. Stages that wait for a provider share one more process, with up to
``max_concurrent`` stages per provider.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mosweep.core.errors import MosweepError
from mosweep.core.types import Stage
from mosweep.launchers.driver import Driver
from mosweep.launchers.processes import RemoteWorker, Worker

__all__ = ["Pool", "line_of"]

#: The most quick stages that a worker gets at a time.
AHEAD = 32
#: Stages with a mean duration below this are quick, in seconds.
QUICK_S = 0.05
#: Seconds of waiting work from which another process should load a runtime (torch, Inspect …).
LOADING_S = 15.0
#: Seconds between checks of time limits.
LIMIT_S = 1.0
#: The launch ends after this many workers in a row died before they started a stage.
EARLY_DEATHS = 3


#: Prefix of the lines of stages that wait for a provider.
_REMOTE = "provider "


def line_of(stage: Stage) -> str:
    """The line of a stage: its provider, or the runtime that it loads."""
    traits = stage.work.traits
    return f"{_REMOTE}{traits.remote.provider}" if traits.remote else traits.runtime


class Pool:
    """The worker processes of one launch."""

    def __init__(self, driver: Driver, size: int, gpus: int, each: int) -> None:
        self.driver, self.size, self.gpus, self.each = driver, size, gpus, each
        self.stages, self.lines = driver.plan.stages, driver.lines
        self.durations: dict[str, tuple[int, float]] = {}
        self.remote: RemoteWorker | None = None
        self.selector = selectors.DefaultSelector()
        self.early_deaths = 0
        self.retried: set[str] = set()  # Remote stages whose process died once.
        self.workers: dict[int, Worker] = {}

    def start(self) -> None:
        """Start the workers for stages that run on this machine."""
        for number in range(self.size):
            self.workers[number] = self.start_worker(number)

    # -- handing out -------------------------------------------------------------------------------

    def hand_out(self) -> None:
        """Give every worker as many stages as it has room for."""
        for worker in self.workers.values():
            while (room := self.room(worker)) and (batch := self.choose(worker, room)):
                worker.runtimes.add(self.driver.line(self.stages[batch[0]]))
                worker.orders += batch
                lines = "".join(json.dumps(self.stages[key].spec) + "\n" for key in batch)
                if worker.started is None:
                    worker.started = time.monotonic()
                worker.send(lines)
        for line, waiting in self.lines.items():
            if not line.startswith(_REMOTE):
                continue
            under_way = self.under_way(line) if waiting else 0
            while (key := self.driver.first(line)) and under_way < self.most(key):
                self.remote = self.remote or self.start_remote()
                self.driver.take(line)
                under_way += 1
                self.remote.orders.append(key)
                self.remote.send(json.dumps(self.stages[key].spec) + "\n")

    def most(self, key: str) -> int:
        """The most stages that may run at the stage's provider at a time."""
        remote = self.stages[key].work.traits.remote
        return remote.max_concurrent if remote else 1

    def under_way(self, line: str) -> int:
        """How many of the plan's stages run at a provider, from this or another process."""
        ours = self.remote.orders if self.remote else []
        return sum(
            self.driver.line(self.stages[key]) == line
            for keys in (ours, self.driver.elsewhere)
            for key in keys
        )

    def room(self, worker: Worker) -> int:
        """How many more stages the worker may get."""
        if not worker.orders:
            return 1 if self.mean(worker.orders) is None else AHEAD
        mean = self.mean(worker.orders)
        return (
            AHEAD - len(worker.orders)
            if mean is not None and mean < QUICK_S and len(worker.orders) <= AHEAD // 2
            else 0
        )

    def mean(self, keys: list[str]) -> float | None:
        """The mean duration of stages like ``keys``, in seconds. The longest if kinds differ."""
        kinds = {self.driver.label(key) for key in keys} or set(self.durations)
        means = [
            total / count
            for kind in kinds
            if (known := self.durations.get(kind))
            for count, total in [known]
        ]
        return max(means) if means and len(means) == len(kinds) else None

    def choose(self, worker: Worker, room: int) -> list[str]:
        """Up to ``room`` stages for a worker. More than one only if they are quick."""
        first = self.driver.first
        ready = [line for line in self.lines if not line.startswith(_REMOTE) and first(line)]
        best = min(((self.lines[line][0], line) for line in ready), default=None)
        if best is None:
            return []
        loaded = [line for line in ready if line in worker.runtimes or not line]
        candidates = loaded or [line for line in ready if self.worth_loading(line)]
        if not candidates:
            return []
        line = min(candidates, key=lambda line: self.lines[line][0])
        if best[1] != line and best[0][0] < self.lines[line][0][0] and self.worth_loading(best[1]):
            line = best[1]  # A longer chain waits, and its runtime is worth loading here.
        batch = [self.driver.take(line)]
        mean = self.mean(batch)
        while len(batch) < room and mean is not None and mean < QUICK_S:
            key = first(line)
            if key is None or self.driver.label(key) != self.driver.label(batch[0]):
                break
            batch.append(self.driver.take(line))
        return batch

    def worth_loading(self, runtime: str) -> bool:
        """Whether another process should load ``runtime``: none has, or enough work waits."""
        holders = [worker for worker in self.workers.values() if runtime in worker.runtimes]
        if not runtime or not holders:
            return True
        waiting = self.lines[runtime]
        mean = self.mean([waiting[0][2]])
        if mean is None:
            now = time.monotonic()
            mean = max(
                (now - worker.started for worker in holders if worker.started is not None),
                default=0.0,
            )
        return mean * len(waiting) / len(holders) > LOADING_S

    # -- events ------------------------------------------------------------------------------------

    def listen(self, timeout: float | None) -> None:
        """Read the workers' events, and kill stages that are over their time limits."""
        here = any(line for name, line in self.lines.items() if not name.startswith(_REMOTE))
        limited = any(worker.orders and self.limit(worker) for worker in self.workers.values())
        if timeout is None and (limited or here):
            timeout = LIMIT_S
        for event, _ in self.selector.select(timeout):
            self.read(event.data)
        self.enforce_time_limits()

    def read(self, worker: Worker) -> None:
        """Read a worker's events. The end of its output means that it died."""
        data = os.read(worker.events.fileno(), 1 << 16)
        if not data:
            self.replace(worker)
            return
        *lines, worker.buffer = (worker.buffer + data).split(b"\n")
        for line in lines:
            self.note(worker, json.loads(line))

    def note(self, worker: Worker, event: dict[str, Any]) -> None:
        """Process an event of a worker; see ``launchers.worker``."""
        key, kind = event["key"], event["event"]
        if kind == "started":
            if isinstance(worker, RemoteWorker):
                worker.logs[key] = Path(event["log"])
            else:
                worker.started, worker.log = time.monotonic(), event["log"]
            self.driver.started(key, worker.name, Path(event["log"]))
            return
        worker.orders.remove(key)
        if isinstance(worker, RemoteWorker):
            worker.logs.pop(key, None)
        worker.log = None
        worker.started = time.monotonic() if worker.orders else None
        if kind == "finished":
            elsewhere = bool(event.get("elsewhere"))
            if not elsewhere:
                label = self.driver.label(key)
                count, total = self.durations.get(label, (0, 0.0))
                self.durations[label] = (count + 1, total + event["seconds"])
            self.driver.finished(key, worker.name, event["seconds"], elsewhere)
        elif kind == "failed":
            self.driver.failed(key, worker.name, event["error"], Path(event["log"]))
        else:
            self.driver.busy(key)

    # -- workers -----------------------------------------------------------------------------------

    def start_worker(self, number: int) -> Worker:
        """Start worker ``number``."""
        worker = Worker.start(number, self.size, self.gpus, self.driver.store.root, self.each)
        self.selector.register(worker.events, selectors.EVENT_READ, worker)
        return worker

    def start_remote(self) -> RemoteWorker:
        """Start the process for stages that wait for a provider."""
        number, root = len(self.workers), self.driver.store.root
        worker = RemoteWorker.start(number, 1, 0, root, mode=["remote"])
        self.selector.register(worker.events, selectors.EVENT_READ, worker)
        return worker

    def replace(self, worker: Worker) -> None:
        """Start a new worker in place of one that died.

        The stage that it was running has failed. Its other stages are ready again.
        """
        self.selector.unregister(worker.events)
        worker.end()
        if isinstance(worker, RemoteWorker) and worker.logs:
            self.retry_remote(worker)
            return
        if worker.log is None and worker.orders:
            self.early_deaths += 1
            if self.early_deaths >= EARLY_DEATHS:
                raise MosweepError(
                    "worker processes die before they start a stage (exit status "
                    f"{worker.process.returncode})"
                )
        else:
            self.early_deaths = 0
        if worker.log is not None:
            self.fail(worker, f"its process died ({worker.cause})", worker.log)
        for key in worker.orders:
            self.driver.offer(key)
        if worker is self.remote:
            self.remote = None
        else:
            self.workers[worker.number] = self.start_worker(worker.number)

    def fail(self, worker: Worker, error: str, log: str) -> None:
        """Report the stage that the worker was running as failed."""
        worker.note(error, Path(log))
        self.driver.failed(worker.orders.pop(0), worker.name, error, Path(log))

    def retry_remote(self, worker: RemoteWorker) -> None:
        """Retry the stages of a remote worker that died, as their jobs at the provider continue.

        A stage whose process dies twice has failed.
        """
        self.remote = None
        for key in worker.orders:
            error, log = f"its process died ({worker.cause})", worker.logs.get(key)
            if log:
                worker.note(error, log)
            if log and key in self.retried:
                self.driver.failed(key, worker.name, error, log)
            else:
                self.driver.offer(key)
        self.retried |= set(worker.logs)

    def limit(self, worker: Worker) -> float | None:
        """The time limit of the stage that the worker is running, in minutes."""
        return self.stages[worker.orders[0]].resources.time_min

    def enforce_time_limits(self) -> None:
        """Kill the workers whose stages are over their time limits."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            if (
                worker.log
                and worker.started
                and (limit := self.limit(worker))
                and now - worker.started > limit * 60
            ):
                self.fail(worker, f"over its time limit of {limit:g} min", worker.log)
                worker.log = None
                for key in worker.orders:
                    self.driver.offer(key)
                worker.orders = []
                self.replace(worker)

    def report_remote_jobs(self) -> None:
        """Report the stages that continue at providers after this process ends."""
        begun = self.remote.logs if self.remote else {}
        works = [self.stages[key].work.traits.remote for key in begun]
        for provider, count in Counter(
            work.provider for work in works if work and work.outlives
        ).items():
            stages = f"{count} stage continues" if count == 1 else f"{count} stages continue"
            self.driver.notice(
                f"{stages} at {provider}: the same command attaches again, and mosweep cancel "
                f"cancels {'it' if count == 1 else 'them'}"
            )

    def close(self) -> None:
        """Kill all busy workers, and let idle ones exit."""
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
