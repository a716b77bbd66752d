"""The jobs of one launch: the job of each stage, and its observed state."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mosweep.core.errors import MosweepError
from mosweep.core.events import Recorder
from mosweep.core.store import Store
from mosweep.launchers.driver import PlanRun
from mosweep.launchers.slurm.answers import Job
from mosweep.launchers.slurm.arrays import Place
from mosweep.launchers.slurm.client import SlurmClient
from mosweep.launchers.slurm.errors import NoAccounting, SlurmUnavailable
from mosweep.launchers.slurm.submissions import Submission, Submissions
from mosweep.sweep.plan import Plan

if TYPE_CHECKING:
    from mosweep.launchers.slurm.options import Slurm

__all__ = ["At", "Ended", "Jobs"]

#: Seconds between notices while Slurm does not answer.
NOTICE_S = 60.0


@dataclass(frozen=True)
class At:
    """The job of a stage."""

    submission: Submission
    index: int

    @property
    def place(self) -> Place:
        """Its array and index in Slurm."""
        assert self.submission.array is not None
        return Place(self.submission.array, self.index)


@dataclass
class Ended:
    """A job that ended in ``squeue`` without reporting a result.

    ``since``: when that was first seen. ``job``: ``None`` if ``squeue`` does not know the job.
    """

    since: float
    job: Job | None


class Jobs(PlanRun):
    """The state of one launch on Slurm."""

    def __init__(
        self,
        options: Slurm,
        plan: Plan,
        store: Store,
        recorder: Recorder,
        sweep: Path,
        client: SlurmClient,
    ) -> None:
        super().__init__(plan, store, recorder)
        self.options, self.sweep, self.client = options, sweep, client
        self.submissions = Submissions(store.root / "slurm")
        #: Submissions with jobs of this launch, by name.
        self.followed: dict[str, Submission] = {}
        self.at: dict[str, At] = {}
        self.tries: dict[str, list[dict[str, str]]] = {}
        #: Stages whose jobs have started, and when.
        self.running: dict[str, float] = {}
        #: Stages whose jobs were last seen waiting.
        self.waiting: set[str] = set()
        #: Stages whose jobs ended without reporting a result.
        self.ended: dict[str, Ended] = {}
        #: Stages whose jobs run in Slurm without a process, and since when.
        self.gone: dict[str, float] = {}
        #: Submission and stage of jobs that were processed.
        self.left: set[tuple[str, str]] = set()
        #: Stages whose submission may or may not have reached Slurm.
        self.blocked: set[str] = set()
        #: Submissions without an answer, and since when they are unknown to Slurm.
        self.unanswered: dict[str, float | None] = {}
        #: Jobs to cancel.
        self.to_cancel: set[str] = set()
        self.silent_since: float | None = None
        self.notified = 0.0

    @property
    def is_over(self) -> bool:
        """Whether all stages have ended, and no job is left to cancel or to find."""
        return not (self.todo or self.to_cancel or self.unanswered)

    def job_count(self) -> str:
        """The number of jobs as text, as in ``2 jobs``."""
        return f"{len(self.at)} job{'' if len(self.at) == 1 else 's'}"

    def names(self) -> dict[str, str]:
        """The names of the stages' jobs, by number."""
        return {at.place.array: at.submission.job_name for at in self.at.values()}

    def accounted(self, arrays: Iterable[str]) -> Mapping[str, Job]:
        """The jobs in the accounting, if the cluster has one."""
        try:
            names = self.names()
            return self.client.accounting({array: names[array] for array in arrays})
        except (NoAccounting, SlurmUnavailable):
            return {}

    def log_of(self, at: At) -> Path:
        """The stage's log if it started, else the job's output."""
        mark = at.submission.mark(at.index, "started")
        return (
            Path(mark["log"])
            if mark and Path(mark["log"]).exists()
            else at.submission.log(at.index)
        )

    # -- leaving jobs ------------------------------------------------------------------------------

    def cancel(self, keys: Sequence[str]) -> None:
        """Mark the stages' jobs for cancellation. No job is submitted before they are cancelled."""
        self.to_cancel |= {str(self.at[key].place) for key in keys if key in self.at}

    def send_cancellations(self) -> None:
        """Cancel the jobs that are marked for it. Raises ``SlurmUnavailable``."""
        if self.to_cancel:
            self.client.cancel(self.to_cancel)
            self.to_cancel.clear()

    def leave(self, key: str) -> None:
        """Detach the stage from its job."""
        at = self.at.pop(key)
        self.left.add((at.submission.name, key))
        self.waiting.discard(key)
        for about in (self.ended, self.gone, self.running):
            about.pop(key, None)

    def tidy(self, *, last: bool = False) -> None:
        """Close submissions without jobs of this launch.

        Submissions with spare jobs stay open, except at the end of the launch (``last``).
        """
        with_jobs = {at.submission.name for at in self.at.values()}
        with_jobs |= {name for name, each in self.followed.items() if each.spare and not last}
        if not self.to_cancel and len(self.followed) > len(with_jobs):
            for name in self.followed.keys() - with_jobs:
                self.close(self.followed[name])

    def close(self, submission: Submission) -> None:
        """Stop following a submission. It is closed if it has no jobs of other sweeps either."""
        others = (
            key for key in submission.keys.values() if (submission.name, key) not in self.left
        )
        if all(
            key in self.outcome.finished or self.store.record_path(key).exists() for key in others
        ):
            self.submissions.close(submission)
        del self.followed[submission.name]

    # -- ends --------------------------------------------------------------------------------------

    def finished(
        self, key: str, job: str = "", seconds: float = 0.0, elsewhere: bool = False
    ) -> None:
        """The stage's record exists. ``job``: what made it, if not the stage's own job."""
        job = job or (str(self.at[key].place) if key in self.at else "another process")
        if key in self.at:
            self.leave(key)
        super().finished(key, job, seconds, elsewhere)

    def failed(
        self, key: str, job: str, error: str, log: Path | None = None, *, cancelled: bool = False
    ) -> list[str]:
        """The stage failed and is not retried. The jobs that depend on it are cancelled."""
        if key in self.at:
            self.leave(key)
        given_up = super().failed(key, job, error, log, cancelled=cancelled)
        self.cancel(given_up)
        for other in given_up:
            if other in self.at:
                self.leave(other)
        return given_up

    def retry(self, key: str, job: Job) -> None:
        """Submit the stage again, with all stages whose jobs wait for it."""
        tried = {
            "job": str(self.at[key].place),
            "state": job.state,
            **({"node": job.node} if job.node else {}),
        }
        waiting = [other for other in self.descendants(key) if other in self.at]
        self.cancel(waiting)
        self.tries.setdefault(key, []).append(tried)
        for other in [key, *waiting]:
            self.leave(other)
        where = f" on {job.node}" if job.node else ""
        self.notice(
            f"{self.label(key)} of {self.plan.trial_of[key]}: {job.state}{where} (job "
            f"{tried['job']}); it is submitted again"
        )

    # -- Slurm's availability ----------------------------------------------------------------------

    def no_answer(self, error: SlurmUnavailable) -> None:
        """Slurm did not answer. Report it, and give up after ``patience_min``. Jobs continue."""
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        if now - self.silent_since > self.options.patience_min * 60:
            waited = f"Slurm has not answered for {self.options.patience_min:g} min ({error})"
            if not self.todo:
                self.notice(
                    f"{waited}; these jobs are not needed, but may continue: "
                    f"{' '.join(sorted({*self.to_cancel, *self.unanswered}))}"
                )
                self.to_cancel.clear()
                self.unanswered.clear()
                return
            raise MosweepError(
                f"{waited}; its jobs continue, and the same command attaches to them"
            )
        if now - max(self.silent_since, self.notified) > NOTICE_S:
            self.notified = now
            self.notice(
                f"Slurm has not answered for {now - self.silent_since:.0f} s ({error}); retrying"
            )

    def answered(self) -> None:
        """Slurm answered."""
        if self.silent_since is not None and self.notified > self.silent_since:
            self.notice("Slurm is answering again")
        self.silent_since = None
