"""The base class of launchers with one job per stage.

A subclass starts, lists and cancels jobs, and finds their logs. The store knows which stages are
done, and the launcher which jobs are alive. Jobs continue when mosweep ends, and the same command
attaches to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mosweep.core.claims import Claim
from mosweep.core.errors import MosweepError
from mosweep.core.events import Recorder
from mosweep.core.results import Queued
from mosweep.core.schema import between
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.launchers.base import Launcher, Outcome
from mosweep.launchers.driver import Driver
from mosweep.launchers.jobfolders import JobFolder, JobFolders
from mosweep.launchers.lookup import describe, launcher_of
from mosweep.sweep.plan import Plan

__all__ = ["JobLauncher", "JobState", "Order"]

#: Seconds between checks of the files that jobs write.
POLL_S = 0.25
#: Seconds until a job that ended without a result has failed. Its files may become visible late.
SETTLE_S = 5.0


@dataclass(frozen=True)
class Order:
    """A stage to submit as a job.

    - ``command``: the command to run in the folder ``cwd``. It needs the store's file system.
    - ``output``: the file for the job's output.
    """

    stage: Stage
    command: Sequence[str]
    output: Path
    cwd: Path


@dataclass(frozen=True)
class JobState:
    """The state of a job. ``node`` is the machine that it runs on."""

    status: Literal["pending", "running", "ended"]
    reason: str = ""
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class JobLauncher(Launcher):
    """Every stage is a job, submitted once its inputs are done.

    Subclass it as a frozen dataclass with ``kind``, ``title`` and the four methods ``submit``,
    ``states``, ``cancel`` and ``log``. A job succeeded if and only if its record is in the store.
    """

    outlives: ClassVar[bool] = True

    wait: bool = True
    """Wait until all stages have ended. Otherwise submit those that are ready; ``mosweep run``
    submits the others."""
    max_jobs: int | None = field(default=None, metadata=between(ge=1))
    """Jobs at a time, including waiting ones."""
    poll_s: float = field(default=2.0, metadata=between(gt=0))
    """Seconds between calls of ``states``."""

    @abstractmethod
    def submit(self, order: Order) -> str:
        """Start a job and return its id. Raise ``MosweepError`` or ``OSError`` to refuse it."""

    @abstractmethod
    def states(self, jobs: Collection[str]) -> Mapping[str, JobState]:
        """The states of these jobs, by id. A missing job has ended."""

    @abstractmethod
    def cancel(self, jobs: Collection[str]) -> None:
        """Cancel these jobs. Skips jobs that have ended."""

    def log(self, job: str) -> Path | None:
        """The file with the job's output, if it is not ``Order.output``."""
        return None

    # -- the launcher's methods --------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether ``run`` returns only when all stages have ended."""
        return self.wait

    def waiting(self, wait: bool) -> Self:
        """A copy whose ``run`` waits, or returns when all jobs are submitted."""
        return replace(self, wait=wait)

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run the plan. On Ctrl-C the jobs continue."""
        driver = Driver(plan, store, recorder)
        site = _Site(self, driver, sweep)
        folder = os.path.relpath(sweep)
        verbs = f"`mosweep watch {folder}` follows them, `mosweep cancel {folder}` cancels them"
        try:
            site.attach()
            if self.wait:
                return driver.run(site)
            site.hand_out()
            site.read_marks()
        except KeyboardInterrupt:
            driver.notice(f"{site.job_count()} in {self.title}: {verbs}")
            raise
        if driver.todo:
            driver.outcome.detached = True
            rest = len(driver.todo) - len(site.at)
            more = f"; `mosweep run` submits the other {rest} stages" if rest else ""
            driver.notice(f"{site.job_count()} in {self.title}: {verbs}{more}")
        return driver.outcome

    def observe(self, store: Store, keys: Collection[str]) -> Mapping[str, Queued]:
        """The jobs of the stages in ``keys`` without a record."""
        jobs = self._jobs(store, keys)
        states = _states(jobs.values())
        return {key: _queued(job, states.get(job)) for key, job in jobs.items()}

    def withdraw(self, store: Store, keys: Collection[str]) -> Mapping[str, str]:
        """Cancel the jobs of the stages in ``keys`` without a record. Returns the jobs by stage."""
        jobs = self._jobs(store, keys)
        alive = [job for job, state in _states(jobs.values()).items() if state.status != "ended"]
        for launcher, mine in _by_launcher(alive):
            launcher.cancel([job.id for job in mine])
        for job in jobs.values():
            job.close(void=True)
        return {job.key: job.id for job in alive}

    def in_use(self, store: Store) -> set[str]:
        """Stages with jobs, and their inputs. Their records must not be removed."""
        specs = [job.spec for job in self.folders(store).open()]
        return {key for spec in specs for key in (spec["key"], *spec["needs"].values())}

    def folders(self, store: Store) -> JobFolders:
        """The jobs of this kind of launcher for ``store``."""
        return JobFolders(store.root / "jobs" / self.kind)

    def _jobs(self, store: Store, keys: Collection[str]) -> dict[str, JobFolder]:
        wanted = set(keys)
        return {
            job.key: job
            for job in self.folders(store).open()
            if job.key in wanted and not store.record_path(job.key).exists()
        }


class _Site:
    """The jobs of one launch."""

    def __init__(self, launcher: JobLauncher, driver: Driver, sweep: Path) -> None:
        self.launcher, self.driver, self.sweep = launcher, driver, sweep
        self.store = driver.store
        self.folders = launcher.folders(driver.store)
        self.described = describe(launcher)
        self.at: dict[str, JobFolder] = {}
        self.seen: set[str] = set()  # Stages that have started.
        self.over: dict[str, float] = {}  # Stages whose job ended without a result, since when.
        self.next_poll = 0.0

    def job_count(self) -> str:
        """The number of jobs as text, as in ``2 jobs``."""
        return f"{len(self.at)} job{'' if len(self.at) == 1 else 's'}"

    def attach(self) -> None:
        """Find jobs of earlier launches and other sweeps for the plan's stages.

        A stage whose job ended without a result is submitted again.
        """
        with self.lock():
            self.follow()
            states = _states(self.at.values())
        for key, job in list(self.at.items()):
            state = states.get(job)
            ended = state is None or state.status == "ended" or job.mark("ended") is not None
            if ended and not self.store.read(key):
                job.close(void=True)
                del self.at[key]
        if self.at:
            are = "is" if len(self.at) == 1 else "are"
            self.driver.notice(f"{self.job_count()} of this sweep {are} in {self.launcher.title}")

    def follow(self) -> None:
        """Find open jobs for the plan's stages. Needs the lock.

        A job without an id becomes void: its launcher died before the submission was complete.
        """
        for job in self.folders.open():
            if not job.id:
                job.close(void=True)
            elif job.key in self.driver.todo:
                self.at.setdefault(job.key, job)

    def hand_out(self) -> None:
        """Submit ready stages while there is room."""
        if not self.has_room() or not self.driver.first(""):
            return
        with self.lock():
            self.follow()  # Another sweep may have submitted them.
            while self.has_room() and self.driver.first(""):
                key = self.driver.take("")
                if key not in self.at:
                    self.submit(key)

    def has_room(self) -> bool:
        """Whether another job may be submitted."""
        return self.launcher.max_jobs is None or len(self.at) < self.launcher.max_jobs

    def submit(self, key: str) -> None:
        """Create the job's folder, submit the job, and store its id."""
        stage = self.driver.plan.stages[key]
        job = self.folders.create(stage, self.described, self.sweep)
        order = Order(stage, job.command(self.store), job.output, Path.cwd())
        try:
            job.submitted(self.launcher.submit(order))
        except (MosweepError, OSError) as error:
            job.close(void=True)
            self.driver.failed(key, "", f"{self.launcher.title} refuses the job: {error}")
            return
        self.at[key] = job
        self.driver.queued({key: job.id})

    def listen(self, timeout: float | None) -> None:
        """Check the jobs' files and, if due, poll the launcher."""
        time.sleep(POLL_S if timeout is None else min(timeout, POLL_S))
        self.read_marks()
        if time.monotonic() >= self.next_poll and self.at:
            self.next_poll = time.monotonic() + self.launcher.poll_s
            self.ask()

    def read_marks(self) -> None:
        """Report starts and ends to the driver, from the files that jobs write."""
        for key, job in list(self.at.items()):
            if key not in self.seen and (mark := job.mark("started")):
                self.seen.add(key)
                self.driver.started(key, job.id, Path(mark["log"]))
            mark = job.mark("ended")
            if mark is None:
                continue
            if mark["event"] == "failed":
                self.leave(key)
                self.driver.failed(key, job.id, mark["error"], Path(mark["log"]))
            elif self.store.read(key):
                self.leave(key)
                elsewhere = bool(mark.get("elsewhere"))
                self.driver.finished(key, job.id, mark["seconds"], elsewhere)

    def ask(self) -> None:
        """Poll the launcher, and process jobs that ended without a result."""
        states, now = _states(self.at.values()), time.monotonic()
        for key, job in list(self.at.items()):
            state = states.get(job)
            if state is not None and state.status != "ended":
                self.over.pop(key, None)
            elif self.store.read(key):
                self.leave(key)
                self.driver.finished(key, job.id, 0.0)
            elif now - self.over.setdefault(key, now) > SETTLE_S:
                self.leave(key)
                reason = f" ({state.reason})" if state and state.reason else ""
                log = self.launcher.log(job.id) or job.output
                self.driver.failed(key, job.id, f"its job ended without a result{reason}", log)

    def leave(self, key: str) -> None:
        """Detach the stage from its job."""
        self.at.pop(key).close()
        self.over.pop(key, None)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock for submitting jobs of this kind for this store."""
        claims = self.store.claims
        while not isinstance(claim := claims.acquire(f"jobs-{self.launcher.kind}"), Claim):
            time.sleep(0.1)
        try:
            yield
        finally:
            claims.release(claim)


def _by_launcher(jobs: Iterable[JobFolder]) -> Iterator[tuple[JobLauncher, list[JobFolder]]]:
    """The jobs, grouped by the launcher and options that submitted them."""
    groups: dict[str, list[JobFolder]] = {}
    for job in jobs:
        groups.setdefault(json.dumps(job.about["launcher"]), []).append(job)
    for described, mine in groups.items():
        launcher: Any = launcher_of(json.loads(described))
        yield launcher, mine


def _states(jobs: Iterable[JobFolder]) -> dict[JobFolder, JobState]:
    """The states of these jobs, from their launchers. Jobs without an id are left out."""
    known: dict[JobFolder, JobState] = {}
    for launcher, mine in _by_launcher(job for job in jobs if job.id):
        states = launcher.states([job.id for job in mine])
        known |= {job: states[job.id] for job in mine if job.id in states}
    return known


def _queued(job: JobFolder, state: JobState | None) -> Queued:
    """The state of a job for ``mosweep status``."""
    started, ended = job.mark("started"), job.mark("ended")
    log = Path(started["log"]) if started else job.output
    node, reason = (state.node, state.reason) if state else ("", "")
    if ended is not None and ended["event"] == "failed":
        error, log = str(ended["error"]), Path(ended["log"])
        return Queued(job.id, "ended", "failed", reason, node, None, error, log)
    status: Literal["pending", "running"] = "running" if started else "pending"
    if state is not None and state.status != "ended":
        status = state.status
    elif ended is None and job.id:
        error = "its job ended without a result"
        return Queued(job.id, "ended", "failed", reason, node, None, error, log)
    return Queued(job.id, status, status, reason, node, None, None, log if log.exists() else None)
