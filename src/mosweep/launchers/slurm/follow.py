"""Follows jobs until they end, by the files that they write and by Slurm's answers.

Files come first. Slurm is polled at a constant rate, with one query for all jobs. The accounting is
queried only if the cause of a job's end is unclear.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.core.reuse import adopt
from mosweep.core.types import Stage
from mosweep.launchers.slurm.answers import Job
from mosweep.launchers.slurm.errors import SlurmUnavailable
from mosweep.launchers.slurm.jobs import Ended, Jobs
from mosweep.launchers.slurm.verdict import (
    Facts,
    final_state,
    is_out_of_memory,
    is_stuck,
    is_unclear,
    judge,
)
from mosweep.launchers.worker import perform, run_immediate

__all__ = ["LOST_S", "Follower"]

#: Seconds until a job that ended in Slurm counts as ended. Its files may become visible late.
SETTLE_S = 4.0
#: Seconds until a job that Slurm does not know counts as ended.
LOST_S = 20.0
#: Seconds between queries of Slurm while the end of a job is unclear.
FAST_POLL_S = 1.5
#: Seconds until a running job without a process is cancelled. A requeued job may be starting.
GONE_S = 12.0


class Follower:
    """Detects the starts and ends of jobs, and decides what happens to their stages."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.may_be_trivial = {
            key: None
            for key, stage in jobs.todo.items()
            if stage.work.traits.may_be_trivial or key in jobs.plan.maybe
        }
        self.stuck: set[tuple[str, str]] = set()  # Labels and reasons that were reported.
        self.begun = time.time()
        self.next_poll = 0.0
        self.asked = 0

    # -- files -------------------------------------------------------------------------------------

    def read_marks(self) -> None:
        """Read the files that jobs leave when they start and end."""
        jobs = self.jobs
        keys = {(at.submission.name, at.index): key for key, at in jobs.at.items()}
        for name, submission in jobs.followed.items():
            for index, what in submission.new_marks():
                key = keys.get((name, index))
                if key not in jobs.at:
                    continue
                if (mark := submission.mark(index, what)) is None:
                    submission.reread(index)
                elif what != "started":
                    self.end_by_mark(key, mark)
        jobs.tidy()

    def end_by_mark(self, key: str, mark: Mapping[str, Any]) -> None:
        """Process a job's report that it ended. Only its record proves that it succeeded."""
        jobs, at = self.jobs, self.jobs.at[key]
        if jobs.store.read(key):
            elsewhere = bool(mark.get("elsewhere"))
            jobs.finished(key, "", float(mark.get("seconds", 0.0)), elsewhere)
        elif mark["event"] == "failed":
            often = [tried["state"] for tried in jobs.tries.get(key, ())].count("OUT_OF_MEMORY")
            # A process that the stage started was killed.
            if is_out_of_memory(mark["error"]) and self.may_grow(key, often):
                jobs.retry(key, Job(str(at.place), "OUT_OF_MEMORY"))
            elif not jobs.is_ready(jobs.todo[key]):
                # Slurm had forgotten the dependency, and started the job without its inputs.
                jobs.leave(key)
            else:
                jobs.failed(key, str(at.place), mark["error"], Path(mark["log"]))
        else:
            # The record is not visible yet; ``settle`` decides later.
            at.submission.reread(at.index)

    def do_trivial(self) -> None:
        """Run stages here that have no work left, such as rounds after a loop's threshold."""
        jobs = self.jobs
        for key in list(self.may_be_trivial):
            stage = jobs.todo.get(key)
            if stage is None or not jobs.is_ready(stage):
                continue
            del self.may_be_trivial[key]
            if key in jobs.plan.maybe and self.is_found(stage):
                continue
            records = {role: jobs.store.read(need.key) for role, need in stage.needs.items()}
            inputs = {role: record.artifact for role, record in records.items() if record}
            if len(inputs) < len(records) or not stage.work.is_trivial(inputs):
                continue
            performing = perform(
                jobs.store,
                stage.spec,
                lambda event: None,
                lambda log: contextlib.nullcontext(),
                work=stage.work,
            )
            event = run_immediate(performing)
            if event["event"] == "busy":  # Its job has started.
                continue
            self.end_here(key, event)

    def is_found(self, stage: Stage) -> bool:
        """End a stage here if a finished one has the same content. Its job is not needed."""
        jobs, key = self.jobs, stage.key
        adopt(jobs.store, [stage])
        if not jobs.store.read(key):
            return False
        self.end_here(key, {"event": "finished", "key": key, "seconds": 0.0, "elsewhere": True})
        return True

    def end_here(self, key: str, event: Mapping[str, Any]) -> None:
        """End a stage that needed no job. A job that it has already is told so."""
        jobs = self.jobs
        if key in jobs.at:
            jobs.at[key].submission.mark_done(jobs.at[key].index, event)
        if event["event"] == "finished":
            jobs.finished(key, "here", event["seconds"], bool(event.get("elsewhere")))
        else:
            jobs.failed(key, "here", event["error"], Path(event["log"]))

    # -- Slurm -------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Poll Slurm if it is due: one query for all jobs, and at most one of the accounting."""
        jobs = self.jobs
        if not (jobs.at or jobs.to_cancel) or time.monotonic() < self.next_poll:
            return
        self.asked += 1
        try:
            jobs.send_cancellations()
            known = jobs.client.queue(jobs.names())
            owners = jobs.store.claims.held()
            for key, at in list(jobs.at.items()):
                job = known.get(str(at.place))
                if key not in jobs.at:
                    continue
                if job is not None and job.alive:
                    self.alive(key, job, key in owners)
                elif key not in jobs.ended or (
                    job is not None and job.state != _state(jobs.ended[key].job)
                ):
                    # Slurm may forget an ended job later.
                    jobs.ended[key] = Ended(time.monotonic(), job)
            self.settle()
            jobs.send_cancellations()
        except SlurmUnavailable as error:
            jobs.no_answer(error)
        else:
            jobs.answered()
        # Polling starts fast and slows down to the configured interval.
        pace = min(jobs.options.poll_s, 0.5 * 1.5 ** min(self.asked, 20))
        self.next_poll = time.monotonic() + (
            min(pace, FAST_POLL_S) if jobs.ended or jobs.gone else pace
        )

    def alive(self, key: str, job: Job, owned: bool) -> None:
        """Process a job that waits or runs in Slurm.

        A start is reported once. A running job whose process is gone has ended.
        """
        jobs, at = self.jobs, self.jobs.at[key]
        jobs.ended.pop(key, None)
        if job.state == "PENDING" and job.reason == "DependencyNeverSatisfied":
            jobs.cancel([key])  # The cluster ignores kill-on-invalid-dep.
            jobs.leave(key)
            return
        if job.state != "RUNNING":
            jobs.gone.pop(key, None)
            if job.state == "PENDING":
                jobs.waiting.add(key)
                self.report_if_stuck(key, job)
            return
        jobs.waiting.discard(key)
        mark = at.submission.mark(at.index, "started")
        # The mark may be from a run before the job was requeued.
        if mark is None or (job.started is not None and mark["time"] < job.started - 5):
            jobs.gone.pop(key, None)
            return
        if jobs.running.get(key) != mark["time"]:
            jobs.running[key] = mark["time"]
            if jobs.meter:
                jobs.meter.starts(key)
            jobs.started(key, f"{at.place} {job.node}".strip(), Path(mark["log"]))
        if owned or jobs.store.record_path(key).exists() or at.submission.mark(at.index, "ended"):
            jobs.gone.pop(key, None)
        elif time.monotonic() - jobs.gone.setdefault(key, time.monotonic()) > GONE_S:
            jobs.cancel([key])
            reason = "its process is gone, but Slurm reports it as running"
            self.end_without_mark(key, replace(job, state="GONE", reason=reason))

    def report_if_stuck(self, key: str, job: Job) -> None:
        """Report a job that cannot start, once per label and reason."""
        label = self.jobs.label(key)
        if is_stuck(job.reason) and (label, job.reason) not in self.stuck:
            self.stuck.add((label, job.reason))
            self.jobs.notice(
                f"{label} (job {self.jobs.at[key].place}) cannot start; Slurm's reason: "
                f"{job.reason}"
            )

    # -- ends without a mark -----------------------------------------------------------------------

    def settle(self) -> None:
        """Process jobs that ended in Slurm, or are unknown to it, without reporting an end."""
        jobs, now = self.jobs, time.monotonic()
        due: list[str] = []
        for key, ended in list(jobs.ended.items()):
            if key not in jobs.at:
                continue
            if jobs.store.read(key):
                jobs.finished(key)
            elif mark := jobs.at[key].submission.mark(jobs.at[key].index, "ended"):
                if mark["event"] == "failed":
                    self.end_by_mark(key, mark)
                elif mark["time"] < self.begun:  # The record was removed since.
                    jobs.leave(key)
                elif now - ended.since > LOST_S:
                    error = "its job reported success, but there is no record"
                    jobs.failed(key, str(jobs.at[key].place), error)
            elif now - ended.since > (
                SETTLE_S if ended.job and ended.job.state != "COMPLETED" else LOST_S
            ):
                due.append(key)
        unclear = {
            jobs.at[key].place.array
            for key in due
            if key in jobs.at and is_unclear(jobs.ended[key].job)
        }
        known = jobs.accounted(unclear) if unclear else {}
        for key in due:
            if key in jobs.at and (job := self.final_state(key, jobs.ended[key], known)):
                self.end_without_mark(key, job)

    def final_state(self, key: str, ended: Ended, known: Mapping[str, Job]) -> Job | None:
        """How the stage's job ended; ``None`` if that is not clear yet.

        ``known``: the accounting's answer.
        """
        at = self.jobs.at[key]
        accounted = known.get(str(at.place)) if is_unclear(ended.job) else None
        patient = time.monotonic() - ended.since < 3 * LOST_S
        late = accounted is not None and accounted.alive and patient
        if ended.job is None and not late:
            self.jobs.cancel([key])  # A job that Slurm lost may still be alive.
        return final_state(
            str(at.place),
            ended.job,
            accounted,
            waited=key in self.jobs.waiting and at.submission.mark(at.index, "started") is None,
            behind=at.submission.intent["behind"].get(key, ()),
            patient=patient,
        )

    def end_without_mark(self, key: str, job: Job) -> None:
        """Process a job that ended without reporting a result, depending on the cause."""
        jobs, at = self.jobs, self.jobs.at[key]
        tried = [each["state"] for each in jobs.tries.get(key, ())]
        facts = Facts(
            printed=at.submission.printed(at.index) if job.state == "FAILED" else "",
            tried=tried,
            retries=jobs.options.retries,
            max_timeouts=jobs.options.max_num_timeout,
            may_grow=self.may_grow(key, tried.count("OUT_OF_MEMORY")),
            broken=self.broken(key),
        )
        verdict = judge(job, facts)
        if verdict.again:
            jobs.retry(key, replace(job, state=verdict.state))
        elif verdict.leave:
            jobs.leave(key)  # It is submitted again, behind the next attempt of its input.
        else:
            log = jobs.log_of(at)
            jobs.failed(key, str(at.place), verdict.error, log, cancelled=verdict.cancelled)

    def may_grow(self, key: str, often: int) -> bool:
        """Whether a stage that ran out of memory ``often`` times can be retried with more."""
        options = self.jobs.options
        if options.max_mem_gb is None:
            return False
        asked = self.jobs.todo[key].resources.mem_gb or options.mem_gb
        return often < 1 if asked is None else asked * 2**often < options.max_mem_gb

    def broken(self, key: str) -> bool:
        """Whether an input is not done and not coming, so that Slurm cancelled the job."""
        jobs = self.jobs
        return any(
            need.key not in jobs.outcome.finished
            and (
                need.key not in jobs.at
                or need.key in jobs.ended
                or self.behind_another(key, need.key)
            )
            for need in jobs.todo[key].needs.values()
        )

    def behind_another(self, key: str, need: str) -> bool:
        """Whether the stage's job waits for an earlier attempt of its input."""
        jobs = self.jobs
        behind = jobs.at[key].submission.intent["behind"].get(key, [])
        return (
            bool(behind)
            and need in jobs.at
            and bool(jobs.tries.get(need))
            and str(jobs.at[need].place) not in behind
        )


def _state(job: Job | None) -> str | None:
    return job.state if job else None
