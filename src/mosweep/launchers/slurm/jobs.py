"""The jobs of one launch: which one each stage is at, and what has been seen of them."""

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
from mosweep.launchers.slurm.errors import NoAccounting, SlurmSilent
from mosweep.launchers.slurm.submissions import Submission, Submissions
from mosweep.sweep.plan import Plan

if TYPE_CHECKING:
    from mosweep.launchers.slurm.options import Slurm

__all__ = ["At", "Ended", "Jobs"]

#: After this long without an answer from Slurm the user gets a notice, in seconds, and another one
#: at every multiple.
NOTICE_S = 60.0


@dataclass(frozen=True)
class At:
    """The job that a stage is at."""

    submission: Submission
    index: int

    @property
    def place(self) -> Place:
        """Where Slurm has it."""
        assert self.submission.array is not None
        return Place(self.submission.array, self.index)


@dataclass
class Ended:
    """A job that left no word, and that is over as ``squeue`` has it since ``since``: how, or
    ``None`` if it does not know the job.
    """

    since: float
    job: Job | None


class Jobs(PlanRun):
    """The books of one launch on Slurm."""

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
        #: Submissions that hold jobs of ours, by name.
        self.followed: dict[str, Submission] = {}
        self.at: dict[str, At] = {}
        self.tries: dict[str, list[dict[str, str]]] = {}
        #: Stages whose jobs were seen to start, and when.
        self.running: dict[str, float] = {}
        #: Stages whose jobs were last seen waiting.
        self.waiting: set[str] = set()
        #: Stages whose jobs are over, or whose processes are gone, without a word.
        self.ended: dict[str, Ended] = {}
        self.gone: dict[str, float] = {}
        #: Submission and stage of the jobs whose end has been dealt with.
        self.left: set[tuple[str, str]] = set()
        #: Stages whose submission may or may not have reached Slurm.
        self.blocked: set[str] = set()
        #: Submissions without an answer, and since when Slurm was seen not to know them.
        self.unanswered: dict[str, float | None] = {}
        #: Jobs that are yet to be cancelled.
        self.to_cancel: set[str] = set()
        self.silent_since: float | None = None
        self.notified = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.todo or self.to_cancel or self.unanswered)

    def living(self) -> str:
        """How many jobs there are, in words."""
        return f"{len(self.at)} job{'' if len(self.at) == 1 else 's'}"

    def names(self) -> dict[str, str]:
        """The names of the jobs that our stages are at, by number."""
        return {at.place.array: at.submission.job_name for at in self.at.values()}

    def accounted(self, arrays: Iterable[str]) -> Mapping[str, Job]:
        """What the accounting says, if there is any."""
        try:
            names = self.names()
            return self.client.accounting({array: names[array] for array in arrays})
        except (NoAccounting, SlurmSilent):
            return {}

    def log_of(self, at: At) -> Path:
        """The stage's log if it began, else what its job printed."""
        mark = at.submission.mark(at.index, "started")
        return (
            Path(mark["log"])
            if mark and Path(mark["log"]).exists()
            else at.submission.log(at.index)
        )

    # -- leaving jobs ------------------------------------------------------------------------------

    def cancel(self, keys: Sequence[str]) -> None:
        """Have the stages' jobs taken out of Slurm; nothing is submitted before that is done."""
        self.to_cancel |= {str(self.at[key].place) for key in keys if key in self.at}

    def carry_out(self) -> None:
        """Cancel what is to be cancelled. Raises ``SlurmSilent``."""
        if self.to_cancel:
            self.client.cancel(self.to_cancel)
            self.to_cancel.clear()

    def leave(self, key: str) -> None:
        """The stage is at no job any more."""
        at = self.at.pop(key)
        self.left.add((at.submission.name, key))
        self.waiting.discard(key)
        for about in (self.ended, self.gone, self.running):
            about.pop(key, None)

    def tidy(self, *, last: bool = False) -> None:
        """Close the submissions that hold no jobs of ours any more; at the ``last``, spare ones are
        left to themselves.
        """
        with_jobs = {at.submission.name for at in self.at.values()}
        with_jobs |= {name for name, each in self.followed.items() if each.spare and not last}
        if not self.to_cancel and len(self.followed) > len(with_jobs):
            for name in self.followed.keys() - with_jobs:
                self.close(self.followed[name])

    def close(self, submission: Submission) -> None:
        """Nothing of ours is at this submission any more; if nothing of anybody's is, it is
        closed.
        """
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
        """The stage's record is there. ``job``: what made it, if not the stage's own job."""
        job = job or (str(self.at[key].place) if key in self.at else "another process")
        if key in self.at:
            self.leave(key)
        super().finished(key, job, seconds, elsewhere)

    def failed(
        self, key: str, job: str, error: str, log: Path | None = None, *, cancelled: bool = False
    ) -> list[str]:
        """The stage failed for good. The jobs of what needs it are cancelled."""
        if key in self.at:
            self.leave(key)
        given_up = super().failed(key, job, error, log, cancelled=cancelled)
        self.cancel(given_up)
        for other in given_up:
            if other in self.at:
                self.leave(other)
        return given_up

    def retry(self, key: str, job: Job) -> None:
        """Take the stage out of its job, and what waits behind that job as well; both are submitted
        again.
        """
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

    # -- silence -----------------------------------------------------------------------------------

    def silence(self, error: SlurmSilent) -> None:
        """Slurm did not answer: say so now and then, and give up after ``patience_min``; what runs
        there goes on.
        """
        now = time.monotonic()
        self.silent_since = self.silent_since or now
        if now - self.silent_since > self.options.patience_min * 60:
            waited = f"Slurm has not answered for {self.options.patience_min:g} min ({error})"
            if not self.todo:
                self.notice(
                    f"{waited}; jobs that nobody needs may go on there: "
                    f"{' '.join(sorted({*self.to_cancel, *self.unanswered}))}"
                )
                self.to_cancel.clear()
                self.unanswered.clear()
                return
            raise MosweepError(
                f"{waited}; what runs there goes on, and the same command attaches to it"
            )
        if now - max(self.silent_since, self.notified) > NOTICE_S:
            self.notified = now
            self.notice(
                f"Slurm has not answered for {now - self.silent_since:.0f} s ({error}); still "
                "trying"
            )

    def answered(self) -> None:
        """Slurm did answer."""
        if self.silent_since is not None and self.notified > self.silent_since:
            self.notice("Slurm answers again")
        self.silent_since = None
