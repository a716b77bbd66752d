"""Slurm's commands, and what their answers mean. Nothing else in mosweep runs them.

``sbatch`` and ``scancel`` say what is wanted. ``squeue`` shows what the controller remembers: jobs
that have not ended, and those that ended within its ``MinJobAge``, often 300 s. ``sacct`` shows
what the accounting database knows, some seconds late. Neither is the truth by itself:

- A new job is in ``squeue`` at once; ``sacct`` may not know it, or call a running array PENDING
  under its bare number.
- Tasks of a pending array that are cancelled one by one are at once unknown to both. (Cancelled
  with their whole array, both know them.)
- A refused job can be in both, FAILED.
- A requeued job can be final in ``sacct`` (NODE_FAIL, PREEMPTED) while ``squeue`` has it PENDING
  again: ``squeue`` is right.
- ``sacct`` finds a job that was never eligible (held, or cancelled by its dependency) by its number
  only, never by its name.
- A number may be used again after Slurm was set up again; ``sacct`` then answers with the old job
  until it hears of the new one.

Tried on Slurm 22.05; what other versions say when they fail is taken from reports of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mosweep.core.errors import MosweepError, UserError

__all__ = [
    "LIVE",
    "Job",
    "NoAccounting",
    "SlurmClient",
    "SlurmFull",
    "SlurmRefused",
    "SlurmSilent",
    "read_answer",
]

#: States that are not final.
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED REQUEUED REQUEUE_HOLD REQUEUE_FED "
    "RESV_DEL_HOLD RESIZING SIGNALING SPECIAL_EXIT STAGE_OUT".split()
)
#: ``MaxArraySize`` where Slurm does not say it, and the most that Slurm can be set to.
ARRAY_SIZE, ARRAY_SIZE_MAX = 1001, 4_000_001
#: How long ago a job that is looked for by name may have been submitted, in days.
FIND_DAYS = 30
#: Ids in one word of a command line (the kernel takes 128 KiB), and words in one command.
PER_WORD, PER_COMMAND = 2000, 1000

#: What Slurm's commands say when it is not the request that is at fault.
_TRANSIENT = (
    "unable to contact slurm controller",
    "timed out",
    "zero bytes were transmitted or received",
    "received zero length message",
    "message send failure",
    "message receive failure",
    "unexpected message received",
    "communication connection failure",
    "communication shutdown failure",
    "connection refused",
    "connection reset",
    "broken pipe",
    "no route to host",
    "network is unreachable",
    "can't find an address",
    "temporarily",  # "… unable to accept job", "Resource … unavailable", "Job creation … disabled"
    "job queue full",
    "unable to create job record",
    "system submissions disabled",
    "standby mode",
    "i/o error writing script",  # the controller's disk is full
    "unable to process configuration file",
    "database",
    "protocol authentication error",
    "authentication credential",
    "munge",
    "cannot allocate memory",
)
_VERDICT = re.compile(
    r"(?:job submission failed|allocation failure|Unable to allocate resources): "
)
_POLICY = "job violates accounting/qos policy"
_SUBMIT_LIMIT = re.compile(
    r"\b(?:QOS|Assoc)\w*Submit\w*Limit\b|(?:maximum number of|too many) [\w ]*jobs", re.IGNORECASE
)
_LIMIT = re.compile(r"^sbatch: error: (?:QOS|Assoc|Max)[A-Z]\w*\s*$", re.MULTILINE)
_PREFIX = re.compile(
    r"^(?:\w+: )?(?:(?:error|fatal): )?(?:(?:Batch job submission failed|allocation failure): )?"
)
_GONE = ("invalid job id specified", "already completing or completed")

#: Variables that belong to the process which submits. sbatch hands the rest of the environment to
#: the job, and Slurm sets these itself.
_OURS = (
    "SLURM_",
    "SLURMD_",
    "SRUN_",
    "SBATCH_",
    "SQUEUE_",
    "SACCT_",
    "SCANCEL_",
    "SINFO_",
    "SUBMITIT_",
    "PMI_",
    "PMIX_",
)
_OUR_NAMES = frozenset(
    "MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE "
    "CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES ZE_AFFINITY_MASK "
    "GPU_DEVICE_ORDINAL".split()
)
_NEEDED = frozenset({"SLURM_CONF", "SLURM_JWT"})


class SlurmSilent(MosweepError):
    """Slurm did not answer (controller or database down, time-out, overloaded): try again later.

    After ``submit`` it says nothing about whether the job was accepted: with a busy controller the
    reply is lost, the job is not.
    """


class SlurmFull(MosweepError):
    """Slurm takes no more jobs of ours at present (submit limit of QOS, association or user): try
    again when some have ended.

    An array counts all its tasks at once, so one that is larger than the limit never fits; ask for
    fewer.
    """


class SlurmRefused(MosweepError):
    """Slurm will never take this job as it is asked for; in sbatch's own words, on one line."""


