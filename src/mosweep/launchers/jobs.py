"""The base of launchers whose stages are jobs of their own: four methods say how a job is started,
seen, ended and read; everything else is here.

The store says what is done, the launcher what is alive. Jobs go on when mosweep ends: the same
command attaches to them.
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

#: How often the files that jobs leave are looked at, in seconds.
POLL_S = 0.25
#: The end of a job that left no word is believed after this long, as files may be seen late.
SETTLE_S = 5.0


@dataclass(frozen=True)
class Order:
    """A stage that is to become a job.

    - ``command``: what the job runs, in the folder ``cwd``. It needs the store's file system.
    - ``output``: where what the job prints should go.
    """

    stage: Stage
    command: Sequence[str]
    output: Path
    cwd: Path


@dataclass(frozen=True)
class JobState:
    """What a launcher knows of a job. ``node`` is the machine that it runs on."""

    status: Literal["pending", "running", "ended"]
    reason: str = ""
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class JobLauncher(Launcher):
    """Every stage is a job of its own, submitted once what it needs is done.

    Subclass it as a frozen dataclass with ``kind``, ``title`` and the four methods ``submit``,
    ``states``, ``cancel`` and ``log``. A job succeeded if and only if its record is in the store.
    """

    outlives: ClassVar[bool] = True

    wait: bool = True
    """Stay until all is done. Otherwise submit what is ready; ``mosweep run`` submits the rest."""
    max_jobs: int | None = field(default=None, metadata=between(ge=1))
    """Our jobs at a time, waiting ones included."""
    poll_s: float = field(default=2.0, metadata=between(gt=0))
    """How often ``states`` is asked, in seconds."""

    @abstractmethod
    def submit(self, order: Order) -> str:
        """Start a job and return its name. Raise ``MosweepError`` or ``OSError`` to refuse it."""

    @abstractmethod
    def states(self, jobs: Collection[str]) -> Mapping[str, JobState]:
        """The states of these jobs by name. What is missing has ended."""

    @abstractmethod
    def cancel(self, jobs: Collection[str]) -> None:
        """End these jobs. Passes over what has ended."""

    def log(self, job: str) -> Path | None:
        """Where the job's output is, if it is not in ``Order.output``."""
        return None

    # -- what every launcher does ------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether ``run`` returns only when nothing more can be done."""
        return self.wait

    def waiting(self, wait: bool) -> Self:
        """The same launcher, but ``run`` waits, or returns when all jobs are submitted."""
        return replace(self, wait=wait)

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run the plan. On Ctrl-C the jobs go on."""
        driver = Driver(plan, store, recorder)
        site = _Site(self, driver, sweep)
        folder = os.path.relpath(sweep)
        verbs = f"`mosweep watch {folder}` follows them, `mosweep cancel {folder}` ends them"
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
        """What is known of the jobs of those stages among ``keys`` that have no record."""
        jobs = self._jobs(store, keys)
        states = _states(jobs.values())
        return {key: _queued(job, states.get(job)) for key, job in jobs.items()}

    def withdraw(self, store: Store, keys: Collection[str]) -> Mapping[str, str]:
        """End the jobs of those stages among ``keys`` that have no record; the jobs by stage."""
        jobs = self._jobs(store, keys)
        alive = [job for job, state in _states(jobs.values()).items() if state.status != "ended"]
        for launcher, mine in _by_launcher(alive):
            launcher.cancel([job.id for job in mine])
        for job in jobs.values():
            job.close(void=True)
        return {job.key: job.id for job in alive}

    def in_use(self, store: Store) -> set[str]:
        """Stages that have jobs, and their inputs: records that must stay."""
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
        self.seen: set[str] = set()  # stages that are known to have started
        self.over: dict[str, float] = {}  # stages whose job has ended without a word, since when
        self.next_poll = 0.0

    def job_count(self) -> str:
        """How many jobs there are, in words."""
        return f"{len(self.at)} job{'' if len(self.at) == 1 else 's'}"

    def attach(self) -> None:
        """Find the jobs that earlier launches, or other sweeps, have submitted for our stages. A
        stage whose job has ended without a result is submitted again.
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
        """Learn of open jobs for stages of ours. One that was never submitted for sure is void: its
        launcher died, as we alone decide now.
        """
        for job in self.folders.open():
            if not job.id:
                job.close(void=True)
            elif job.key in self.driver.todo:
                self.at.setdefault(job.key, job)

    def hand_out(self) -> None:
        """Submit what is ready, as far as there is room."""
        if not self.has_room() or not self.driver.first(""):
            return
        with self.lock():
            self.follow()  # another sweep may have been quicker
            while self.has_room() and self.driver.first(""):
                key = self.driver.take("")
                if key not in self.at:
                    self.submit(key)

    def has_room(self) -> bool:
        """Whether another job may be submitted."""
        return self.launcher.max_jobs is None or len(self.at) < self.launcher.max_jobs

    def submit(self, key: str) -> None:
        """Write the intent, submit, remember the job's name."""
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
        """Look at the files of jobs and, now and then, ask the launcher."""
        time.sleep(POLL_S if timeout is None else min(timeout, POLL_S))
        self.read_marks()
        if time.monotonic() >= self.next_poll and self.at:
            self.next_poll = time.monotonic() + self.launcher.poll_s
            self.ask()

    def read_marks(self) -> None:
        """Tell the driver what jobs have written of their starts and ends."""
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
        """Ask the launcher which jobs have ended, and deal with those that left no word."""
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
        """The stage is at no job any more."""
        self.at.pop(key).close()
        self.over.pop(key, None)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Alone among all processes that submit jobs of this kind for this store."""
        claims = self.store.claims
        while not isinstance(claim := claims.acquire(f"jobs-{self.launcher.kind}"), Claim):
            time.sleep(0.1)
        try:
            yield
        finally:
            claims.release(claim)


def _by_launcher(jobs: Iterable[JobFolder]) -> Iterator[tuple[JobLauncher, list[JobFolder]]]:
    """The jobs with the launchers that submitted them, options and all."""
    groups: dict[str, list[JobFolder]] = {}
    for job in jobs:
        groups.setdefault(json.dumps(job.about["launcher"]), []).append(job)
    for described, mine in groups.items():
        launcher: Any = launcher_of(json.loads(described))
        yield launcher, mine


def _states(jobs: Iterable[JobFolder]) -> dict[JobFolder, JobState]:
    """What the launchers of these jobs know of them; jobs without a name are left out."""
    known: dict[JobFolder, JobState] = {}
    for launcher, mine in _by_launcher(job for job in jobs if job.id):
        states = launcher.states([job.id for job in mine])
        known |= {job: states[job.id] for job in mine if job.id in states}
    return known


def _queued(job: JobFolder, state: JobState | None) -> Queued:
    """What is known of a job, as ``status`` shows it."""
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
