"""Slurm lies: late, forgetful, garbled, silent. Whatever it says, no stage succeeds without a
record, none is at two living jobs, no hang.

Every sequence is a random small plan on a made-up cluster (``simulation.py``) whose jobs meet
random ends and whose commands answer with random lies; the launcher is killed now and then and
started again. A failing sequence prints all that happened, and ``pytest
tests/launchers/slurm/test_lies.py -k '[SEED]'`` plays it again; ``MOSWEEP_LIES=500:5000`` plays
others.

No lie lasts for ever, or no launcher could tell it from the truth. The bounds: ``squeue`` is at
most ``LATE_S`` behind, and after it hid a job, its next answer is whole and true; ``sacct`` is at
most a minute behind; a silence lasts two minutes at most; files are seen at most ``SEEN_S`` after
Slurm calls a job ended.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.launchers.slurm.simulation import (
    Clock,
    Cluster,
    Commands,
    Element,
    Fate,
    Heard,
    Killed,
    Reply,
    Stubs,
    evaluated,
    limited,
    settled,
    trials_of,
    tuned,
)

from mosweep.core.events import StageFailed, StageFinished
from mosweep.core.store import Store
from mosweep.core.types import Stage, Trial
from mosweep.launchers.base import Outcome
from mosweep.launchers.slurm import follow, jobs, launch, spare, submissions, submit
from mosweep.launchers.slurm.options import Slurm
from mosweep.sweep.plan import Plan, make_plan

#: The sequences to play, as first:last.
FIRST, LAST = map(int, os.environ.get("MOSWEEP_LIES", "0:500").split(":"))
LATE_S, SEEN_S = 12.0, 3.0
TRANSIENT = (
    "Unable to contact slurm controller (connect failure)",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Connection refused",
    "Slurm backup controller in standby mode",
)
BAD: tuple[str, ...] = ("failure", "requeue", "zombie", "unsaid", "empty", "CANCELLED", "vanished")
BAD += ("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT", "BOOT_FAIL", "PREEMPTED")
#: Ends after which a stage goes in again.
AGAIN = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "zombie"}


class Liar(Commands):
    """Answers that are late, missing, garbled or lost, as often as ``rate`` says."""

    def __init__(self, cluster: Cluster, rng: random.Random, stubs: Stubs, rate: float) -> None:
        super().__init__(cluster)
        self.rng, self.stubs, self.rate = rng, stubs, rate
        self.silent_until = self.spell_until = 0.0
        self.spell: list[dict[str, str]] | None = None
        self.hidden: set[tuple[str, str]] = set()
        self.owes_truth = False
        self.has_accounting = rng.random() < 0.8
        self.accounts_late_s = rng.choice((0.0, 5.0, 60.0))
        self.kill_at_sbatch: int | None = None
        self.refuses: int | None = None
        self.refused = False
        self.answer_of: Path | None = None

    def lies(self, share: float = 1.0) -> bool:
        return self.rng.random() < self.rate * share

    def error(self, command: str) -> Reply:
        return Reply(err=f"{command}: error: {self.rng.choice(TRANSIENT)}\n", status=1)

    def answer(self, command: str, words: list[str]) -> Reply | None:
        now = self.cluster.now
        if now >= self.silent_until and self.lies(0.05):
            self.silent_until = now + self.rng.choice((5.0, 20.0, 120.0))
        if command == "sbatch":
            return self.sbatch(words)
        if now < self.silent_until or self.lies(0.2):
            return self.error(command)
        if command == "scancel" and self.lies(0.3):
            super().answer(command, words)
            return self.error(command)
        return super().answer(command, words)

    def sbatch(self, words: list[str]) -> Reply | None:
        script, rng = Path(words[-1]), self.rng
        self.kill_at_sbatch = None if self.kill_at_sbatch is None else self.kill_at_sbatch - 1
        self.answer_of = script.parent / "answer"
        if self.kill_at_sbatch == 0:
            how = rng.choice(("at once", "later", "never"))
            self.answer_of = None if how == "later" else self.answer_of
            kill()
            self.cluster.tell(f"kill -9 while sbatch runs; it gets through {how}")
            if how == "later":
                self.cluster.later(rng.uniform(0, 20), lambda: self.finish(script))
                return None
            return self.cluster.accept(script) if how == "at once" else Reply(status=137)
        self.refuses = None if self.refuses is None else self.refuses - 1
        if self.refuses == 0:
            self.refused = True
            return Reply(
                err="sbatch: error: Batch job submission failed: Invalid account or "
                "account/partition combination specified\n",
                status=1,
            )
        if self.cluster.now < self.silent_until or self.lies(0.4):
            lost = rng.choice(("refused", "accepted", "accepted late", "half an answer"))
            self.cluster.tell(f"sbatch's reply is lost; the job is {lost}")
            if lost == "accepted late":
                self.cluster.later(rng.uniform(0, 6), lambda: self.accepted_late(script))
            elif lost != "refused":
                reply = self.cluster.accept(script)
                if lost == "half an answer" and reply.out:
                    return Reply(reply.out[:2], status=1)
            return self.error("sbatch")
        if self.lies(0.1):
            return Reply(
                err="sbatch: error: Batch job submission failed: Job violates accounting/QOS "
                "policy\n",
                status=1,
            )
        return self.cluster.accept(script)

    def accepted_late(self, script: Path) -> None:
        """Nobody hears the answer."""
        self.cluster.accept(script)

    def finish(self, script: Path) -> None:
        self.stubs.reply("sbatch", self.cluster.accept(script))
        settled(script.parent / "answer")

    def squeue(self, words: list[str]) -> Reply:
        now = self.cluster.now
        if now >= self.spell_until and not self.owes_truth and self.lies(0.5):
            self.spell_until, self.owes_truth = now + self.rng.uniform(1, LATE_S), True
            self.spell = self.queue_rows() if self.rng.random() < 0.6 else None
            self.hidden = {
                (row["F"], row["K"]) for row in self.queue_rows() if self.rng.random() < 0.5
            }
            self.cluster.tell("squeue is behind" if self.spell is not None else "squeue hides jobs")
        if now < self.spell_until:
            rows = (
                self.spell
                if self.spell is not None
                else [r for r in self.queue_rows() if (r["F"], r["K"]) not in self.hidden]
            )
            return Reply(self.told(words, rows))
        rows = self.queue_rows()
        self.rng.shuffle(rows)
        text = self.told(words, rows)
        if self.owes_truth or not self.lies(0.4):
            self.owes_truth = False
            return Reply(text)
        self.owes_truth = True
        return Reply(self.garbled(text, whole_lines="%K" not in words[-1]))

    def sacct(self, words: list[str]) -> Reply:
        if not self.has_accounting:
            return Reply(err="Slurm accounting storage is disabled\n", status=1)
        if self.lies(0.2):
            return Reply()
        late = self.accounts_late_s * self.rng.random()
        lines = self.accounts(words, late).splitlines(keepends=True)
        self.rng.shuffle(lines)
        if "-j" in words and self.lies(0.5):
            lines = self.earlier_life(words, "".join(lines)) + lines
        text = "".join(lines)
        return Reply(self.garbled(text, whole_lines="-j" not in words) if self.lies(0.3) else text)

    def earlier_life(self, words: list[str], known: str) -> list[str]:
        """Jobs of the same numbers from before Slurm was set up anew, as long as the database has
        not heard of the new ones.
        """
        state = self.rng.choice(("FAILED", "COMPLETED", "CANCELLED by 7", "NODE_FAIL"))
        found = [
            e
            for e in self.cluster.elements.values()
            if str(e.array) in words[words.index("-j") + 1].split(",")
        ]
        row = {
            "State": state,
            "ExitCode": "1:0",
            "NodeList": "old",
            "Elapsed": "00:01:00",
            "JobName": "old",
        }
        columns = words[words.index("-o") + 1].split(",")
        rows = [{**row, "JobID": e.id} for e in found if f"{e.array}_" not in known]
        return [
            "|".join(row.get(column, "2020-01-01T00:00:00") for column in columns) + "\n"
            for row in rows
        ]

    def garbled(self, text: str, whole_lines: bool) -> str:
        """Parts are missing, or there is noise. A number that is searched for by name is never cut:
        that would be another job's.
        """
        first, second = sorted(self.rng.randrange(len(text) + 1) for _ in "ab")
        if whole_lines:
            first, second = (text.rfind("\n", 0, place) + 1 for place in (first, second))
        match self.rng.randrange(4):
            case 0:
                return text[:first]
            case 1:
                return text[:first] + text[second:]
            case 2:
                return f"slurm_load_jobs: warning\n|||||||\n\x00\x7f\n{text}1001|x|\n"
            case _:
                return text[first:]


def kill() -> None:
    """Kill the launcher, which waits for a command in the main thread."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