class NoAccounting(MosweepError):
    """There is no accounting to ask (disabled, or no sacct)."""


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array, as Slurm describes it.

    ``id`` is ``<array>_<index>``, or the job's number where there is no array. ``state`` is Slurm's
    long name (``CANCELLED``), ``by`` the uid that cancelled it, ``reason`` why it waits or how it
    ended, ``node`` the nodes it has or had, ``exit_code`` Slurm's ``status:signal``; all ``""``
    where unknown. ``elapsed_s`` is in seconds, ``started`` in Unix seconds; ``None`` where unknown
    or not started.
    """

    id: str
    state: str
    reason: str = ""
    node: str = ""
    elapsed_s: float | None = None
    started: float | None = None
    exit_code: str = ""
    by: str = ""

    @property
    def alive(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True)
class SlurmClient:
    """Slurm's commands. Each may take ``timeout_s`` seconds.

    Every method raises ``SlurmSilent`` if there is no answer, and ``UserError`` if the command is
    not on the PATH.
    """

    timeout_s: float = 60.0

    def submit(self, script: Path, answer: Path) -> str:
        """Submit ``script`` and return the job's number; ``SlurmFull`` or ``SlurmRefused`` if Slurm
        does not take it.

        sbatch writes its answer straight into the file ``answer`` (what it complains of: ``answer``
        + ``.err``), in a session of its own, and holds a lock on it while it lives, so the answer
        reaches the disk whatever happens to this process; see ``read_answer``. What the script says
        is all that is asked for: no SBATCH_* variable overrides it. Of this process's environment
        the job gets what does not describe the machine or the Slurm job that this process runs in.

        Old versions of Slurm do not say which limit a job violates; it is then taken for the submit
        limit (``SlurmFull``).
        """
        errors = answer.with_name(answer.name + ".err")
        descriptor = _locked(answer)
        try:
            with errors.open("wb") as complaints:
                process = subprocess.Popen(
                    ["sbatch", "--parsable", str(script)],
                    stdin=subprocess.DEVNULL,
                    stdout=descriptor,
                    stderr=complaints,
                    env=_environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise _cannot_run("sbatch", error) from None
        finally:
            os.close(descriptor)
        try:
            status = process.wait(self.timeout_s)
            failure = _failure(errors.read_text(errors="replace"), status)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            failure = SlurmSilent(f"sbatch: no answer within {self.timeout_s:g} s")
        if (job := _number(answer)) is None:
            raise failure
        return job

    def test(self, parameters: Mapping[str, object]) -> None:
        """Ask whether Slurm would take a job with these options, by name (``True``: a flag);
        ``SlurmRefused`` if not. Submits nothing.

        A full queue is no refusal, nor are options that sbatch alone knows, nor asking for more
        than any node has while some are down: Slurm's answer is the same whether or not those would
        do.
        """
        words = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in parameters.items()
        ]
        done = self._run("srun", "--test-only", *words, "true")
        if done.returncode == 0 or "unrecognized option" in done.stderr:
            return
        failure = _failure(
            re.sub(r"^srun: ", "sbatch: ", done.stderr, flags=re.MULTILINE), done.returncode
        )
        available = "node configuration is not available" not in str(failure) or not self._ask(
            "sinfo", "-h", "-t", "down,drain,fail", "-o", "%n"
        )
        if available and not isinstance(failure, SlurmFull):
            raise failure

    def queue(self, arrays: Collection[str]) -> dict[str, Job]:
        """What the controller knows of the tasks of these arrays (and jobs), by id; those it has
        forgotten are missing.

        Of ``arrays`` that map numbers to names, only jobs of that name: a controller that crashed
        gives its last numbers again.
        """
        # All of the user's jobs: asked for by number, an unknown one is an error, and the
        # controller sends everyone's jobs anyway. Not with -r: of 0-1000:2 it leaves out 1000.
        if not arrays:
            return {}
        wanted = set(arrays)
        jobs: dict[str, Job] = {}
        names = arrays if isinstance(arrays, Mapping) else {}
        form = f"%F|%K|%T|%N|%M|%S|{'%j|' if names else ''}%r"
        for line in self._ask(
            "squeue", "-h", "-t", "all", "-u", str(os.getuid()), "-o", form
        ).splitlines():
            fields = line.split("|", 7 if names else 6)
            if (
                len(fields) < (8 if names else 7)
                or fields[0] not in wanted
                or (names and fields[6] != names[fields[0]])
            ):
                continue
            array, index, state, node, elapsed, start, *_, reason = fields
            for id in _ids(array, "" if index == "N/A" else index):
                if job := _job(id, state, node, elapsed, start, reason=reason):
                    jobs[id] = job
        return jobs

    def accounting(self, arrays: Collection[str]) -> dict[str, Job]:
        """What the database knows of the tasks of these arrays (and jobs), by id; ``NoAccounting``
        if there is none. Names as in ``queue``.

        Of a job that was requeued, its last run. If a step ran out of memory and Slurm calls the
        job failed or cancelled, its state here is OUT_OF_MEMORY.
        """
        if not arrays:
            return {}
        numbers = [
            word
            for part in _parts(sorted(set(arrays)), PER_WORD)
            for word in ("-j", ",".join(part))
        ]
        names = arrays if isinstance(arrays, Mapping) else {}
        # The end is not used: a line without it was cut short.
        columns = f"JobID,State,ExitCode,NodeList,Elapsed,Start,{'JobName,' if names else ''}End"
        answer = self._ask_accounting("-n", "-P", *numbers, "-o", columns)
        wanted = set(arrays)
        singly: dict[str, Job] = {}
        together: dict[str, Job] = {}
        out_of_memory: set[str] = set()
        for line in answer.splitlines():
            fields = line.split("|")
            name = re.fullmatch(r"(\d+)(?:_(\d+|\[[^]]*\]))?(\.\S+)?", fields[0])
            if len(fields) != (8 if names else 7) or name is None or name[1] not in wanted:
                continue
            index, step = name[2] or "", name[3]
            if names and step is None and fields[6] != names[name[1]]:
                continue
            _, state, exit_code, node, elapsed, start, *_ = fields
            for id in _ids(name[1], index):
                if step is not None:
                    if state.startswith("OUT_OF_ME"):
                        out_of_memory.add(id)
                elif job := _job(id, state, node, elapsed, start, exit_code=exit_code):
                    (together if index.startswith("[") else singly)[id] = job
        jobs = together | singly
        for id in out_of_memory & jobs.keys():
            if jobs[id].state == "FAILED" or (jobs[id].state == "CANCELLED" and not jobs[id].by):
                jobs[id] = replace(jobs[id], state="OUT_OF_MEMORY")
        return jobs

    def find(self, name: str) -> str | None:
        """The number of our job or array ``name``. The lowest if there are several.

        ``name`` must not contain a comma. ``None`` only if the controller answered and knows no
        such job, and so did accounting if the cluster has it. A controller that was too busy to
        answer sbatch may create the job later.
        """
        user = ("-u", str(os.getuid()), f"--name={name}")
        number = _named(self._ask("squeue", "-h", "-t", "all", *user, "-o", "%F|%j"), name)
        if number is None:
            with contextlib.suppress(NoAccounting):
                number = _named(
                    self._ask_accounting(
                        "-X", "-n", "-P", *user, "-S", f"now-{FIND_DAYS}days", "-o", "JobID,JobName"
                    ),
                    name,
                )
        return number

    def cancel(self, ids: Collection[str]) -> None:
        """Cancel these jobs, arrays (``123``) and tasks of arrays (``123_4``); what is unknown or
        has ended is passed over.
        """
        for words in _parts(_compact(ids), PER_COMMAND):
            done = self._run("scancel", *words)
            left = [
                line
                for line in done.stderr.splitlines()
                if line.strip() and not any(text in line.casefold() for text in _GONE)
            ]
            if done.returncode and (left or not done.stderr.strip()):
                raise SlurmSilent(f"scancel: {_words(left) or f'exit status {done.returncode}'}")

    def let_go(self, array: str) -> None:
        """Those jobs of an array that wait for other jobs need not any longer."""
        done = self._run("scontrol", "update", f"JobId={array}", "Dependency=")
        if done.returncode and not any(text in done.stderr.casefold() for text in _GONE):
            raise SlurmSilent(
                "scontrol update: "
                f"{_words(done.stderr.splitlines()) or f'exit status {done.returncode}'}"
            )

    def max_array_size(self) -> int:
        """One more than the largest index that a task of an array may have."""
        match = re.search(
            r"^MaxArraySize\s*=\s*(\d+)", self._ask("scontrol", "show", "config"), re.MULTILINE
        )
        return int(match[1]) if match else ARRAY_SIZE

    def partitions(self) -> list[str]:
        """The names of all partitions."""
        return sorted(set(self._ask("sinfo", "-h", "-o", "%R").split()))

    def _ask(self, *command: str) -> str:
        done = self._run(*command)
        if done.returncode:
            raise SlurmSilent(
                f"{command[0]}: "
                f"{_words(done.stderr.splitlines()) or f'exit status {done.returncode}'}"
            )
        return done.stdout

    def _ask_accounting(self, *words: str) -> str:
        try:
            done = self._run("sacct", *words)
        except UserError:
            raise NoAccounting("sacct is not on the PATH") from None
        complaint = done.stderr.casefold()
        if "accounting storage is disabled" in complaint:
            raise NoAccounting("Slurm accounting storage is disabled")
        # an answer may break off with exit status 0
        if done.returncode or any(text in complaint for text in _TRANSIENT):
            raise SlurmSilent(
                f"sacct: {_words(done.stderr.splitlines()) or f'exit status {done.returncode}'}"
            )
        return done.stdout

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # 0: lists of indices in full
        environment = _environment() | {"LC_ALL": "C", "TZ": "UTC", "SLURM_BITSTR_LEN": "0"}
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                timeout=self.timeout_s,
                check=False,
            )
        except OSError as error:
            raise _cannot_run(command[0], error) from None
        except subprocess.TimeoutExpired:
            raise SlurmSilent(f"{command[0]}: no answer within {self.timeout_s:g} s") from None


def read_answer(answer: Path) -> tuple[bool, str | None]:
    """What became of a ``submit``, in this process or another: whether sbatch still lives, and the
    job's number if it wrote one.

    Where the file system has no locks, sbatch is taken to have ended.
    """
    try:
        descriptor = os.open(answer, os.O_RDONLY)
    except FileNotFoundError:
        return False, None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        running = False
    except OSError as error:
        running = isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
    return running, _number(answer)


def _locked(answer: Path) -> int:
    """A descriptor of ``answer``, emptied, with the lock that lives as long as any copy of the
    descriptor.
    """
    descriptor = os.open(answer, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SlurmSilent(f"another sbatch is at work on {answer}") from None
    except OSError:
        pass  # a file system without locks
    os.ftruncate(descriptor, 0)
    return descriptor


def _number(answer: Path) -> str | None:
    """The job's number in the output of ``sbatch --parsable``: ``123`` or ``123;cluster``.

    ``None`` if the output is incomplete.
    """
    numbers = re.findall(r"^(\d+)(?:;.*)?\n", answer.read_text(errors="replace"), re.MULTILINE)
    return numbers[-1] if numbers else None


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _NEEDED or not (name.startswith(_OURS) or name in _OUR_NAMES)
    }


def _cannot_run(command: str, error: OSError) -> MosweepError:
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"hydra/launcher=slurm: {command} is not on the PATH; run on a machine with Slurm's "
            "client commands"
        )
    return SlurmSilent(f"{command}: {error.strerror}")


def _failure(complaints: str, status: int) -> MosweepError:
    """What an sbatch that wrote no number means by its complaints and exit ``status``."""
    lines = complaints.splitlines()
    verdict = next(
        (line for line in reversed(lines) if _VERDICT.search(line)), complaints
    ).casefold()
    message = _words(lines)
    if _SUBMIT_LIMIT.search(complaints):
        return SlurmFull(message)
    if _POLICY in verdict:
        return (SlurmRefused if _LIMIT.search(complaints) else SlurmFull)(message)
    if status == 0 or not message or any(text in verdict for text in _TRANSIENT):
        return SlurmSilent(message or f"sbatch left no answer (exit status {status})")
    return SlurmRefused(message)


def _words(lines: Iterable[str]) -> str:
    """A command's complaints on one line: its errors if it names any as such, else all it says."""
    said = [" ".join(line.split()) for line in lines if line.strip()]
    errors = [
        line for line in said if re.match(r"\w+: (?:error|fatal): ", line) or _VERDICT.search(line)
    ]
    return "; ".join(_PREFIX.sub("", line) for line in errors or said)


