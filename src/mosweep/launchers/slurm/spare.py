"""Jobs that Slurm has and nobody needs: their stages were done elsewhere, or the budget has no room
for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from mosweep.launchers.slurm.errors import SlurmSilent
from mosweep.launchers.slurm.jobs import Jobs
from mosweep.launchers.slurm.submissions import Submission

__all__ = ["Spare"]


class Spare:
    """Takes jobs out of Slurm that are not needed any more."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.look_at = 0.0

    def take_back(self) -> None:
        """Take jobs that have not begun out of Slurm, if what others took leaves the budget no room
        for them.
        """
        jobs = self.jobs
        if jobs.meter is None:
            return
        for key in jobs.meter.too_many([key for key in jobs.at if key not in jobs.running]):
            if key in jobs.at:
                below = [key, *(other for other in jobs.descendants(key) if other in jobs.at)]
                jobs.cancel(below)
                for each in below:
                    jobs.meter.returns(each)
                    jobs.leave(each)

    def dismiss(self) -> None:
        """Take the jobs out of Slurm whose stages others have done, once their whole array is done.
        What waits for them is let go first.
        """
        if time.monotonic() < self.look_at:
            return
        for submission in self.jobs.followed.values():
            spare = submission.spare
            if not spare or any(key in self.jobs.todo for key in submission.keys.values()):
                continue
            places = {f"{submission.array}_{index}" for index in spare}
            try:
                if not all(self.let_start(other) for other in self.behind(places)):
                    continue
            except SlurmSilent:  # they will find out by themselves
                self.look_at = time.monotonic() + self.jobs.options.poll_s
                return
            self.jobs.to_cancel |= places
            submission.dismiss()

    def behind(self, places: Iterable[str]) -> Iterator[Submission]:
        """The submissions, anybody's, with a stage to do whose job waits for one of the jobs at
        ``places``, or for one that does.

        Slurm would cancel all of these together.
        """
        reached = set(places)
        # oldest first, and jobs wait for older ones only
        for submission in self.jobs.submissions.open(self.jobs.followed).values():
            at = {key: f"{submission.array}_{index}" for index, key in submission.keys.items()}
            waiting = {
                key
                for key, waits in submission.intent["behind"].items()
                if not reached.isdisjoint(waits)
            }
            if missing := waiting & self.missing(submission):
                yield submission
            reached |= {at[key] for key in waiting - missing}

    def missing(self, submission: Submission) -> set[str]:
        """Those stages of the submission that are yet to be done."""
        return {
            key
            for key in submission.keys.values()
            if key not in self.jobs.outcome.failed and not self.jobs.store.record_path(key).exists()
        }

    def let_start(self, submission: Submission) -> bool:
        """Have Slurm start the submission's jobs without waiting for others, if all that they need
        is done and they are ours alone.
        """
        todo = self.jobs.todo
        if submission.array is None or not all(
            key in todo and self.jobs.is_ready(todo[key]) for key in self.missing(submission)
        ):
            return False
        self.jobs.client.remove_dependencies(submission.array)
        return True
