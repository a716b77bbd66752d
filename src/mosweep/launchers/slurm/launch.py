"""One launch on Slurm: submit missing stages, follow their jobs, and resubmit lost ones.

A launch can be killed at any time and run again. The store knows which stages are done, and Slurm
which jobs are alive. Jobs are submitted before their inputs are done, so a sweep continues without
the launcher. That is why this module does not use the loop of ``launchers.driver``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mosweep.core.events import Recorder
from mosweep.core.store import Store
from mosweep.launchers.base import Outcome
from mosweep.launchers.slurm.client import SlurmClient
from mosweep.launchers.slurm.errors import SlurmUnavailable
from mosweep.launchers.slurm.follow import LOST_S, Follower
from mosweep.launchers.slurm.jobs import Jobs
from mosweep.launchers.slurm.spare import Spare
from mosweep.launchers.slurm.submit import Submitter
from mosweep.sweep.plan import Plan

if TYPE_CHECKING:
    from mosweep.launchers.slurm.options import Slurm

__all__ = ["Launch"]

#: Seconds between checks of the files that jobs write.
POLL_S = 0.25


class Launch:
    """One run of one plan."""

    def __init__(
        self,
        options: Slurm,
        plan: Plan,
        store: Store,
        recorder: Recorder,
        sweep: Path,
        client: SlurmClient | None = None,
    ) -> None:
        self.jobs = Jobs(options, plan, store, recorder, sweep, client or SlurmClient())
        self.follower = Follower(self.jobs)
        self.submitter = Submitter(self.jobs, self.follower.read_marks)
        self.spare = Spare(self.jobs)

    def run(self) -> Outcome:
        """Run until all stages have ended or, without ``wait``, until all are submitted."""
        jobs = self.jobs
        folder = os.path.relpath(jobs.sweep)
        verbs = f"`mosweep watch {folder}` follows them, `mosweep cancel {folder}` cancels them"
        try:
            self.attach()
            while not jobs.is_over:
                self.submitter.submit()
                if not jobs.options.wait and self.submitter.is_done:
                    break
                self.follower.read_marks()
                self.follower.do_trivial()
                self.follower.ask()
                self.spare.withdraw_over_budget()
                self.spare.dismiss()
                if not jobs.is_over:
                    time.sleep(POLL_S)
            jobs.tidy(last=True)
        except KeyboardInterrupt:
            jobs.notice(
                f"{jobs.job_count()} continue in Slurm: {verbs}; the same command attaches to "
                "them again"
            )
            raise
        if jobs.todo:
            jobs.outcome.detached = True
            rest = len(jobs.todo) - len(jobs.at)
            more = f"; `mosweep run` submits the other {rest} stages" if rest else ""
            jobs.notice(f"{jobs.job_count()} in Slurm: {verbs}{more}")
        return jobs.outcome

    def attach(self) -> None:
        """Find jobs of earlier launches and other sweeps for our stages.

        Stages whose jobs failed are submitted again.
        """
        jobs = self.jobs
        if not jobs.submissions.open():
            return
        while True:
            try:
                with self.submitter.lock():
                    self.submitter.find_submissions()
                known = dict(jobs.client.queue(jobs.names())) if jobs.at else {}
                break
            except SlurmUnavailable as error:
                jobs.no_answer(error)
                time.sleep(jobs.options.poll_s)
        unknown = {at.place.array for at in jobs.at.values() if str(at.place) not in known}
        if unknown:
            known = {**jobs.accounted(unknown), **known}
        jobs.answered()
        for key, at in list(jobs.at.items()):
            if jobs.store.read(key):
                jobs.finished(key)
                continue
            job, mark = known.get(str(at.place)), at.submission.end(at.index)
            running = job is not None and job.alive
            # The record was removed.
            if mark and mark["event"] == "finished" and time.time() - mark["time"] > LOST_S:
                jobs.cancel([key])
                jobs.leave(key)
            elif not running and (
                (mark and mark["event"] == "failed")
                or (job and job.state in ("FAILED", "CANCELLED"))
            ):
                jobs.cancel([key])  # The job may still be alive.
                jobs.leave(key)
        for submission in jobs.submissions.open(jobs.followed).values():
            if all(jobs.store.record_path(key).exists() for key in submission.keys.values()):
                jobs.submissions.close(submission)  # Its launcher died before it could.
                jobs.unanswered.pop(submission.name, None)
        if jobs.at:
            are = "is" if len(jobs.at) == 1 else "are"
            jobs.notice(f"{jobs.job_count()} of this sweep {are} already in Slurm")