def _job(
    id: str, state: str, node: str, elapsed: str, start: str, reason: str = "", exit_code: str = ""
) -> Job | None:
    """A job from the fields of squeue or sacct. ``None`` if they have no state."""
    match = re.match(r"([A-Z_]+)\+?(?: by (\d+))?", state.strip())
    if match is None:
        return None
    node = "" if node in ("None assigned", "(null)", "n/a", "N/A") else node
    # Without a node, squeue's start is the time at which the job is expected to start or was
    # cancelled.
    started = _time(start) if node and match[1] != "PENDING" else None
    return Job(
        id,
        match[1],
        "" if reason in ("None", "(null)") else reason.strip(),
        node,
        _seconds(elapsed),
        started,
        exit_code,
        match[2] or "",
    )


def _ids(array: str, indices: str) -> Iterator[str]:
    """The ids behind ``123`` and ``""``, ``4``, ``1,3-7:2`` or ``[3-4%5]``; none if the indices
    make no sense.
    """
    if not array.isascii() or not array.isdigit():
        return
    if not indices:
        yield array
    for part in indices.strip("[]").partition("%")[0].split(",") if indices else ():
        span = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?", part)
        if (
            span
            and (last := int(span[2] or span[1])) < ARRAY_SIZE_MAX
            and (step := int(span[3] or 1))
        ):
            yield from (f"{array}_{index}" for index in range(int(span[1]), last + 1, step))


