"""Jobs in Slurm that are not needed: their stages are done, or the budget does not allow them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from mosweep.launchers.slurm.errors import SlurmUnavailable
from mosweep.launchers.slurm.jobs import Jobs
from mosweep.launchers.slurm.submissions import Submission

__all__ = ["Spare"]


class Spare:
    """Cancels jobs in Slurm that are no longer needed."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.next_check = 0.0

    def withdraw_over_budget(self) -> None:
        """Cancel waiting jobs that no longer fit the budget, because other jobs cost more."""
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
        """Cancel jobs whose stages other jobs have done, once their whole array is done.

        The dependencies of jobs that wait for them are removed first.
        """
        if time.monotonic() < self.next_check:
            return
        for submission in self.jobs.followed.values():
            spare = submission.spare
            if not spare or any(key in self.jobs.todo for key in submission.keys.values()):
                continue
            places = {f"{submission.array}_{index}" for index in spare}
            try:
                if not all(self.let_start(other) for other in self.behind(places)):
                    continue
            except SlurmUnavailable:  # Without it, the jobs start and end immediately.
                self.next_check = time.monotonic() + self.jobs.options.poll_s
                return
            self.jobs.to_cancel |= places
            submission.dismiss()

    def behind(self, places: Iterable[str]) -> Iterator[Submission]:
        """Submissions of any sweep with a missing stage whose job waits for one of ``places``.

        This includes indirect waits. Slurm would cancel all of these jobs.
        """
        reached = set(places)
        # Submissions come oldest first, and jobs wait only for older jobs.
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
        """The stages of the submission that have neither finished nor failed."""
        return {
            key
            for key in submission.keys.values()
            if key not in self.jobs.outcome.failed and not self.jobs.store.record_path(key).exists()
        }

    def let_start(self, submission: Submission) -> bool:
        """Remove the dependencies of the submission's jobs if all inputs are done.

        Returns false, and changes nothing, if inputs are missing or a stage is not in this plan.
        """
        todo = self.jobs.todo
        if submission.array is None or not all(
            key in todo and self.jobs.is_ready(todo[key]) for key in self.missing(submission)
        ):
            return False
        self.jobs.client.remove_dependencies(submission.array)
        return True
