"""A real Slurm cluster for tests, with what it takes to break it. One per machine, shared by all
workers of pytest and all sessions.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

SCRIPT = Path(__file__).parent / "cluster"
STATE = Path(os.environ.get("MOSWEEP_SLURM", "/var/lib/mosweep-slurm"))
T = TypeVar("T")

SACCT = ("--allusers", "--allocations", "--noheader", "--parsable2", "--delimiter=\x1f")
FIELDS = "JobID,JobName,Partition,State,ExitCode,ReqMem,ReqTRES,NodeList,Submit,Start,End"
STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,TO"

RECORDER = """\
#!/bin/bash
IFS=$'\\x1f'
printf '%s\\x1e' "$EPOCHREALTIME$IFS"'{program}'"$IFS$*" >> '{log}'
exec {real} "$@"
"""


@dataclass(frozen=True)
class Call:
    """One call of a Slurm command: when (seconds since 1970), which, with what."""

    time: float
    program: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Calls:
    """What was called so far, by whomever found its commands on this process's PATH."""

    log: Path

    def __call__(self, *programs: str) -> list[Call]:
        """The calls of these programs, or of all."""
        lines = [line.split("\x1f") for line in self.log.read_text().split("\x1e")[:-1]]
        calls = [Call(float(when), program, tuple(words)) for when, program, *words in lines]
        return [call for call in calls if not programs or call.program in programs]


def elements(job: str) -> list[str]:
    """``12_[0-1,7%2]``, as accounting calls elements that wait, as ``12_0``, ``12_1`` and ``12_7``;
    ``0-4:2`` has a step.
    """
    array, bracket, indices = job.partition("_[")
    if not bracket:
        return [job]
    found: list[int] = []
    for part in indices.rstrip("]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{array}_{index}" for index in found]