def killed(number: int, frame: object) -> None:
    raise Killed


class Witness(Heard):
    """Kills the launcher at an event."""

    kill_at: int | None = None

    def _hear(self, *events: Any) -> None:
        super()._hear(*events)
        if self.kill_at is not None and len(self.events) >= self.kill_at:
            self.tell("kill -9 at this event")
            raise Killed


class Story:
    """One random story, from its seed."""

    def __init__(self, seed: int, root: Path, stubs: Stubs, clock: Clock) -> None:
        rng = self.rng = random.Random(seed)
        self.seed, self.root, self.clock = seed, root, clock
        self.store = Store(root / "store")
        self.cluster = Cluster(clock, self.store, self.fate)
        self.bad = rng.choice((0.0, 0.1, 0.3, 0.6))
        self.slurm = Liar(self.cluster, rng, stubs, rng.choice((0.0, 0.1, 0.3, 0.6)))
        stubs.slurm = self.slurm
        self.cluster.min_job_age = rng.choice((2.0, 30.0, 300.0))
        self.cluster.max_array_size = rng.choice((2, 3, 1001))
        self.cluster.unknown_parent = rng.choice(("satisfied", "refused", "never"))
        self.cluster.kills_on_invalid = rng.random() < 0.8
        self.cluster.submit_limit = rng.choice((None, None, 2, 5))
        self.options = Slurm(
            mem_gb=4,
            max_mem_gb=rng.choice((None, 10.0)),
            retries=rng.choice((0, 2)),
            max_num_timeout=rng.choice((0, 2)),
            max_jobs=rng.choice((None, None, 1, 3)),
        )
        self.trials = self.plan()
        self.spoilt: set[str] = set()
        self.launches, self.abandoned = 0, False
        self.lived_s = 0.0

    def plan(self) -> list[Trial]:
        rng = self.rng
        base = tuned(f"{self.seed} base", label="model") if rng.random() < 0.4 else None
        models = [
            tuned(f"{self.seed} {n}", {"base": base} if base and rng.random() < 0.8 else {})
            for n in range(rng.randint(1, 4))
        ]
        chains = []
        for _ in range(rng.randint(1, 6)):
            model = rng.choice(models)
            tasks = rng.sample(("a", "b", "c"), rng.randint(0, 2))
            evals = [evaluated(model, task, gpus=rng.choice((0, 1))) for task in tasks]
            chains.append([*([base] if base else []), model, *evals])
        return trials_of(*chains)

    def fate(self, element: Element) -> Fate:
        rng = self.rng
        how = rng.choice(BAD) if rng.random() < self.bad else "success"
        if how == "vanished":
            self.cluster.within(element, rng.uniform(0, 5), lambda: self.vanish(element))
            how = "success"
        late = rng.random() < 0.3
        return Fate(
            how,
            after_s=rng.choice((0.5, 5.0, 30.0)) * rng.uniform(0.5, 1.5),
            queue_s=rng.choice((0.0, 3.0, 20.0)),
            record_late_s=rng.uniform(0, SEEN_S) if late else 0.0,
            mark_late_s=rng.uniform(0, SEEN_S) if late else 0.0,
        )

    def vanish(self, element: Element) -> None:
        """The user cancels an element that waits."""
        element.fates.append("vanished")
        self.cluster.cancel(element, by="4711")

    # -- the launcher's lives ----------------------------------------------------------------------

    def launch(self, trials: Sequence[Trial], *, mortal: bool, wait: bool = True) -> Outcome | None:
        """One launch; ``None`` if it was killed."""
        rng, cluster = self.rng, self.cluster
        plan = make_plan(trials, self.store)
        if not plan.to_run:
            return Outcome(finished=set(plan.records))
        self.launches += 1
        witness = Witness(cluster.tell)
        kill_at = float("inf")
        if mortal:
            match rng.randrange(3):
                case 0:
                    kill_at = cluster.now + rng.uniform(0, 90)
                case 1:
                    witness.kill_at = rng.randint(1, 12)
                case _:
                    self.slurm.kill_at_sbatch = rng.randint(1, 4)
        begun, sleeps = cluster.now, 0

        def advance(to: float) -> None:
            nonlocal sleeps
            sleeps += 1
            if to > kill_at:
                cluster.tell("kill -9 while it waits")
                raise Killed
            assert to - begun < 4 * 3600, "it hangs"
            cluster.advance(to)

        self.clock.advance = advance
        cluster.tell(
            f"launch{'' if wait else ', without waiting'}: {len(plan.to_run)} stages to run"
        )
        options = self.options if wait else _without_waiting(self.options)
        run = launch.Launch(options, plan, self.store, witness, self.root / "sweep")
        try:
            outcome = run.run()
        except Killed:
            self.abandoned = True
            with self.slurm.stubs.serving:  # what was being answered is
                pass
            if self.slurm.answer_of is not None:
                settled(self.slurm.answer_of)
            return None
        finally:
            self.slurm.kill_at_sbatch = None
            self.lived_s += cluster.now - begun
        self.abandoned = self.abandoned or outcome.detached
        self.examine(plan, outcome, witness)
        return outcome

    def play(self) -> None:
        rng, cluster = self.rng, self.cluster
        if rng.random() < 0.2:
            self.slurm.refuses = rng.randint(1, 3)
        for _ in range(rng.choice((0, 0, 1, 2))):
            trials = (
                self.trials
                if rng.random() < 0.7
                else rng.sample(self.trials, rng.randint(1, len(self.trials)))
            )
            if self.launch(trials, mortal=True, wait=rng.random() < 0.7) is None:
                cluster.advance(cluster.now + rng.choice((0.0, 1.0, 15.0, 400.0)))
                if rng.random() < 0.2:
                    self.move()
        outcome = self.launch(self.trials, mortal=False)
        assert outcome is not None
        left = [f"{e.label} {e.id}" for e in cluster.living() if not e.void]
        assert not left, f"left behind in Slurm: {left}"
        assert not outcome.detached
        cluster.advance(cluster.now + 3600)
        self.check(outcome)

    def move(self) -> None:
        """The next launch is on another machine."""
        self.cluster.tell("the next launch is on another machine")
        for intent in (self.store.root / "slurm").glob("*/intent.json"):
            intent.write_text(json.dumps({**json.loads(intent.read_text()), "host": "elsewhere"}))

    # -- what has to hold --------------------------------------------------------------------------

    def examine(self, plan: Plan, outcome: Outcome, witness: Witness) -> None:
        """What has to hold of every launch that comes to its end."""
        for key in outcome.finished:
            assert self.store.read(key, thorough=True), (
                f"{key[:6]} is said to be finished, and has no record"
            )
        assert not outcome.finished & outcome.failed.keys()
        if not outcome.detached:
            assert outcome.finished | outcome.failed.keys() == plan.stages.keys()
        ends = [
            event.key for event in witness.events if isinstance(event, StageFinished | StageFailed)
        ]
        assert len(ends) == len(set(ends)), "a stage came to two ends"
        told = {event.key for event in witness.events if isinstance(event, StageFinished)}
        assert told == outcome.finished - plan.records.keys()

    def check(self, outcome: Outcome) -> None:
        """What has to hold when all is over."""
        cluster = self.cluster
        assert not cluster.violations, cluster.violations
        stages = {stage.key: stage for trial in self.trials for stage in trial.stages}
        assert max(cluster.executed.values(), default=0) <= 1, "a stage was done twice"
        assert list((self.store.root / "claims").glob("*")) == []
        for key, stage in stages.items():
            assert (self.store.read(key) is not None) == (key in outcome.finished), (
                f"{stage.label} {key[:6]} was done, and is said to have failed"
            )
            # One that reaches Slurm so late that what it was to wait for is forgotten may never
            # start; it is made up for.
            jobs = [element for element in cluster.of(key) if element.fates and not element.idle]
            fates = [fate for element in jobs for fate in element.fates]
            if self.is_clean(stage):
                assert key in outcome.finished, (
                    f"{stage.label} {key[:6]} had no bad luck, and is not finished"
                )
                assert cluster.executed[key] == 1
                assert len(jobs) == 1, (
                    f"{stage.label} {key[:6]} had no bad luck, and {len(jobs)} jobs"
                )
            assert (
                sum(fate in AGAIN for fate in fates) <= (self.options.retries + 1) * self.launches
            ), fates
            assert fates.count("TIMEOUT") <= (self.options.max_num_timeout + 1) * self.launches
            assert (
                fates.count("OUT_OF_MEMORY")
                <= (3 if self.options.max_mem_gb else 1) * self.launches
            )
        open_ones = list((self.store.root / "slurm" / "open").glob("*"))
        assert self.abandoned or not open_ones, "submissions without jobs are left open"

    def is_clean(self, stage: Stage) -> bool:
        """Whether nothing ever happened to the stage's jobs, or to those of what it needs."""
        fates = {fate for element in self.cluster.of(stage.key) for fate in element.fates}
        return (
            fates <= {"success"}
            and not self.slurm.refused
            and all(self.is_clean(need) for need in stage.needs.values())
        )