def _compact(ids: Collection[str]) -> list[str]:
    """The same ids as words for scancel: whole jobs, and tasks by array, as in ``123_[1,3-5]``."""
    wholes = sorted({id for id in ids if "_" not in id})
    tasks: dict[str, set[int]] = {}
    for id in ids:
        array, _, index = id.partition("_")
        if index and array not in wholes:
            tasks.setdefault(array, set()).add(int(index))
    return wholes + [
        f"{array}_[{','.join(part)}]"
        for array, found in sorted(tasks.items())
        for part in _parts(_spans(found), PER_WORD)
    ]


def _spans(indices: Collection[int]) -> list[str]:
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]


def _parts(words: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(words), size):
        yield words[start : start + size]


def _named(answer: str, name: str) -> str | None:
    """The lowest number among lines of ``<id>|<name>`` with this name."""
    numbers = [
        int(line[1])
        for line in re.finditer(r"^(\d+)[^|\n]*\|(.*)$", answer, re.MULTILINE)
        if line[2] == name
    ]
    return str(min(numbers)) if numbers else None


def _seconds(text: str) -> float | None:
    """Seconds from ``[days-]hours:minutes:seconds``, ``minutes:seconds`` or ``seconds``.

    ``None`` for any other text.
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(?:(\d+):)?(\d+)(?:\.\d+)?", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if match[2] and not match[3]:
        hours, minutes = 0, hours
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _time(text: str) -> float | None:
    """Unix seconds from an ISO time in UTC; ``None`` if it is none (``N/A``, ``Unknown``,
    ``None``).
    """
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
