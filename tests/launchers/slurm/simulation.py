"""A Slurm that is made up: commands on the PATH, a clock of its own, and a cluster behind them
whose jobs really publish records.

The commands are shell scripts of two lines that hand their words to a thread of the test and print
what it answers, so a call costs a millisecond. The clock belongs to the simulation as well: when
the launcher sleeps, the cluster goes on by as much, and nobody waits.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import re
import shlex
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from mosweep.backends.dummy.backend import DummyFinetune
from mosweep.core.claims import Claim
from mosweep.core.events import Recorder
from mosweep.core.store import Store
from mosweep.core.types import Stage, Trial
from mosweep.core.work import Resources
from mosweep.evals.dummy.evaluation import DummyEval
from mosweep.launchers.slurm.sbatch import read_answer
from mosweep.launchers.worker import perform_now

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")
#: What our clock shows at 0, in Unix seconds.
EPOCH = 1_700_000_000.0
WAITING, BUSY = ("PENDING",), ("RUNNING", "COMPLETING")
FULL = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's "
    "size and/or time limits)"
)


class Killed(BaseException):
    """The launcher's process was killed."""


@dataclass(frozen=True)
class Reply:
    """What a command prints and how it ends."""

    out: str = ""
    err: str = ""
    status: int = 0


class Stubs:
    """Slurm's commands in a folder for the PATH; each call is answered by ``slurm``, in a thread of
    its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slurm: Callable[[str, list[str]], Reply | None] = lambda command, words: Reply()
        self.error: BaseException | None = None
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.pipes: dict[str, int] = {}
        self.requests = folder / "requests"
        os.mkfifo(self.requests)
        for command in COMMANDS:
            os.mkfifo(folder / f"{command}.reply")
            # neither end has to wait for the other
            self.pipes[command] = os.open(folder / f"{command}.reply", os.O_RDWR | os.O_NONBLOCK)
            script = self.bin / command
            script.write_text(
                f"#!/bin/sh\nprintf '%s\\n' \"{command} $*\" >'{self.requests}'\n. "
                f"'{folder}/{command}.reply'\n"
            )
            script.chmod(0o755)
        self.descriptor = os.open(self.requests, os.O_RDWR)
        self.serving = threading.Lock()
        self.thread = threading.Thread(target=self._serve, name="simulated Slurm", daemon=True)
        self.thread.start()

    def reply(self, command: str, reply: Reply) -> None:
        """Let the command that waits print ``reply`` and end."""
        script = (
            f"printf %s {shlex.quote(reply.out)}\nprintf %s {shlex.quote(reply.err)} >&2\nexit "
            f"{reply.status}\n"
        )
        pipe = self.pipes[command]
        # a command that was killed did not read its reply
        with contextlib.suppress(BlockingIOError):
            while os.read(pipe, 1 << 16):
                pass
        data = script.encode()
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(pipe, data) :]

    def close(self) -> None:
        os.write(self.descriptor, b"\n")
        self.thread.join()
        for descriptor in (self.descriptor, *self.pipes.values()):
            os.close(descriptor)

    def _serve(self) -> None:
        with open(self.requests) as requests:
            for line in requests:
                command, *words = line.rstrip("\n").split(" ")
                if not command:
                    return
                with self.serving:
                    try:
                        reply = self.slurm(command, words)
                    except BaseException as error:  # told by the test that finds it
                        self.error = self.error or error
                        reply = Reply(err=f"the simulation broke: {error!r}\n", status=1)
                    if reply is not None:
                        self.reply(command, reply)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Nothing within takes longer, in real time."""

    def hangs(number: int, frame: object) -> None:
        raise AssertionError(f"it hangs: {seconds:g} s are over")

    previous = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Clock:
    """Stands in for the module ``time``: sleeping lets the cluster go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.advance: Callable[[float], None] = lambda to: setattr(self, "now", to)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now

    def sleep(self, seconds: float) -> None:
        self.advance(self.now + seconds)


@dataclass(frozen=True)
class Fate:
    """What becomes of a job once it runs: ``how`` it ends, after so many seconds, and how late its
    files are seen.

    ``success``; ``failure`` (the stage says so itself); ``requeue`` (goes back into the queue, and
    has another fate there); ``zombie`` (its process is gone, Slurm calls it running until it is
    cancelled); ``unsaid`` (succeeds, and its node dies before it has said so); or a state of Slurm:
    killed without a trace.
    """

    how: str = "success"
    after_s: float = 10.0
    queue_s: float = 2.0
    record_late_s: float = 0.0
    mark_late_s: float = 0.0


@dataclass
class Element:
    """One element of an array: what is really the case, and ``past``: from when on it was how
    (seconds, state, by, node).

    ``idle``: its submission was void when it started, so it did nothing.
    """

    array: int
    index: int
    name: str
    folder: Path
    key: str
    label: str
    parameters: Mapping[str, str]
    submitted: float
    after: Sequence[tuple[int, int | None]] = ()
    along: int | None = None
    state: str = "PENDING"
    reason: str = ""
    by: str = ""
    node: str = ""
    exit_code: str = "0:0"
    started: float | None = None
    ended: float | None = None
    vanished: bool = False
    idle: bool = False
    fates: list[str] = field(default_factory=list)
    epoch: int = 0
    claim: Claim | None = None
    past: list[tuple[float, str, str, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{self.array}_{self.index}"

    @property
    def alive(self) -> bool:
        return self.state in WAITING + BUSY

    @property
    def void(self) -> bool:
        return (self.folder / "void").exists()


class Cluster:
    """The truth. ``fate`` decides what becomes of a job; ``executed`` counts how often each stage
    was really done.
    """

    def __init__(
        self, clock: Clock, store: Store, fate: Callable[[Element], Fate] | None = None
    ) -> None:
        self.clock, self.store = clock, store
        self.fate = fate or (lambda element: Fate())
        self.elements: dict[tuple[int, int], Element] = {}
        self.executed: Counter[str] = Counter()
        self.violations: list[str] = []
        self.log: list[str] = []
        self.next_array = 1001
        self.min_job_age, self.max_array_size = 300.0, 1001
        self.submit_limit: int | None = None
        # or "refused" or "never": what versions of Slurm make of a dependency on a job they forgot
        self.unknown_parent = "satisfied"
        self.kills_on_invalid = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._lock = threading.RLock()
        self.most_alive = 0

    # -- time --------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.clock.now

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + max(0.0, seconds), next(self._count), what))

    def advance(self, to: float) -> None:
        with self._lock:
            while self._events and self._events[0][0] <= to:
                when, _, what = heapq.heappop(self._events)
                self.clock.now = max(self.now, when)
                what()
            self.clock.now = max(self.now, to)

    def tell(self, text: str) -> None:
        self.log.append(f"{self.now - 1000:8.2f}  {text}")

    # -- jobs --------------------------------------------------------------------------------------

    def living(self) -> list[Element]:
        return [element for element in self.elements.values() if element.alive]

    def of(self, key: str) -> list[Element]:
        return [element for element in self.elements.values() if element.key == key]

    def accept(self, script: Path) -> Reply:
        """Take a job as sbatch does; or say why not."""
        text = script.read_text()
        given = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.MULTILINE))
        indices = [i for part in given["array"].partition("%")[0].split(",") for i in _span(part)]
        if max(indices) >= self.max_array_size:
            self.violations.append(
                f"an array with indices {given['array']} where {self.max_array_size} is too many"
            )
            return Reply(
                err="sbatch: error: Batch job submission failed: Invalid job array specification\n",
                status=1,
            )
        living = len(self.living())
        if self.submit_limit is not None and living + len(indices) > self.submit_limit:
            return Reply(
                err=f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {FULL}\n", status=1
            )
        after, along = _dependencies(given.get("dependency", ""))
        if self.unknown_parent == "refused" and not all(
            self.known(*parent) for parent in [*after, *([(along, None)] if along else [])]
        ):
            return Reply(
                err="sbatch: error: Batch job submission failed: Job dependency problem\n", status=1
            )
        array = self.next_array
        self.next_array += 1
        keys = json.loads((script.parent / "intent.json").read_bytes())["keys"]
        label = json.loads((script.parent / "intent.json").read_bytes())["label"]
        parameters = {name: value.strip('"') for name, value in given.items()}
        for index in indices:
            element = Element(
                array,
                index,
                parameters["job-name"],
                script.parent,
                keys[str(index)],
                label,
                parameters,
                self.now,
                after,
                along,
            )
            self.elements[array, index] = element
            self.change(element, "PENDING", reason="Dependency" if after or along else "Priority")
            twins = [
                other.id
                for other in self.of(element.key)
                if other.alive and other is not element and not other.void
            ]
            if twins and not element.void:
                self.violations.append(
                    f"{element.label} {element.key[:6]} is alive in {', '.join(twins)}, and now "
                    f"in {element.id} as well"
                )
        self.most_alive = max(self.most_alive, len(self.living()))
        self.look()
        return Reply(out=f"{array}\n")

    def known(self, array: int, index: int | None) -> bool:
        """Whether the controller remembers an element, or anything, of an array."""
        return any(
            each.array == array and index in (None, each.index) and self.remembered(each)
            for each in self.elements.values()
        )

    def remembered(self, element: Element) -> bool:
        return not element.vanished and (
            element.ended is None or self.now - element.ended < self.min_job_age
        )

    def change(
        self, element: Element, state: str, reason: str = "", by: str = "", node: str | None = None
    ) -> None:
        element.state, element.reason, element.by = state, reason, by
        element.node = element.node if node is None else node
        element.past.append((self.now, state, by, element.node))
        element.epoch += 1
        if not element.alive:
            element.ended = self.now
        self.tell(f"  {element.label} {element.key[:6]} {element.id}: {state} {reason}".rstrip())

    def look(self) -> None:
        """Start or cancel what waits for others, now that something has changed."""
        for element in list(self.elements.values()):
            if element.state == "PENDING" and element.reason in ("Dependency", "Priority"):
                ready = self.ready(element)
                if ready is None:
                    if self.kills_on_invalid:
                        self.end(element, "CANCELLED", reason="DependencyNeverSatisfied")
                    else:
                        element.reason = "DependencyNeverSatisfied"
                elif ready:
                    element.reason = "Resources"
                    fate = self.fate(element)
                    self.within(
                        element,
                        fate.queue_s,
                        partial(self.start, element, fate),
                    )
                else:
                    element.reason = "Dependency"

    def ready(self, element: Element) -> bool | None:
        """Whether all that the element waits for has succeeded; ``None`` if that can never be."""
        parents = [
            *element.after,
            *([(element.along, element.index)] if element.along is not None else []),
        ]
        ready = True
        for array, index in parents:
            parent = self.elements.get((array, index)) if index is not None else None
            if parent is None or not self.remembered(parent):
                if self.unknown_parent == "never":
                    return None
            elif parent.alive:
                ready = False
            elif parent.state != "COMPLETED":
                return None
        return ready

    def within(self, element: Element, seconds: float, what: Callable[[], None]) -> None:
        """Later, unless the element's state has changed by then."""
        epoch = element.epoch
        self.later(seconds, lambda: what() if element.epoch == epoch else None)

    def start(self, element: Element, fate: Fate) -> None:
        element.fates.append(fate.how)
        if fate.how == "BOOT_FAIL":
            self.end(element, "BOOT_FAIL", node="n1")
            return
        element.started = self.now
        self.change(element, "RUNNING", node=f"n{1 + element.array % 3}")
        if element.void:
            element.idle = True
            self.within(element, 0.5, lambda: self.end(element, "FAILED", exit_code="1:0"))
            return
        twins = [
            other.id
            for other in self.of(element.key)
            if other.state in BUSY and other is not element
        ]
        if twins:
            self.violations.append(
                f"{element.label} {element.key[:6]} runs in {', '.join(twins)}, and now in "
                f"{element.id} as well"
            )
        self.await_inputs(element, fate, self.now + 30)

    def await_inputs(self, element: Element, fate: Fate, until: float) -> None:
        """As ``mosweep.launchers.slurm.job`` does: the inputs may be seen late."""
        if self.now < until and not all(
            self.store.record_path(key).exists() for key in self.spec(element)["needs"].values()
        ):
            self.within(element, 1.0, lambda: self.await_inputs(element, fate, until))
            return
        self.work(element, fate)

    def spec(self, element: Element) -> dict[str, Any]:
        with open(element.folder / "stages.jsonl") as lines:
            found = (json.loads(line) for line in lines)
            spec: dict[str, Any] = next(
                each["spec"] for each in found if each["index"] == element.index
            )
        return spec

    def work(self, element: Element, fate: Fate) -> None:
        if self.store.read(element.key):
            self.succeed(element, fate)
            return
        claim = self.store.claims.acquire(element.key)
        if not isinstance(claim, Claim):
            self.within(element, 2.0, lambda: self.work(element, fate))
            return
        element.claim = claim
        self.write(
            element,
            "started",
            {
                "event": "started",
                "key": element.key,
                "log": str(element.folder / f"{element.index}.log"),
            },
        )
        ends = {
            "success": lambda: self.succeed(element, fate),
            "failure": lambda: self.fail(element),
            "requeue": lambda: self.requeue(element),
            "zombie": lambda: self.release(element),
            "unsaid": lambda: self.succeed(element, fate, unsaid=True),
            "empty": lambda: self.end(element, "COMPLETED"),
            "CANCELLED": lambda: self.end(element, "CANCELLED", by="4711"),
        }
        self.within(
            element,
            fate.after_s,
            ends.get(fate.how, lambda: self.end(element, fate.how, exit_code="1:0")),
        )

    def succeed(self, element: Element, fate: Fate, unsaid: bool = False) -> None:
        """Publish, say so, end; the files may be seen only after Slurm has called it ended."""
        if unsaid:
            self.publish(element)
            self.end(element, "NODE_FAIL")
            return
        if not fate.record_late_s and not fate.mark_late_s:
            event = self.publish(element)
            self.write(element, "ended", event)
            self.end(element, "COMPLETED")
            return
        self.end(element, "COMPLETED", keep=True)
        self.later(fate.record_late_s, lambda: void(self.publish(element)))
        self.later(
            fate.mark_late_s,
            lambda: self.write(
                element, "ended", {"event": "finished", "key": element.key, "seconds": 1.0}
            ),
        )

    def publish(self, element: Element) -> dict[str, Any]:
        self.release(element)
        event = perform_now(self.store, self.spec(element), lambda event: None)
        if event["event"] == "finished" and not event.get("elsewhere"):
            self.executed[element.key] += 1
        self.tell(
            f"  {element.label} {element.key[:6]} {element.id}: record "
            f"({event['event']}{', elsewhere' if event.get('elsewhere') else ''})"
        )
        return event

    def fail(self, element: Element) -> None:
        log = element.folder / f"{element.index}.log"
        log.write_text("it went wrong\n")
        self.write(
            element,
            "ended",
            {"event": "failed", "key": element.key, "error": "it went wrong", "log": str(log)},
        )
        self.end(element, "FAILED", exit_code="1:0")

    def requeue(self, element: Element) -> None:
        self.release(element)
        self.change(element, "NODE_FAIL")
        element.ended = None
        self.change(element, "PENDING", reason="BeginTime", node="")
        element.started = None
        fate = self.fate(element)
        self.within(element, max(fate.queue_s, 15.0), lambda: self.start(element, fate))

    def end(
        self,
        element: Element,
        state: str,
        by: str = "",
        reason: str = "",
        exit_code: str = "0:0",
        node: str | None = None,
        keep: bool = False,
    ) -> None:
        """Slurm calls it ended; with ``keep`` its process is about to publish."""
        if not keep:
            self.release(element)
        element.exit_code = exit_code
        self.change(element, state, by=by, reason=reason, node=node)
        self.look()

    def release(self, element: Element) -> None:
        if element.claim is not None:
            self.store.claims.release(element.claim)
            element.claim = None

    def write(self, element: Element, what: str, event: Mapping[str, Any]) -> None:
        (element.folder / f"{element.index}.{what}").write_text(
            json.dumps({**event, "time": self.clock.time(), "host": element.node})
        )

    def cancel(self, element: Element, by: str = "0") -> None:
        """What scancel does: an element that waits is forgotten at once."""
        if element.state == "PENDING":
            element.vanished = True
            self.end(element, "CANCELLED", by=by)
        elif element.alive:
            self.end(element, "CANCELLED", by=by)