def _without_waiting(options: Slurm) -> Slurm:
    from dataclasses import replace

    return replace(options, wait=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Stubs]]:
    """A folder (in memory, where there is such a place) and a PATH for all sequences: a store costs
    a thread per process.
    """
    root = Path(
        tempfile.mkdtemp(
            prefix="mosweep-lies-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        )
    )
    stubs = Stubs(tmp_path_factory.mktemp("lies") / "slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{stubs.bin}:{os.environ['PATH']}")
        previous = signal.signal(signal.SIGUSR1, killed)
        yield root, stubs
        signal.signal(signal.SIGUSR1, previous)
    stubs.close()
    shutil.rmtree(root)


# sbatch outlives the launcher that was killed
@pytest.mark.filterwarnings("ignore:subprocess:ResourceWarning")
@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_lies(seed: int, home: tuple[Path, Stubs], monkeypatch: pytest.MonkeyPatch) -> None:
    root, stubs = home
    for name in ("records", "artifacts", "slurm", "quarantine"):
        shutil.rmtree(root / "store" / name, ignore_errors=True)
    clock = Clock()
    for module in (launch, follow, jobs, spare, submit, submissions):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(launch, "POLL_S", 1.0)
    story = Story(seed, root, stubs, clock)
    try:
        with limited(60):
            story.play()
        assert stubs.error is None, stubs.error
    except BaseException:
        print(f"sequence {seed}:", *story.cluster.log, sep="\n")
        raise