class Cluster:
    """The cluster, and what happens to clusters. Only a test that asks for ``lonely_cluster`` may
    use what harms other tests.
    """

    def script(self, *words: str) -> str:
        """Runs ``tests/slurm/cluster``."""
        done = subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *command: str) -> str:
        """What a Slurm command prints; it has to succeed."""
        # seconds; and no array's indices cut short
        environment = {**os.environ, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, name_prefix: str = "", *, every_run: bool = False) -> list[dict[str, Any]]:
        """Jobs of the last day, by accounting; elements of arrays one by one; a requeued job's
        earlier runs too with ``every_run``.

        Keys: id (``12`` or ``12_3``), name, partition, state (one word), exit_code, req_mem, gpus,
        nodelist, submit, start, end (seconds since 1970, or None).
        """
        # A query by time leaves out jobs that were never allowed to start, a query by number does
        # not; so first the numbers.
        ended = self.run(
            "sacct",
            *SACCT,
            "--starttime=now-1day",
            "--endtime=now",
            f"--state={STATES}",
            "--format=JobID",
        )
        numbers = {
            line.split("_")[0]
            for line in (
                ended + self.run("squeue", "--noheader", "--states=all", "--format=%F")
            ).split()
        }
        if not numbers:
            return []
        duplicates = ["--duplicates"] if every_run else []
        printed = self.run(
            "sacct",
            *SACCT,
            *duplicates,
            f"--jobs={','.join(sorted(numbers))}",
            f"--format={FIELDS}",
        )
        lines = [line.split("\x1f") for line in printed.splitlines()]
        known = {line[0] for line in lines}
        jobs: list[dict[str, Any]] = []
        for ids, name, partition, state, exit_code, req_mem, tres, nodelist, *times in lines:
            gpus = re.search(r"gres/gpu=(\d+)", tres)
            submit, start, end = (int(moment) if moment.isdigit() else None for moment in times)
            job: dict[str, Any] = {
                "name": name,
                "partition": partition,
                "state": state.split()[0],
                "exit_code": exit_code,
            }
            job |= {
                "req_mem": req_mem,
                "gpus": int(gpus[1]) if gpus else 0,
                "nodelist": "" if nodelist == "None assigned" else nodelist,
            }
            job |= {"submit": submit, "start": start, "end": end}
            # For a moment accounting may list an element both by itself and among those that wait.
            jobs += [{"id": one, **job} for one in elements(ids) if one == ids or one not in known]
        return [job for job in jobs if job["name"].startswith(name_prefix)]

    def job(self, job: str) -> dict[str, Any]:
        """The last run of one job, by accounting, which may learn of it seconds late: until then
        its state is ``""``.
        """
        return next(
            (found for found in self.jobs() if found["id"] == job), {"id": job, "state": ""}
        )

    def queue(self) -> dict[str, tuple[str, str]]:
        """State and reason of all jobs that squeue still knows, ended ones too."""
        lines = self.run(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"
        ).splitlines()
        return {job: (state, reason) for job, state, reason in (line.split("|") for line in lines)}

    def state(self, job: str) -> str:
        """A job's state by squeue, or ``""`` if squeue does not know it."""
        return self.queue().get(job, ("", ""))[0]

    def wait_until(
        self, predicate: Callable[[], T | Literal[False] | None], timeout: float = 60
    ) -> T:
        """Asks five times a second until the answer is true, and returns it."""
        end = time.monotonic() + timeout
        while not (answer := predicate()):
            if time.monotonic() > end:
                raise TimeoutError(f"after {timeout} s still {answer!r}; squeue: {self.queue()}")
            time.sleep(0.2)
        return answer

    def requeue(self, job: str) -> None:
        """Puts a running job back into the queue, as an administrator may."""
        self.run("scontrol", "requeue", job)

    def scancel(self, job: str) -> None:
        """Cancels a job."""
        self.run("scancel", job)

    def kill_step(self, job: str) -> None:
        """``kill -9`` to all processes of a job, Slurm's own first: a death without any trace."""
        self.script("kill", job)

    def kill_node(self, name: str, *, jobs: bool = True) -> None:
        """A power cut: the node's slurmd and (with ``jobs``) all that runs there are gone. Slurm
        notices after 20 s.
        """
        self.script("kill", name, *(["--jobs"] if jobs else []))

    def start_node(self, name: str) -> None:
        """Returns when the node is back."""
        self.script("start", name)

    def restart_controller(self, down_s: float = 0, *, crash: bool = False) -> None:
        """Ends slurmctld, by ``kill -9`` if it is to ``crash``, and starts it again ``down_s``
        later. Returns when it answers.

        A crash forgets what was submitted in the last 5 s or so, and gives those numbers again.
        """
        self.script("kill" if crash else "stop", "slurmctld")
        time.sleep(down_s)
        self.script("start", "slurmctld")

    def configure(self, *options: str) -> None:
        """Starts the daemons again as ``tests/slurm/cluster up`` would with these options
        (``--max-array 11``, ``--no-accounting`` …).
        """
        self.script("up", "--for-tests", *options)

    @contextmanager
    def calls(self, folder: Path) -> Iterator[Calls]:
        """Records the calls of Slurm commands by this process and its children, also in jobs they
        submit; ``folder`` is a new one.
        """
        folder.mkdir()
        calls = Calls(folder / "calls")
        calls.log.touch()
        path = os.environ["PATH"]
        for program in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"):
            recorder = folder / program
            recorder.write_text(
                RECORDER.format(program=program, log=calls.log, real=shutil.which(program))
            )
            recorder.chmod(0o755)
        os.environ["PATH"] = f"{folder}:{path}"
        try:
            yield calls
        finally:
            os.environ["PATH"] = path

    @contextmanager
    def turn(self, *, alone: bool = False) -> Iterator[None]:
        """A turn on the cluster, with others or ``alone``. Tests have theirs; a fixture of wider
        scope that runs jobs has to take one.
        """
        with open(STATE / "turn.next", "w") as following, open(STATE / "turn", "w") as current:
            fcntl.flock(following, fcntl.LOCK_EX)  # nobody overtakes one who waits to be alone
            fcntl.flock(current, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(following, fcntl.LOCK_UN)
            yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, running. One that ran before goes on; else the last session to leave stops
    it.
    """
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("needs root on Debian or Ubuntu to run a real Slurm (tests/slurm/cluster)")
    STATE.mkdir(parents=True, exist_ok=True)
    cluster = Cluster()
    with open(STATE / "sessions", "w") as sessions:
        fcntl.flock(sessions, fcntl.LOCK_SH)
        with cluster.turn():
            done = subprocess.run(
                [str(SCRIPT), "up", "--for-tests"], capture_output=True, text=True, check=False
            )
        if done.returncode == 3:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        yield cluster
        try:
            fcntl.flock(sessions, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        cluster.script("down", "--for-tests")


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Lets tests that break the cluster run alone; and what a test submitted from its folder ends
    with it.
    """
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    with cluster.turn(alone="lonely_cluster" in request.fixturenames):
        yield
        jobs = (
            line.split(" ", 1)
            for line in cluster.run("squeue", "--noheader", "--format=%F %Z").splitlines()
        )
        if mine := sorted({job for job, folder in jobs if Path(folder).is_relative_to(tmp_path)}):
            cluster.run("scancel", *mine)


@pytest.fixture
def lonely_cluster(cluster: Cluster, turn: None) -> Iterator[Cluster]:
    """The cluster while no other test uses it: for tests that kill daemons or change the
    configuration. It is whole again afterwards.
    """
    yield cluster
    cluster.configure()


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Callable[..., str]:
    """Submits a shell command with options of sbatch and returns the job's number; its output is
    ``NUMBER.out`` in the test's folder.
    """

    def submit(command: str, *options: str) -> str:
        where = (f"--chdir={tmp_path}", f"--output={tmp_path}/%j.out")
        return cluster.run(
            "sbatch", "--parsable", "--mem=100", *where, *options, f"--wrap={command}"
        ).strip()

    return submit
