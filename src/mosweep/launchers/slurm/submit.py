"""Submits missing stages, in as few arrays as possible. Writes the intent before sbatch runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace

from mosweep.core.claims import Claim
from mosweep.core.paths import file_name
from mosweep.core.types import Stage
from mosweep.launchers.slurm.answers import ARRAY_SIZE_MAX
from mosweep.launchers.slurm.arrays import Array, Place, arrange
from mosweep.launchers.slurm.errors import SlurmFull, SlurmRefused, SlurmUnavailable
from mosweep.launchers.slurm.jobs import At, Jobs
from mosweep.launchers.slurm.script import output, script
from mosweep.launchers.slurm.submissions import Submission
from mosweep.sweep.plan import Plan
from mosweep.sweep.writing import set_link

__all__ = ["Submitter"]

#: Age in seconds from which the sbatch of another machine counts as ended. Then an unanswered
#: submission of that machine is looked up in Slurm.
FOREIGN_S = 120.0
#: Seconds that a submission without an answer must be unknown to Slurm before it is void.
UNANSWERED_S = 20.0
#: Seconds that an observed submit limit is used. Other users of the same group may have used it up.
FULL_S = 600.0
#: The claim that is held while submitting.
LOCK = "slurm-submissions"


class Submitter:
    """Selects stages and submits them. ``read_marks`` detects jobs that have ended."""

    def __init__(self, jobs: Jobs, read_marks: Callable[[], None]) -> None:
        self.jobs, self.read_marks = jobs, read_marks
        self.depth = _depths(jobs.plan)
        self.array_limit: int | None = None
        #: The observed submit limit, and until when it is used.
        self.submit_limit: tuple[int, float] | None = None
        self.next_check = 0.0
        self.all_submitted = self.reported_full = False

    @property
    def is_done(self) -> bool:
        """Whether all stages that can be submitted are certainly in Slurm."""
        return self.all_submitted and not self.jobs.blocked and not self.jobs.unanswered

    def submit(self) -> None:
        """Submit all stages that can be submitted now."""
        jobs = self.jobs
        if time.monotonic() < self.next_check:
            return
        self.all_submitted = not (
            jobs.blocked
            or jobs.unanswered
            or jobs.to_cancel
            or (self.room() and self.unsubmitted())
        )
        if self.all_submitted:
            return
        try:
            with self.lock():
                jobs.send_cancellations()
                self.find_submissions()  # Another sweep may have submitted them.
                self.read_marks()  # No dependency on ended jobs is needed.
                for stage in self.unsubmitted():
                    if jobs.store.read(stage.key):
                        jobs.finished(stage.key, elsewhere=True)
                self.submit_arrays(jobs.store.claims.held())
            jobs.answered()
            # Stages that the budget holds back are submitted as others end.
            self.all_submitted = not (jobs.meter and self.unsubmitted())
        except SlurmUnavailable as error:
            jobs.no_answer(error)
            self.next_check = time.monotonic() + jobs.options.poll_s
        except SlurmFull as error:
            self.report_full(error)
            jobs.answered()
            self.all_submitted = True
            self.submit_limit = (max(1, len(jobs.at)), time.monotonic() + FULL_S)
            self.next_check = time.monotonic() + jobs.options.poll_s
        # There is no room, or another process runs the stages: check again later.
        if jobs.blocked or self.unsubmitted():
            pause = jobs.options.poll_s if jobs.blocked else 1.0
            self.next_check = max(self.next_check, time.monotonic() + pause)

    def submit_arrays(self, elsewhere: Container[str]) -> None:
        """Submit while there is room, in smaller arrays if Slurm does not accept large ones."""
        size = ARRAY_SIZE_MAX
        while (room := self.room()) and (stages := self.affordable(elsewhere)):
            self.array_limit = self.array_limit or self.jobs.client.max_array_size()
            size = min(size, self.array_limit)
            stages.sort(key=lambda stage: -self.depth[stage.key])
            behind = {stage.key: self.waits(stage) for stage in stages[:room]}
            for array in arrange(
                [(self.with_more_memory(stage), behind[stage.key]) for stage in stages[:room]], size
            ):
                try:
                    self.submit_array(array, behind)
                except SlurmFull as error:
                    if len(array.stages) == 1:
                        raise
                    # Slurm accepts an array as a whole or not at all.
                    size = len(array.stages) // 2
                    self.report_full(error)
                    break

    def submit_array(self, array: Array, behind: Mapping[str, Sequence[Place]]) -> None:
        """Write the intent, run sbatch, and report it. ``resolve`` handles an interruption."""
        jobs = self.jobs
        keys = [stage.key for stage in array.stages.values()]
        tries = {key: jobs.tries[key] for key in keys if jobs.tries.get(key)}
        submission = jobs.submissions.create(
            array, jobs.options.name, str(jobs.sweep), behind, tries, output(jobs.options)
        )
        submission.script.write_text(script(jobs.options, array, submission, jobs.store.root))
        try:
            submission.array = jobs.client.submit(submission.script, submission.answer)
        except SlurmUnavailable:
            jobs.unanswered[submission.name] = None
            raise
        except SlurmFull:
            jobs.submissions.discard(submission)
            raise
        except SlurmRefused as error:
            jobs.submissions.close(submission, void=True)
            # The dependency has just ended.
            if array.dependency and "dependency" in str(error).lower():
                raise SlurmUnavailable(str(error)) from None
            for stage in array.stages.values():
                jobs.failed(stage.key, "sbatch", f"Slurm refuses the job: {error}")
            return
        jobs.followed[submission.name] = submission
        for index, key in submission.keys.items():
            jobs.at[key] = At(submission, index)
            jobs.ended.pop(key, None)
            if jobs.meter:
                jobs.meter.starts(key)
        jobs.queued({key: str(jobs.at[key].place) for key in keys}, jobs.tries)
        self.link_script(submission)
        number = len(keys)
        jobs.notice(
            f"submitted {array.first.label}: {number} job{'' if number == 1 else 's'} as Slurm "
            f"array {submission.array}"
        )

    def link_script(self, submission: Submission) -> None:
        """Link the script into the folder of every trial that it belongs to."""
        submitted = set(submission.keys.values())
        for trial in self.jobs.plan.trials:
            for stage in trial.stages:
                if stage.key in submitted and (folder := self.jobs.sweep / trial.name).is_dir():
                    set_link(
                        folder / f"{file_name(stage.label)}.sbatch",
                        os.path.relpath(submission.script, folder),
                    )

    # -- what to submit ----------------------------------------------------------------------------

    def unsubmitted(self) -> list[Stage]:
        """Stages that can be submitted: their inputs are done or have jobs."""
        jobs = self.jobs
        return [
            stage
            for key, stage in jobs.todo.items()
            if key not in jobs.at
            and key not in jobs.blocked
            and all(
                need.key in jobs.outcome.finished
                or (need.key in jobs.at and need.key not in jobs.ended)
                for need in stage.needs.values()
            )
        ]

    def affordable(self, elsewhere: Container[str]) -> list[Stage]:
        """The stages to submit now, as far as the budget allows.

        Stages that other processes run (``elsewhere``) are left out.
        """
        jobs, meter = self.jobs, self.jobs.meter
        stages = [stage for stage in self.unsubmitted() if stage.key not in elsewhere]
        if meter is None:
            return stages
        chosen = []
        for stage in stages:
            if stage.key not in jobs.todo:  # An input has just been refused.
                continue
            if stage.key in meter.since:  # Its last job was lost, but counts towards the budget.
                meter.failed(stage.key)
            if why := meter.refusal(stage.key):
                jobs.failed(stage.key, "", why, cancelled=True)
            elif not meter.must_wait(stage.key):
                meter.starts(stage.key)
                chosen.append(stage)
        for stage in chosen:  # The budget is reserved again when Slurm accepts the job.
            meter.returns(stage.key)
        return [stage for stage in chosen if stage.key in jobs.todo]

    def room(self) -> int:
        """How many more jobs can be submitted. 0 until there are enough for a call of sbatch."""
        jobs = self.jobs
        limits = [jobs.options.max_jobs] if jobs.options.max_jobs else []
        if self.submit_limit and time.monotonic() < self.submit_limit[1]:
            limits.append(self.submit_limit[0])
        if not limits:
            return len(jobs.todo)
        room = (
            min(limits)
            - len(jobs.at)
            - len(jobs.blocked)
            - sum(len(submission.spare) for submission in jobs.followed.values())
        )
        return max(0, room) if room >= max(1, min(limits) // 4) or not jobs.at else 0

    def waits(self, stage: Stage) -> list[Place]:
        """The jobs that the stage must wait for, without those that another of them waits for."""
        at = self.jobs.at
        needs = {need.key: need for need in stage.needs.values() if need.key in at}
        implied: set[str] = set()
        for need in needs.values():
            implied |= self.ancestors(need)
        return sorted(at[key].place for key in needs if key not in implied)

    def ancestors(self, stage: Stage) -> set[str]:
        """The keys of all stages that a stage depends on, directly or not."""
        keys: set[str] = set()
        for need in stage.needs.values():
            keys |= {need.key} | self.ancestors(need)
        return keys

    def with_more_memory(self, stage: Stage) -> Stage:
        """The stage with more memory, if it ran out of memory before."""
        options = self.jobs.options
        tries = self.jobs.tries.get(stage.key, ())
        often = sum(tried["state"] == "OUT_OF_MEMORY" for tried in tries)
        if not often or options.max_mem_gb is None:
            return stage
        memory = (stage.resources.mem_gb or options.mem_gb or options.max_mem_gb / 2) * 2**often
        return replace(
            stage, resources=replace(stage.resources, mem_gb=min(memory, options.max_mem_gb))
        )

    def report_full(self, error: SlurmFull) -> None:
        """Print once that Slurm does not accept all jobs now."""
        if not self.reported_full:
            self.jobs.notice(
                f"Slurm accepts no more jobs now ({error}); the rest is submitted as others end"
            )
        self.reported_full = True

    # -- what was submitted before -----------------------------------------------------------------

    def find_submissions(self) -> None:
        """Find open submissions with stages of this plan, and resolve those without an answer.

        Raises ``SlurmUnavailable``.
        """
        jobs = self.jobs
        jobs.blocked.clear()
        submissions = jobs.submissions.open(jobs.followed)
        jobs.unanswered = {
            name: since for name, since in jobs.unanswered.items() if name in submissions
        }
        for name, submission in submissions.items():
            wanted = {
                index: key
                for index, key in submission.keys.items()
                if key in jobs.todo and (name, key) not in jobs.left
            }
            if not wanted and name not in jobs.unanswered:
                continue
            if submission.array is None and not self.resolve(submission):
                jobs.blocked |= set() if submission.is_void else set(wanted.values())
                continue
            if wanted:
                jobs.followed[name] = submission
            for index, key in wanted.items():
                if (
                    key not in jobs.at
                    or jobs.at[key].submission.intent["time"] < submission.intent["time"]
                ):
                    if key in jobs.at:
                        # The job was lost, and another launch has submitted the stage again.
                        jobs.leave(key)
                    jobs.at[key] = At(submission, index)
                    jobs.tries[key] = list(submission.intent["tries"].get(key, []))

    def resolve(self, submission: Submission) -> bool:
        """Whether the submission is in Slurm. If it never reached Slurm, it becomes void.

        Raises ``SlurmUnavailable``.
        """
        jobs, begun = self.jobs, time.monotonic()
        while submission.read_answer():  # sbatch is running, even if its launcher is dead.
            if time.monotonic() - begun > UNANSWERED_S:
                raise SlurmUnavailable(f"the sbatch of {submission.job_name} has not ended yet")
            time.sleep(0.1)
        if submission.array is None:
            if submission.foreign and submission.age_s < FOREIGN_S:
                return False
            number = jobs.client.find(submission.job_name)
            if number is None:
                # A busy controller may not list a job yet that it has accepted.
                since = jobs.unanswered[submission.name] = (
                    jobs.unanswered.get(submission.name) or time.monotonic()
                )
                if time.monotonic() - since >= UNANSWERED_S:
                    jobs.submissions.close(submission, void=True)
                    del jobs.unanswered[submission.name]
                return False
            submission.adopt(number)
        if submission.name in jobs.unanswered:
            del jobs.unanswered[submission.name]
            jobs.followed[submission.name] = submission
            for index, key in submission.keys.items():
                # An input has failed in the meantime.
                if key in jobs.outcome.failed and submission.intent["sweep"] == str(jobs.sweep):
                    jobs.to_cancel.add(f"{submission.array}_{index}")
                    jobs.left.add((submission.name, key))
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock for submissions of this store."""
        claims = self.jobs.store.claims
        begun, said = time.monotonic(), False
        while not isinstance(claim := claims.acquire(LOCK), Claim):
            if time.monotonic() - begun > 10 and not said:
                self.jobs.notice(f"waiting for {claim}, which is submitting jobs")
                said = True
            time.sleep(0.1)
        try:
            yield
        finally:
            claims.release(claim)


def _depths(plan: Plan) -> dict[str, int]:
    """The depth of each stage in the graph, from 1."""
    depths: dict[str, int] = {}
    for key, stage in plan.stages.items():
        depths[key] = 1 + max((depths[need.key] for need in stage.needs.values()), default=0)
    return depths
