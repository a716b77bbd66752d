"""One launch on Slurm: submit what is missing, follow it, submit again what was lost. It may die at
any moment and be run again.

What is done is the store's to say, what is alive Slurm's. A stage that ended is looked for among
files first; Slurm is asked at a steady pace, once for all jobs, and its accounting only for the
cause of an end that nothing else explains.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mosweep.core.claims import Claim
from mosweep.core.errors import MosweepError
from mosweep.core.events import Recorder
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.launchers.base import Outcome
from mosweep.launchers.driver import PlanRun
from mosweep.launchers.slurm.arrays import Array, Place, arrange
from mosweep.launchers.slurm.client import (
    ARRAY_SIZE_MAX,
    Job,
    NoAccounting,
    SlurmClient,
    SlurmFull,
    SlurmRefused,
    SlurmSilent,
)
from mosweep.launchers.slurm.options import Slurm
from mosweep.launchers.slurm.script import output, script
from mosweep.launchers.slurm.submissions import Submission, Submissions
from mosweep.launchers.worker import at_once, perform
from mosweep.sweep.folder import point
from mosweep.sweep.plan import Plan

__all__ = ["Launch"]

#: Files are looked at this often, in seconds.
LOOK_S = 0.25
#: A job that Slurm calls ended is believed after this long, for files may be seen late; one it does
#: not know at all after the second.
SETTLE_S, LOST_S = 4.0, 20.0
#: While something seems over but is not settled, Slurm is asked this often, in seconds.
HURRY_S = 1.5
#: A running job whose process is gone is given up after this long, in seconds: a requeued one may
#: just be starting.
GONE_S = 12.0
#: An unanswered submission of another machine is looked for in Slurm once it is this old, in
#: seconds: its sbatch has ended by then.
FOREIGN_S = 120.0
#: A submission without an answer is void if Slurm does not know it at first and not after this long
#: either, in seconds.
UNHEARD_S = 20.0
#: The submit limit that was run into is believed this long, in seconds: others of the same group
#: may have used it up.
FULL_S = 600.0
#: After this long without an answer from Slurm the user is told, in seconds; and told again at
#: every multiple.
TELL_S = 60.0
#: The claim that is held while deciding what to submit.
DECIDING = "slurm-submissions"
#: Ends of a job that say nothing against its stage.
LOST = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "LOST", "GONE"})
#: What Slurm, the kernel or torchtune's parent process says when host memory ran out (CUDA's words
#: are others).
_OUT_OF_MEMORY = re.compile(
    r"exceeded memory limit|oom[-_ ]kill|killed \(out of memory\?\)|MemoryError", re.IGNORECASE
)
#: Why Slurm lets a job wait that will not start unless somebody changes something.
_STUCK = re.compile(
    r"PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|PartitionDown|PartitionInactive|BadConstraints|InvalidAccount|InvalidQOS|JobHeld"
    r"|launch failed|ReservationDeleted|PerJob|MaxWallDuration"
)


@dataclass(frozen=True)
class _At:
    """The job that a stage is at."""

    submission: Submission
    index: int

    @property
    def place(self) -> Place:
        assert self.submission.array is not None
        return Place(self.submission.array, self.index)


@dataclass
class _Ended:
    """A job that left no word, and that is over as ``squeue`` has it since ``since``: how, or
    ``None`` if it does not know the job.
    """

    since: float
    job: Job | None


class Launch(PlanRun):
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
        super().__init__(plan, store, recorder)
        self.options, self.sweep = options, sweep
        self.client = client or SlurmClient()
        self.submissions = Submissions(store.root / "slurm")
        self.may_be_trivial = {
            key: None for key, stage in self.todo.items() if stage.work.traits.may_be_trivial
        }
        self.depth = _depths(plan)
        self.followed: dict[str, Submission] = {}
        self.at: dict[str, _At] = {}
        self.tries: dict[str, list[dict[str, str]]] = {}
        self.running: dict[str, float] = {}
        self.stuck: set[tuple[str, str]] = set()  # label and reason that the user was told of
        self.waiting: set[str] = set()  # stages whose jobs were last seen waiting
        self.ended: dict[str, _Ended] = {}
        self.gone: dict[str, float] = {}
        # submission and stage of the jobs whose end has been dealt with
        self.left: set[tuple[str, str]] = set()
        self.blocked: set[str] = set()  # stages whose submission may or may not have reached Slurm
        # submissions without an answer, and since when Slurm was seen not to know them
        self.unheard: dict[str, float | None] = {}
        self.doomed: set[str] = set()  # jobs that are yet to be cancelled
        self.limit: int | None = None
        # the submit limit that we ran into, and until when it is believed
        self.most: tuple[int, float] | None = None
        self.submit_at = self.ask_at = self.dismiss_at = 0.0
        self.handed_in = self.full = False
        self.begun = time.time()
        self.asked = 0
        self.silent_since: float | None = None
        self.told = 0.0

    def run(self) -> Outcome:
        """Until nothing is left to do or, without ``wait``, to submit."""
        try:
            self.attach()
            while self.todo or self.doomed or self.unheard:
                self.submit()
                if (
                    not self.options.wait
                    and self.handed_in
                    and not self.blocked
                    and not self.unheard
                ):
                    break
                self.hear()
                self.do_trivial()
                self.ask()
                self.take_back()
                self.dismiss()
                if self.todo or self.doomed or self.unheard:
                    time.sleep(LOOK_S)
            self.tidy(last=True)
        except KeyboardInterrupt:
            self.notice(
                f"{self.living()} go on in Slurm: {self.verbs()}; the same command attaches to "
                "them again"
            )
            raise
        if self.todo:
            self.outcome.detached = True
            rest = len(self.todo) - len(self.at)
            more = (
                f"; {rest} stages had no room there yet, `mosweep run` hands them in"
                if rest
                else ""
            )
            self.notice(f"{self.living()} in Slurm: {self.verbs()}{more}")
        return self.outcome

    def living(self) -> str:
        """How many jobs there are, in words."""
        return f"{len(self.at)} job{'' if len(self.at) == 1 else 's'}"

    def verbs(self) -> str:
        """What can be done about them, in words."""
        folder = os.path.relpath(self.sweep)
        return f"`mosweep watch {folder}` follows them, `mosweep cancel {folder}` ends them"

    # -- submitting --------------------------------------------------------------------------------

    def attach(self) -> None:
        """Find the jobs that earlier launches, or other sweeps, have submitted for our stages. What
        failed there goes in again.
        """
        if not self.submissions.open():
            return
        while True:
            try:
                with self.deciding():
                    self.follow()
                jobs = dict(self.client.queue(self.names())) if self.at else {}
                unknown = {at.place.array for at in self.at.values() if str(at.place) not in jobs}
                jobs |= (
                    {name: job for name, job in self.accounted(unknown).items() if name not in jobs}
                    if unknown
                    else {}
                )
                break
            except SlurmSilent as error:
                self.silence(error)
                time.sleep(self.options.poll_s)
        self.answered()
        for key, at in list(self.at.items()):
            if self.store.read(key):
                self.finished(key)
                continue
            job, mark = jobs.get(str(at.place)), at.submission.end(at.index)
            running = job is not None and job.alive
            # its record was removed
            if mark and mark["event"] == "finished" and time.time() - mark["time"] > LOST_S:
                self.cancel([key])
                self.leave(key)
            elif not running and (
                (mark and mark["event"] == "failed")
                or (job and job.state in ("FAILED", "CANCELLED"))
            ):
                self.cancel([key])  # should it be alive after all
                self.leave(key)
        for submission in self.submissions.open(self.followed).values():
            if all(self.store.record_path(key).exists() for key in submission.keys.values()):
                self.submissions.close(submission)  # its launcher did not live to see this
                self.unheard.pop(submission.name, None)
        if self.at:
            self.notice(
                f"{self.living()} of this sweep {'is' if len(self.at) == 1 else 'are'} in Slurm "
                "already"
            )

    def follow(self) -> None:
        """Learn of open submissions that hold stages of ours; settle those that sbatch may or may
        not have got through.
        """
        self.blocked.clear()
        submissions = self.submissions.open(self.followed)
        self.unheard = {name: since for name, since in self.unheard.items() if name in submissions}
        for name, submission in submissions.items():
            wanted = {
                index: key
                for index, key in submission.keys.items()
                if key in self.todo and (name, key) not in self.left
            }
            if not wanted and name not in self.unheard:
                continue
            if submission.array is None and not self.resolve(submission):
                self.blocked |= set() if submission.is_void else set(wanted.values())
                continue
            if wanted:
                self.followed[name] = submission
            for index, key in wanted.items():
                if (
                    key not in self.at
                    or self.at[key].submission.intent["time"] < submission.intent["time"]
                ):
                    if key in self.at:
                        # the job was lost, and another launch has submitted the stage again
                        self.leave(key)
                    self.at[key] = _At(submission, index)
                    self.tries[key] = list(submission.intent["tries"].get(key, []))

    def resolve(self, submission: Submission) -> bool:
        """Whether the submission is in Slurm. One that never got there is void. Raises
        ``SlurmSilent``.
        """
        begun = time.monotonic()
        while submission.read_answer():  # sbatch still runs, though who started it may be dead
            if time.monotonic() - begun > UNHEARD_S:
                raise SlurmSilent(f"the sbatch of {submission.job_name} has not ended yet")
            time.sleep(0.1)
        if submission.array is None:
            if submission.foreign and submission.age_s < FOREIGN_S:
                return False
            number = self.client.find(submission.job_name)
            if number is None:
                # A controller that was too busy to answer may be too busy yet to show what it took.
                since = self.unheard[submission.name] = (
                    self.unheard.get(submission.name) or time.monotonic()
                )
                if time.monotonic() - since >= UNHEARD_S:
                    self.submissions.close(submission, void=True)
                    del self.unheard[submission.name]
                return False
            submission.adopt(number)
        if submission.name in self.unheard:
            del self.unheard[submission.name]
            self.followed[submission.name] = submission
            for index, key in submission.keys.items():
                # what it needs has failed meanwhile
                if key in self.outcome.failed and submission.intent["sweep"] == str(self.sweep):
                    self.doomed.add(f"{submission.array}_{index}")
                    self.left.add((submission.name, key))
        return True

    def unsubmitted(self) -> list[Stage]:
        """Stages that can be submitted: what they need is done, or on its way."""
        return [
            stage
            for key, stage in self.todo.items()
            if key not in self.at
            and key not in self.blocked
            and all(
                need.key in self.outcome.finished
                or (need.key in self.at and need.key not in self.ended)
                for need in stage.needs.values()
            )
        ]

    def submit(self) -> None:
        """Hand in what can be, as few arrays as possible."""
        if time.monotonic() < self.submit_at:
            return
        self.handed_in = not (
            self.blocked or self.unheard or self.doomed or (self.room() and self.unsubmitted())
        )
        if self.handed_in:
            return
        try:
            with self.deciding():
                self.carry_out()
                self.follow()  # another sweep may have been quicker
                self.hear()  # what has ended need not be waited for
                for stage in self.unsubmitted():
                    if self.store.read(stage.key):
                        self.finished(stage.key, elsewhere=True)
                elsewhere = self.store.claims.held()
                size = ARRAY_SIZE_MAX
                while (room := self.room()) and (stages := self.affordable(elsewhere)):
                    self.limit = self.limit or self.client.max_array_size()
                    size = min(size, self.limit)
                    stages.sort(key=lambda stage: -self.depth[stage.key])
                    behind = {stage.key: self.waits(stage) for stage in stages[:room]}
                    for array in arrange(
                        [(self.grown(stage), behind[stage.key]) for stage in stages[:room]], size
                    ):
                        try:
                            self.submit_array(array, behind)
                        except SlurmFull as error:
                            if len(array.stages) == 1:
                                raise
                            # Slurm takes an array whole or not at all
                            size = len(array.stages) // 2
                            self.full_of(error)
                            break
            self.answered()
            # what a budget holds back goes in as others end
            self.handed_in = not (self.meter and self.unsubmitted())
        except SlurmSilent as error:
            self.silence(error)
            self.submit_at = time.monotonic() + self.options.poll_s
        except SlurmFull as error:
            self.full_of(error)
            self.answered()
            self.handed_in = True
            self.most = (max(1, len(self.at)), time.monotonic() + FULL_S)
            self.submit_at = time.monotonic() + self.options.poll_s
        # there is no room, or others are at it: see again, but not at every turn
        if self.blocked or self.unsubmitted():
            self.submit_at = max(
                self.submit_at, time.monotonic() + (self.options.poll_s if self.blocked else 1.0)
            )

    def affordable(self, elsewhere: Container[str]) -> list[Stage]:
        """The stages to hand in now: nobody else is at them, and the budget has room for all of
        them together.
        """
        stages = [stage for stage in self.unsubmitted() if stage.key not in elsewhere]
        if self.meter is None:
            return stages
        chosen = []
        for stage in stages:
            if stage.key not in self.todo:  # what it needs has just been refused
                continue
            if stage.key in self.meter.since:  # its last job was lost, and took what it took
                self.meter.failed(stage.key)
            if why := self.meter.refusal(stage.key):
                self.failed(stage.key, "", why, cancelled=True)
            elif not self.meter.must_wait(stage.key):
                self.meter.starts(stage.key)
                chosen.append(stage)
        for stage in chosen:  # a job that Slurm takes is reserved for when it is taken
            self.meter.returns(stage.key)
        return [stage for stage in chosen if stage.key in self.todo]

    def take_back(self) -> None:
        """Take jobs that have not begun out of Slurm, if what others took leaves the budget no room
        for them.
        """
        if self.meter is None:
            return
        for key in self.meter.too_many([key for key in self.at if key not in self.running]):
            if key in self.at:
                below = [key, *(other for other in self.descendants(key) if other in self.at)]
                self.cancel(below)
                for each in below:
                    self.meter.returns(each)
                    self.leave(each)

    def dismiss(self) -> None:
        """Take the jobs out of Slurm whose stages others have done, once their whole array is done.
        What waits for them is let go first.
        """
        for submission in self.followed.values() if time.monotonic() >= self.dismiss_at else ():
            spare = submission.spare
            if not spare or any(key in self.todo for key in submission.keys.values()):
                continue
            places = {f"{submission.array}_{index}" for index in spare}
            try:
                if not all(self.let_go(other) for other in self.behind(places)):
                    continue
            except SlurmSilent:  # they will find out by themselves
                self.dismiss_at = time.monotonic() + self.options.poll_s
                return
            self.doomed |= places
            submission.dismiss()

    def behind(self, places: Iterable[str]) -> Iterator[Submission]:
        """The submissions, anybody's, with a stage to do whose job waits for one of the jobs at
        ``places``, or for one that does.

        Slurm would cancel all of these together.
        """
        reached = set(places)
        # oldest first, and jobs wait for older ones only
        for submission in self.submissions.open(self.followed).values():
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
            if key not in self.outcome.failed and not self.store.record_path(key).exists()
        }

    def let_go(self, submission: Submission) -> bool:
        """Have Slurm start the submission's jobs without waiting for others, if all that they need
        is done and they are ours alone.
        """
        if submission.array is None or not all(
            key in self.todo
            and all(need.key in self.outcome.finished for need in self.todo[key].needs.values())
            for key in self.missing(submission)
        ):
            return False
        self.client.let_go(submission.array)
        return True

    def full_of(self, error: SlurmFull) -> None:
        """Say once that not all can go in at once."""
        if not self.full:
            self.notice(
                f"Slurm takes no more jobs at present ({error}); the rest goes in as others end"
            )
        self.full = True

    def room(self) -> int:
        """How many more jobs may be handed in; none while it is not worth a call of sbatch."""
        limits = [self.options.max_jobs] if self.options.max_jobs else []
        limits += [self.most[0]] if self.most and time.monotonic() < self.most[1] else []
        if not limits:
            return len(self.todo)
        room = (
            min(limits)
            - len(self.at)
            - len(self.blocked)
            - sum(len(submission.spare) for submission in self.followed.values())
        )
        return max(0, room) if room >= max(1, min(limits) // 4) or not self.at else 0

    def waits(self, stage: Stage) -> list[Place]:
        """The jobs that the stage has to wait for. A need that another need of it waits for itself
        goes without saying.
        """
        needs = {need.key: need for need in stage.needs.values() if need.key in self.at}
        implied: set[str] = set()
        for need in needs.values():
            implied |= self.ancestors(need)
        return sorted(self.at[key].place for key in needs if key not in implied)

    def ancestors(self, stage: Stage) -> set[str]:
        """The keys of all that a stage needs, and that those need."""
        found: set[str] = set()
        for need in stage.needs.values():
            found |= {need.key} | self.ancestors(need)
        return found

    def submit_array(self, array: Array, behind: Mapping[str, Sequence[Place]]) -> None:
        """Intent first, then sbatch, then the journal. Whatever is lost on the way, ``resolve``
        finds out.
        """
        keys = [stage.key for stage in array.stages.values()]
        tries = {key: self.tries[key] for key in keys if self.tries.get(key)}
        submission = self.submissions.create(
            array, self.options.name, str(self.sweep), behind, tries, output(self.options)
        )
        submission.script.write_text(script(self.options, array, submission, self.store.root))
        try:
            submission.array = self.client.submit(submission.script, submission.answer)
        except SlurmSilent:
            self.unheard[submission.name] = None
            raise
        except SlurmFull:
            self.submissions.discard(submission)
            raise
        except SlurmRefused as error:
            self.submissions.close(submission, void=True)
            # what it was to wait for has just ended
            if array.dependency and "dependency" in str(error).lower():
                raise SlurmSilent(str(error)) from None
            for stage in array.stages.values():
                self.failed(stage.key, "sbatch", f"Slurm refuses the job: {error}", None)
            return
        self.followed[submission.name] = submission
        for index, key in submission.keys.items():
            self.at[key] = _At(submission, index)
            self.ended.pop(key, None)
            if self.meter:
                self.meter.starts(key)
        self.queued({key: str(self.at[key].place) for key in keys}, self.tries)
        self.link_script(submission)
        self.notice(_handed_in(array, submission))

    def link_script(self, submission: Submission) -> None:
        """Each trial's folder shows the script that its stage was submitted with."""
        mine = set(submission.keys.values())
        for trial in self.plan.trials:
            for stage in trial.stages:
                if stage.key in mine and (folder := self.sweep / trial.name).is_dir():
                    point(
                        folder / f"{stage.label.replace('/', '_')}.sbatch",
                        os.path.relpath(submission.script, folder),
                    )

    def grown(self, stage: Stage) -> Stage:
        """The stage with more memory if it ran out of it before."""
        often = sum(tried["state"] == "OUT_OF_MEMORY" for tried in self.tries.get(stage.key, ()))
        if not often or self.options.max_mem_gb is None:
            return stage
        memory = (
            stage.resources.mem_gb or self.options.mem_gb or self.options.max_mem_gb / 2
        ) * 2**often
        return replace(
            stage, resources=replace(stage.resources, mem_gb=min(memory, self.options.max_mem_gb))
        )

    @contextlib.contextmanager
    def deciding(self) -> Iterator[None]:
        """Alone among all processes that submit for this store."""
        begun, told = time.monotonic(), False
        while not isinstance(claim := self.store.claims.acquire(DECIDING), Claim):
            if time.monotonic() - begun > 10 and not told:
                self.notice(f"waiting for {claim}, which is submitting jobs")
                told = True
            time.sleep(0.1)
        try:
            yield
        finally:
            self.store.claims.release(claim)

    # -- following ---------------------------------------------------------------------------------

    def hear(self) -> None:
        """Look at the files that jobs leave when they start and end."""
        mine = {(at.submission.name, at.index): key for key, at in self.at.items()}
        for name, submission in self.followed.items():
            for index, what in submission.news():
                key = mine.get((name, index))
                if key not in self.at:
                    continue
                if (mark := submission.mark(index, what)) is None:
                    submission.unhear(index)
                elif what != "started":
                    self.heard_end(key, mark)
        self.tidy()

    def do_trivial(self) -> None:
        """Do those stages here that turn out to be no work, such as rounds of a loop that has
        reached its threshold.
        """
        for key in list(self.may_be_trivial):
            stage = self.todo.get(key)
            if stage is None or any(
                need.key not in self.outcome.finished for need in stage.needs.values()
            ):
                continue
            del self.may_be_trivial[key]
            records = {role: self.store.read(need.key) for role, need in stage.needs.items()}
            inputs = {role: record.artifact for role, record in records.items() if record}
            if len(inputs) < len(records) or not stage.work.is_trivial(inputs):
                continue
            performing = perform(
                self.store,
                stage.spec,
                lambda event: None,
                lambda log: contextlib.nullcontext(),
                work=stage.work,
            )
            event = at_once(performing)
            if event["event"] == "busy":  # its job has begun
                continue
            if key in self.at:
                self.at[key].submission.do(self.at[key].index, event)
            if event["event"] == "finished":
                self.finished(key, "here", event["seconds"], bool(event.get("elsewhere")))
            else:
                self.failed(key, "here", event["error"], Path(event["log"]))

    def tidy(self, *, last: bool = False) -> None:
        """Close the submissions that hold no jobs of ours any more; at the ``last``, spare ones are
        left to themselves.
        """
        with_jobs = {at.submission.name for at in self.at.values()}
        with_jobs |= {name for name, each in self.followed.items() if each.spare and not last}
        if not self.doomed and len(self.followed) > len(with_jobs):
            for name in self.followed.keys() - with_jobs:
                self.close(self.followed[name])

    def heard_end(self, key: str, mark: Mapping[str, Any]) -> None:
        """A job's own word of its end. That it succeeded is believed when its record is there."""
        at = self.at[key]
        if self.store.read(key):
            self.finished(key, "", float(mark.get("seconds", 0.0)), bool(mark.get("elsewhere")))
        elif mark["event"] == "failed":
            often = [tried["state"] for tried in self.tries.get(key, ())].count("OUT_OF_MEMORY")
            # what the stage had started was killed
            if _OUT_OF_MEMORY.search(mark["error"]) and self.may_grow(key, often):
                self.retry(key, Job(str(at.place), "OUT_OF_MEMORY"))
            elif any(
                need.key not in self.outcome.finished for need in self.todo[key].needs.values()
            ):
                # Slurm had forgotten what it was to wait for, and started it without its inputs
                self.leave(key)
            else:
                self.failed(key, str(at.place), mark["error"], Path(mark["log"]))
        else:
            # the record is seen late; Slurm's word and time will tell
            at.submission.unhear(at.index)

    def ask(self) -> None:
        """Ask Slurm, when it is time: one query for all jobs, and one of the accounting for those
        that ended without a word.
        """
        if not (self.at or self.doomed) or time.monotonic() < self.ask_at:
            return
        self.asked += 1
        try:
            self.carry_out()
            jobs = self.client.queue(self.names())
            owners = self.store.claims.held()
            for key, at in list(self.at.items()):
                job = jobs.get(str(at.place))
                if key not in self.at:
                    continue
                if job is not None and job.alive:
                    self.alive(key, job, key in owners)
                elif key not in self.ended or (
                    job is not None and job.state != _state(self.ended[key].job)
                ):
                    # one that it calls ended may be forgotten later
                    self.ended[key] = _Ended(time.monotonic(), job)
            self.settle()
            self.carry_out()
        except SlurmSilent as error:
            self.silence(error)
        else:
            self.answered()
        # Quick at first, then at the configured pace.
        pace = min(self.options.poll_s, 0.5 * 1.5 ** min(self.asked, 20))
        self.ask_at = time.monotonic() + (min(pace, HURRY_S) if self.ended or self.gone else pace)

    def alive(self, key: str, job: Job, owned: bool) -> None:
        """Slurm says that the job waits or runs: if it runs, tell so once; if nothing of it is
        left, give it up.
        """
        at = self.at[key]
        self.ended.pop(key, None)
        if job.state == "PENDING" and job.reason == "DependencyNeverSatisfied":
            self.cancel([key])  # a cluster that does not heed kill-on-invalid-dep
            self.leave(key)
            return
        if job.state != "RUNNING":
            self.gone.pop(key, None)
            if job.state == "PENDING":
                self.waiting.add(key)
                if _STUCK.search(job.reason) and (self.label(key), job.reason) not in self.stuck:
                    self.stuck.add((self.label(key), job.reason))
                    self.notice(
                        f"{self.label(key)} (job {at.place}) will not start as things are: Slurm "
                        f"says {job.reason}"
                    )
            return
        self.waiting.discard(key)
        mark = at.submission.mark(at.index, "started")
        # of a run before it was requeued
        if mark is None or (job.started is not None and mark["time"] < job.started - 5):
            self.gone.pop(key, None)
            return
        if self.running.get(key) != mark["time"]:
            self.running[key] = mark["time"]
            if self.meter:
                self.meter.starts(key)
            name = f"{at.place} {job.node}".strip()
            self.started(key, name, Path(mark["log"]))
        if owned or self.store.record_path(key).exists() or at.submission.mark(at.index, "ended"):
            self.gone.pop(key, None)
        elif time.monotonic() - self.gone.setdefault(key, time.monotonic()) > GONE_S:
            self.cancel([key])
            self.lost(
                key,
                replace(
                    job, state="GONE", reason="its process is gone though Slurm says that it runs"
                ),
            )

    def settle(self) -> None:
        """Deal with the jobs that Slurm calls ended, or does not know, and that left no word
        themselves.
        """
        now = time.monotonic()
        due: list[str] = []
        for key, ended in list(self.ended.items()):
            if key not in self.at:
                continue
            if self.store.read(key):
                self.finished(key)
            elif mark := self.at[key].submission.mark(self.at[key].index, "ended"):
                if mark["event"] == "failed":
                    self.heard_end(key, mark)
                elif mark["time"] < self.begun:  # its record has been removed since
                    self.leave(key)
                elif now - ended.since > LOST_S:
                    self.failed(
                        key,
                        str(self.at[key].place),
                        "its job said that it was done, but there is no record",
                        None,
                    )
            elif now - ended.since > (
                SETTLE_S if ended.job and ended.job.state != "COMPLETED" else LOST_S
            ):
                due.append(key)
        unclear = {
            self.at[key].place.array
            for key in due
            if key in self.at and self.is_unclear(self.ended[key].job)
        }
        known = self.accounted(unclear) if unclear else {}
        for key in due:
            if key in self.at and (job := self.verdict(key, self.ended[key], known)):
                self.lost(key, job)

    def verdict(self, key: str, ended: _Ended, known: Mapping[str, Job]) -> Job | None:
        """How the stage's job ended, by all that is ``known``; ``None`` if that is not clear
        yet.
        """
        at, said = self.at[key], ended.job
        found = known.get(str(at.place)) if self.is_unclear(said) else None
        if found is not None and found.alive and time.monotonic() - ended.since < 3 * LOST_S:
            return said  # the accounting is late
        if said is None:
            self.cancel([key])  # what Slurm has lost sight of must not be alive after all
        if found is not None and not found.alive:
            # a user who cancels a job is named
            in_vain = not found.by and at.submission.intent["behind"].get(key)
            return replace(found, reason=said.reason if said else "Dependency" if in_vain else "")
        # Slurm forgets an element of an array at once if it is cancelled while it waits.
        waited = key in self.waiting and at.submission.mark(at.index, "started") is None
        return said or Job(str(at.place), "CANCELLED" if waited and found is None else "LOST")

    def names(self) -> dict[str, str]:
        """The names of the jobs that our stages are at, by number."""
        return {at.place.array: at.submission.job_name for at in self.at.values()}

    def is_unclear(self, job: Job | None) -> bool:
        """Whether the accounting may know better: who cancelled it, whether it was memory."""
        return job is None or job.state in ("CANCELLED", "FAILED")

    def accounted(self, arrays: Iterable[str]) -> Mapping[str, Job]:
        """What the accounting says, if there is any."""
        try:
            names = self.names()
            return self.client.accounting({array: names[array] for array in arrays})
        except (NoAccounting, SlurmSilent):
            return {}

    def lost(self, key: str, job: Job) -> None:
        """A job ended and left no word: what now depends on the cause."""
        if job.state == "FAILED" and _OUT_OF_MEMORY.search(
            self.at[key].submission.printed(self.at[key].index)
        ):
            # without cgroups Slurm says so to the job only
            job = replace(job, state="OUT_OF_MEMORY")
        at, name, state = self.at[key], str(self.at[key].place), job.state
        where = f" on {job.node}" if job.node else ""
        log = self.log_of(at)
        tried = [each["state"] for each in self.tries.get(key, ())]
        again = {
            **dict.fromkeys(LOST, sum(state in LOST for state in tried) < self.options.retries),
            "TIMEOUT": tried.count("TIMEOUT") < self.options.max_num_timeout,
            "OUT_OF_MEMORY": self.may_grow(key, tried.count("OUT_OF_MEMORY")),
        }
        if again.get(state):
            self.retry(key, job)
        elif state == "CANCELLED" and (self.broken(key) or job.reason.startswith("Dependency")):
            self.leave(key)  # with what it waited for; it goes in again behind the next try
        elif state == "CANCELLED":
            self.failed(
                key, name, f"cancelled{f' by {job.by}' if job.by else ''}", log, cancelled=True
            )
        elif state == "COMPLETED":
            self.failed(key, name, f"its job{where} ended without a result (is a disk full?)", log)
        elif state == "FAILED":
            code = f", exit status {job.exit_code}" if job.exit_code else ""
            self.failed(key, name, f"its process{where} died{code}", log)
        else:
            often = f", {len(tried) + 1} times" if tried else ""
            hint = (
                " (a larger hydra.launcher.max_mem_gb would allow another try)"
                if state == "OUT_OF_MEMORY"
                else ""
            )
            self.failed(key, name, f"{state}{where}{often}{hint}", log)

    def may_grow(self, key: str, often: int) -> bool:
        """Whether there is memory left to give to a stage that ran out of it ``often`` times
        before.
        """
        if self.options.max_mem_gb is None:
            return False
        asked = self.todo[key].resources.mem_gb or self.options.mem_gb
        return often < 1 if asked is None else asked * 2**often < self.options.max_mem_gb

    def broken(self, key: str) -> bool:
        """Whether something the stage needs is neither done nor well on its way, so that Slurm
        itself took the job out.
        """
        return any(
            need.key not in self.outcome.finished
            and (
                need.key not in self.at
                or need.key in self.ended
                or self.behind_another(key, need.key)
            )
            for need in self.todo[key].needs.values()
        )

    def behind_another(self, key: str, need: str) -> bool:
        """Whether the stage's job was put behind an earlier try of what it needs."""
        behind = self.at[key].submission.intent["behind"].get(key, [])
        return (
            bool(behind)
            and need in self.at
            and bool(self.tries.get(need))
            and str(self.at[need].place) not in behind
        )

    def retry(self, key: str, job: Job) -> None:
        """Take the stage out of its job, and what waits behind that job as well; both go in
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
            f"{tried['job']}); goes in again"
        )

    def cancel(self, keys: Sequence[str]) -> None:
        """Have the stages' jobs taken out of Slurm; nothing is handed in before that is done."""
        self.doomed |= {str(self.at[key].place) for key in keys if key in self.at}

    def carry_out(self) -> None:
        """Cancel what is to be cancelled. Raises ``SlurmSilent``."""
        if self.doomed:
            self.client.cancel(self.doomed)
            self.doomed.clear()

    def leave(self, key: str) -> None:
        """The stage is at no job any more."""
        at = self.at.pop(key)
        self.left.add((at.submission.name, key))
        self.waiting.discard(key)
        for about in (self.ended, self.gone, self.running):
            about.pop(key, None)

    def log_of(self, at: _At) -> Path:
        """The stage's log if it began, else what its job printed."""
        mark = at.submission.mark(at.index, "started")
        return (
            Path(mark["log"])
            if mark and Path(mark["log"]).exists()
            else at.submission.log(at.index)
        )

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
                    f"{' '.join(sorted({*self.doomed, *self.unheard}))}"
                )
                self.doomed.clear()
                self.unheard.clear()
                return
            raise MosweepError(
                f"{waited}; what runs there goes on, and the same command attaches to it"
            )
        if now - max(self.silent_since, self.told) > TELL_S:
            self.told = now
            self.notice(
                f"Slurm has not answered for {now - self.silent_since:.0f} s ({error}); still "
                "trying"
            )

    def answered(self) -> None:
        """Slurm did answer."""
        if self.silent_since is not None and self.told > self.silent_since:
            self.notice("Slurm answers again")
        self.silent_since = None


def _state(job: Job | None) -> str | None:
    return job.state if job else None


def _depths(plan: Plan) -> dict[str, int]:
    """How many stages deep each stage lies."""
    depths: dict[str, int] = {}
    for key, stage in plan.stages.items():
        depths[key] = 1 + max((depths[need.key] for need in stage.needs.values()), default=0)
    return depths


def _handed_in(array: Array, submission: Submission) -> str:
    number = len(array.stages)
    return (
        f"submitted {array.first.label}: {number} job{'' if number == 1 else 's'} as Slurm array "
        f"{submission.array}"
    )