# -- what the commands say -------------------------------------------------------------------------


class Commands:
    """Honest answers to calls of Slurm's commands; ``calls`` counts them. A liar overrides
    ``answer``.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.calls: list[tuple[float, str, list[str]]] = []

    def __call__(self, command: str, words: list[str]) -> Reply | None:
        self.calls.append((self.cluster.now, command, words))
        reply = self.answer(command, words)
        if reply is not None:
            said = " / ".join((reply.out + reply.err).splitlines())
            self.cluster.tell(
                f"{command} {' '.join(words)[-90:]} -> {said[:400] or '(nothing)'} [{reply.status}]"
            )
        return reply

    def count(self, command: str) -> int:
        return sum(called == command for _, called, _ in self.calls)

    def answer(self, command: str, words: list[str]) -> Reply | None:
        answers: dict[str, Callable[[list[str]], Reply]] = {
            "sbatch": lambda words: self.cluster.accept(Path(words[-1])),
            "squeue": self.squeue,
            "sacct": self.sacct,
            "scancel": self.scancel,
            "scontrol": lambda words: Reply(
                f"Configuration data\nMaxArraySize            = {self.cluster.max_array_size}\n"
            ),
            "sinfo": lambda words: Reply("all\n"),
            "srun": lambda words: Reply(),
        }
        return answers[command](words)

    def squeue(self, words: list[str]) -> Reply:
        return Reply(self.told(words, self.queue_rows()))

    def told(self, words: list[str], rows: Sequence[Mapping[str, str]]) -> str:
        """The rows as squeue's ``-o`` wants them, with ``--name`` only those of this name."""
        wanted = next(
            (word.removeprefix("--name=") for word in words if word.startswith("--name=")), None
        )
        form = words[words.index("-o") + 1]
        columns, ends = re.findall(r"%(\w)", form), re.split(r"%\w", form)[1:]
        lines = (
            "".join(row[column] + end for column, end in zip(columns, ends, strict=True))
            for row in rows
            if wanted in (None, row["j"])
        )
        return "".join(line + "\n" for line in lines)

    def queue_rows(self) -> list[dict[str, str]]:
        """What the controller remembers."""
        cluster = self.cluster
        return [
            {
                "F": str(each.array),
                "K": str(each.index),
                "T": each.state,
                "N": each.node,
                "M": _clock(
                    (each.ended or cluster.now) - each.started if each.started is not None else 0
                ),
                "S": _iso(each.started) if each.started is not None else "N/A",
                "r": each.reason or "None",
                "j": each.name,
            }
            for each in cluster.elements.values()
            if cluster.remembered(each)
        ]

    def sacct(self, words: list[str]) -> Reply:
        return Reply(self.accounts(words, 0.0))

    def accounts(self, words: list[str], late_s: float) -> str:
        """What the database was told until ``late_s`` seconds ago."""
        numbers = {
            number
            for word, following in itertools.pairwise(words)
            if word == "-j"
            for number in following.split(",")
        }
        name = next(
            (word.removeprefix("--name=") for word in words if word.startswith("--name=")), None
        )
        columns = words[words.index("-o") + 1].split(",")
        lines = []
        for each in self.cluster.elements.values():
            known = [entry for entry in each.past if entry[0] <= self.cluster.now - late_s]
            if (
                not known
                or each.vanished
                or (name is not None and each.name != name)
                or (numbers and str(each.array) not in numbers)
            ):
                continue
            when, state, by, node = known[-1]
            if name is not None and not any(entry[1] in BUSY for entry in known):
                continue  # never eligible: found by its number only
            row = {
                "JobID": f"{each.array}_[{each.index}]" if state == "PENDING" else each.id,
                "JobName": each.name,
                "State": f"{state} by {by}" if by else state,
                "ExitCode": each.exit_code,
                "NodeList": node or "None assigned",
                "Elapsed": "00:00:10",
                "Start": _iso(each.started) if each.started is not None else "Unknown",
                "End": "Unknown" if state in WAITING + BUSY else _iso(when),
            }
            lines.append("|".join(row[column] for column in columns))
        return "".join(line + "\n" for line in lines)

    def scancel(self, words: list[str]) -> Reply:
        for word in words:
            array, _, indices = word.partition("_")
            wanted = (
                {i for part in indices.strip("[]").split(",") for i in _span(part)}
                if indices
                else None
            )
            for element in list(self.cluster.elements.values()):
                if element.array == int(array) and (wanted is None or element.index in wanted):
                    self.cluster.cancel(element)
        return Reply()


