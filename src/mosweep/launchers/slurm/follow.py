"""Following jobs to their ends: by the files they leave, and by what Slurm says of them.

A stage that ended is looked for among files first. Slurm is asked at a steady pace, once for all
jobs, and its accounting only for the cause of an end that nothing else explains.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.launchers.slurm.answers import Job
from mosweep.launchers.slurm.errors import SlurmSilent
from mosweep.launchers.slurm.jobs import Ended, Jobs
from mosweep.launchers.slurm.verdict import (
    Facts,
    final_state,
    is_out_of_memory,
    is_stuck,
    is_unclear,
    judge,
)
from mosweep.launchers.worker import at_once, perform

__all__ = ["LOST_S", "Follower"]

#: A job that Slurm calls ended is believed after this long, in seconds, for files may be seen late.
SETTLE_S = 4.0
#: One that it does not know at all after this long.
LOST_S = 20.0
#: While something seems over but is not settled, Slurm is asked this often, in seconds.
HURRY_S = 1.5
#: A running job whose process is gone is given up after this long, in seconds: a requeued one may
#: just be starting.
GONE_S = 12.0


class Follower:
    """Learns what becomes of jobs, and acts on it."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.may_be_trivial = {
            key: None for key, stage in jobs.todo.items() if stage.work.traits.may_be_trivial
        }
        self.stuck: set[tuple[str, str]] = set()  # labels and reasons that were reported
        self.begun = time.time()
        self.ask_at = 0.0
        self.asked = 0

    # -- files -------------------------------------------------------------------------------------

    def read_marks(self) -> None:
        """Read the files that jobs leave when they start and end."""
        jobs = self.jobs
        keys = {(at.submission.name, at.index): key for key, at in jobs.at.items()}
        for name, submission in jobs.followed.items():
            for index, what in submission.news():
                key = keys.get((name, index))
                if key not in jobs.at:
                    continue
                if (mark := submission.mark(index, what)) is None:
                    submission.read_again(index)
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
            # what the stage had started was killed
            if is_out_of_memory(mark["error"]) and self.may_grow(key, often):
                jobs.retry(key, Job(str(at.place), "OUT_OF_MEMORY"))
            elif not jobs.is_ready(jobs.todo[key]):
                # Slurm had forgotten what it was to wait for, and started it without its inputs
                jobs.leave(key)
            else:
                jobs.failed(key, str(at.place), mark["error"], Path(mark["log"]))
        else:
            # the record is seen late: ``settle`` decides later
            at.submission.read_again(at.index)

    def do_trivial(self) -> None:
        """Do those stages here that turn out to be no work, such as rounds of a loop that has
        reached its threshold.
        """
        jobs = self.jobs
        for key in list(self.may_be_trivial):
            stage = jobs.todo.get(key)
            if stage is None or not jobs.is_ready(stage):
                continue
            del self.may_be_trivial[key]
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
            event = at_once(performing)
            if event["event"] == "busy":  # its job has begun
                continue
            if key in jobs.at:
                jobs.at[key].submission.do(jobs.at[key].index, event)
            if event["event"] == "finished":
                jobs.finished(key, "here", event["seconds"], bool(event.get("elsewhere")))
            else:
                jobs.failed(key, "here", event["error"], Path(event["log"]))

    # -- Slurm -------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask Slurm, when it is time: one query for all jobs, and one of the accounting for those
        that ended without a word.
        """
        jobs = self.jobs
        if not (jobs.at or jobs.to_cancel) or time.monotonic() < self.ask_at:
            return
        self.asked += 1
        try:
            jobs.carry_out()
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
                    # one that it calls ended may be forgotten later
                    jobs.ended[key] = Ended(time.monotonic(), job)
            self.settle()
            jobs.carry_out()
        except SlurmSilent as error:
            jobs.silence(error)
        else:
            jobs.answered()
        # Quick at first, then at the configured pace.
        pace = min(jobs.options.poll_s, 0.5 * 1.5 ** min(self.asked, 20))
        self.ask_at = time.monotonic() + (min(pace, HURRY_S) if jobs.ended or jobs.gone else pace)

    def alive(self, key: str, job: Job, owned: bool) -> None:
        """Slurm says that the job waits or runs: if it runs, say so once; if nothing of it is left,
        give it up.
        """
        jobs, at = self.jobs, self.jobs.at[key]
        jobs.ended.pop(key, None)
        if job.state == "PENDING" and job.reason == "DependencyNeverSatisfied":
            jobs.cancel([key])  # a cluster that does not heed kill-on-invalid-dep
            jobs.leave(key)
            return
        if job.state != "RUNNING":
            jobs.gone.pop(key, None)
            if job.state == "PENDING":
                jobs.waiting.add(key)
                self.tell_if_stuck(key, job)
            return
        jobs.waiting.discard(key)
        mark = at.submission.mark(at.index, "started")
        # of a run before it was requeued
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
            reason = "its process is gone though Slurm says that it runs"
            self.end_without_word(key, replace(job, state="GONE", reason=reason))

    def tell_if_stuck(self, key: str, job: Job) -> None:
        """Say once of each kind of stage that its jobs will not start as things are."""
        label = self.jobs.label(key)
        if is_stuck(job.reason) and (label, job.reason) not in self.stuck:
            self.stuck.add((label, job.reason))
            self.jobs.notice(
                f"{label} (job {self.jobs.at[key].place}) will not start as things are: Slurm "
                f"says {job.reason}"
            )

    # -- ends without a word -----------------------------------------------------------------------

    def settle(self) -> None:
        """Deal with the jobs that Slurm calls ended, or does not know, and that left no word
        themselves.
        """
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
                elif mark["time"] < self.begun:  # its record has been removed since
                    jobs.leave(key)
                elif now - ended.since > LOST_S:
                    error = "its job said that it was done, but there is no record"
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
                self.end_without_word(key, job)

    def final_state(self, key: str, ended: Ended, known: Mapping[str, Job]) -> Job | None:
        """How the stage's job ended, by all that is ``known``; ``None`` if that is not clear
        yet.
        """
        at = self.jobs.at[key]
        accounted = known.get(str(at.place)) if is_unclear(ended.job) else None
        patient = time.monotonic() - ended.since < 3 * LOST_S
        late = accounted is not None and accounted.alive and patient
        if ended.job is None and not late:
            self.jobs.cancel([key])  # what Slurm has lost sight of must not be alive after all
        return final_state(
            str(at.place),
            ended.job,
            accounted,
            waited=key in self.jobs.waiting and at.submission.mark(at.index, "started") is None,
            behind=at.submission.intent["behind"].get(key, ()),
            patient=patient,
        )

    def end_without_word(self, key: str, job: Job) -> None:
        """A job ended and left no word: what now depends on the cause."""
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
            jobs.leave(key)  # with what it waited for; it is submitted again behind the next try
        else:
            log = jobs.log_of(at)
            jobs.failed(key, str(at.place), verdict.error, log, cancelled=verdict.cancelled)

    def may_grow(self, key: str, often: int) -> bool:
        """Whether there is memory left to give to a stage that ran out of it ``often`` times
        before.
        """
        options = self.jobs.options
        if options.max_mem_gb is None:
            return False
        asked = self.jobs.todo[key].resources.mem_gb or options.mem_gb
        return often < 1 if asked is None else asked * 2**often < options.max_mem_gb

    def broken(self, key: str) -> bool:
        """Whether something the stage needs is neither done nor well on its way, so that Slurm
        itself took the job out.
        """
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
        """Whether the stage's job was put behind an earlier try of what it needs."""
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