def void(value: object) -> None:
    """Nothing of what was returned."""


def _span(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def _dependencies(text: str) -> tuple[list[tuple[int, int | None]], int | None]:
    """``afterok`` as pairs of array and index, and the array of ``aftercorr``."""
    after: list[tuple[int, int | None]] = []
    along = None
    for part in text.split(",") if text else ():
        kind, *jobs = part.split(":")
        if kind == "aftercorr":
            along = int(jobs[0])
        else:
            after += [(int(array), int(index)) for array, index in (job.split("_") for job in jobs)]
    return after, along


def _iso(now: float) -> str:
    return datetime.fromtimestamp(EPOCH + now, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


# -- stages ----------------------------------------------------------------------------------------


def tuned(
    name: str, needs: Mapping[str, Stage] | None = None, label: str = "finetune", **resources: Any
) -> Stage:
    """A stage that others can need."""
    work = DummyFinetune(name, "words", "task", {"name": name}, 0.0, 0.0, "none", 0.1, 0.0)
    return Stage(label, work, needs or {}, Resources(**resources))


def evaluated(model: Stage, task: str = "task", **resources: Any) -> Stage:
    """An evaluation of a tuned model."""
    return Stage(
        f"eval:{task}",
        DummyEval("tiny", task, 1, {}, 0.1),
        {"model": model},
        Resources(**resources),
    )


def trials_of(*chains: Sequence[Stage]) -> list[Trial]:
    return [Trial(f"t{number}", {"t": number}, tuple(chain)) for number, chain in enumerate(chains)]


class Heard(Recorder):
    """Remembers the events it is told of."""

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self.events: list[Any] = []
        self.tell = tell

    def _hear(self, *events: Any) -> None:
        for event in events:
            self.events.append(event)
            shown = (
                getattr(event, "text", None)
                or f"{event.label} {event.key[:6]} {event.job} {getattr(event, 'error', '')}"
            )
            self.tell(f"* {type(event).__name__}: {shown}")

    def notice(self, event: Any) -> None:
        self._hear(event)

    def stages_queued(self, events: Any) -> None:
        self._hear(*events)

    def stage_started(self, event: Any) -> None:
        self._hear(event)

    def stage_finished(self, event: Any) -> None:
        self._hear(event)

    def stage_failed(self, event: Any) -> None:
        self._hear(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def settled(answer: Path) -> None:
    """Wait, in real time, until the sbatch that writes ``answer`` has ended."""
    end = time.monotonic() + 20
    while read_answer(answer)[0]:
        assert time.monotonic() < end
        time.sleep(0.001)
