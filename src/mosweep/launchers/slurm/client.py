"""Runs Slurm's commands. No other module of mosweep runs them.

``squeue`` lists the jobs in the controller's memory: those that have not ended, and those that
ended within ``MinJobAge``, often 300 s. ``sacct`` lists the jobs in the accounting database, with a
delay of some seconds. Neither is complete:

- A new job is in ``squeue`` immediately. ``sacct`` may not have it yet, or may report a running
  array as PENDING under its bare number.
- Tasks of a pending array that are cancelled one by one disappear from both immediately. If the
  whole array is cancelled, both keep them.
- Both can list a refused job, as FAILED.
- ``sacct`` can report a final state (NODE_FAIL, PREEMPTED) for a requeued job that ``squeue``
  reports as PENDING. ``squeue`` is right.
- ``sacct`` finds a job that was never eligible (held, or cancelled by its dependency) only by its
  number, never by its name.
- A reinstalled Slurm reuses numbers. ``sacct`` then returns the old job until the new one reaches
  the database.

Tested with Slurm 22.05. Error messages of other versions are taken from bug reports.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mosweep.core.errors import UserError
from mosweep.launchers.slurm.answers import PER_WORD, Job, compact, ids_of, job_of, parts
from mosweep.launchers.slurm.errors import (
    NoAccounting,
    SlurmFull,
    SlurmUnavailable,
    cannot_run,
    failure_of,
    is_gone,
    is_transient,
    words_of,
)
from mosweep.launchers.slurm.sbatch import clean_environment, job_number, lock_answer

__all__ = ["SlurmClient"]

#: ``MaxArraySize`` if Slurm does not report it.
ARRAY_SIZE = 1001
#: Days back that ``find`` searches the accounting.
FIND_DAYS = 30
#: Arguments of one command.
PER_COMMAND = 1000


@dataclass(frozen=True)
class SlurmClient:
    """Slurm's commands, with a timeout of ``timeout_s`` seconds each.

    Every method raises ``SlurmUnavailable`` if Slurm does not answer, and ``UserError`` if the
    command is not on the PATH.
    """

    timeout_s: float = 60.0

    def submit(self, script: Path, answer: Path) -> str:
        """Submit ``script`` and return the job's number.

        Raises ``SlurmFull`` or ``SlurmRefused`` if Slurm does not accept the job. Old versions of
        Slurm do not report which limit a job violates. Then it counts as the submit limit
        (``SlurmFull``).

        sbatch runs in its own session and writes directly to the file ``answer`` (stderr:
        ``answer`` + ``.err``). It holds a lock on the file until it exits. So the answer reaches
        the disk even if this process dies; see ``read_answer``.

        No SBATCH_* variable overrides the script. The job inherits the environment, except for
        variables that describe this process's machine or Slurm job.
        """
        errors = answer.with_name(answer.name + ".err")
        descriptor = lock_answer(answer)
        try:
            with errors.open("wb") as complaints:
                process = subprocess.Popen(
                    ["sbatch", "--parsable", str(script)],
                    stdin=subprocess.DEVNULL,
                    stdout=descriptor,
                    stderr=complaints,
                    env=clean_environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise cannot_run("sbatch", error) from None
        finally:
            os.close(descriptor)
        try:
            status = process.wait(self.timeout_s)
            failure = failure_of(errors.read_text(errors="replace"), status)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            failure = SlurmUnavailable(f"sbatch: no answer within {self.timeout_s:g} s")
        if (job := job_number(answer)) is None:
            raise failure
        return job

    def test(self, parameters: Mapping[str, object]) -> None:
        """Check, without submitting, that Slurm accepts a job with these options.

        ``parameters`` maps names to values (``True``: a flag). Raises ``SlurmRefused`` if Slurm
        does not accept them. A full queue passes, and so do options that only sbatch has. A request
        that no available node can meet passes while some nodes are down, because Slurm gives the
        same answer whether or not those could meet it.
        """
        words = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in parameters.items()
        ]
        done = self._run("srun", "--test-only", *words, "true")
        if done.returncode == 0 or "unrecognized option" in done.stderr:
            return
        failure = failure_of(
            re.sub(r"^srun: ", "sbatch: ", done.stderr, flags=re.MULTILINE), done.returncode
        )
        available = "node configuration is not available" not in str(failure) or not self._ask(
            "sinfo", "-h", "-t", "down,drain,fail", "-o", "%n"
        )
        if available and not isinstance(failure, SlurmFull):
            raise failure

    def queue(self, arrays: Collection[str]) -> dict[str, Job]:
        """The jobs and tasks of these arrays in the controller's memory, by id.

        If ``arrays`` maps numbers to names, only jobs with these names are returned, because a
        controller reuses its last numbers after a crash.
        """
        if not arrays:
            return {}
        # This lists all of the user's jobs, because an unknown number is an error, and the
        # controller sends everyone's jobs anyway. -r is not used: it omits 1000 of 0-1000:2.
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
            for id in ids_of(array, "" if index == "N/A" else index):
                if job := job_of(id, state, node, elapsed, start, reason=reason):
                    jobs[id] = job
        return jobs

    def accounting(self, arrays: Collection[str]) -> dict[str, Job]:
        """The jobs and tasks of these arrays in the accounting database, by id.

        Raises ``NoAccounting`` if there is no database. Names work as in ``queue``. A requeued job
        is its last run. A job that Slurm reports as failed or cancelled is OUT_OF_MEMORY if one of
        its steps ran out of memory.
        """
        if not arrays:
            return {}
        numbers = [
            word for part in parts(sorted(set(arrays)), PER_WORD) for word in ("-j", ",".join(part))
        ]
        names = arrays if isinstance(arrays, Mapping) else {}
        # End only marks complete lines: one without it was cut short.
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
            for id in ids_of(name[1], index):
                if step is not None:
                    if state.startswith("OUT_OF_ME"):
                        out_of_memory.add(id)
                elif job := job_of(id, state, node, elapsed, start, exit_code=exit_code):
                    (together if index.startswith("[") else singly)[id] = job
        jobs = together | singly
        for id in out_of_memory & jobs.keys():
            if jobs[id].state == "FAILED" or (jobs[id].state == "CANCELLED" and not jobs[id].by):
                jobs[id] = replace(jobs[id], state="OUT_OF_MEMORY")
        return jobs

    def find(self, name: str) -> str | None:
        """The number of the user's job or array ``name``. The lowest if there are several.

        ``name`` must not contain a comma. ``None`` if neither the controller nor the accounting (if
        any) has such a job. A controller that was too busy to answer sbatch may still create it
        later.
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
        """Cancel these jobs, arrays (``123``) and tasks (``123_4``).

        Jobs that are unknown or have ended are skipped.
        """
        for words in parts(compact(ids), PER_COMMAND):
            done = self._run("scancel", *words)
            left = [line for line in done.stderr.splitlines() if line.strip() and not is_gone(line)]
            if done.returncode and (left or not done.stderr.strip()):
                raise SlurmUnavailable(
                    f"scancel: {words_of(left) or f'exit status {done.returncode}'}"
                )

    def remove_dependencies(self, array: str) -> None:
        """Let the waiting tasks of an array start without their dependencies."""
        done = self._run("scontrol", "update", f"JobId={array}", "Dependency=")
        if done.returncode and not is_gone(done.stderr):
            raise SlurmUnavailable(
                "scontrol update: "
                f"{words_of(done.stderr.splitlines()) or f'exit status {done.returncode}'}"
            )

    def max_array_size(self) -> int:
        """One more than the largest index of a task in an array."""
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
            raise SlurmUnavailable(
                f"{command[0]}: "
                f"{words_of(done.stderr.splitlines()) or f'exit status {done.returncode}'}"
            )
        return done.stdout

    def _ask_accounting(self, *words: str) -> str:
        try:
            done = self._run("sacct", *words)
        except UserError:
            raise NoAccounting("sacct is not on the PATH") from None
        if "accounting storage is disabled" in done.stderr.casefold():
            raise NoAccounting("Slurm accounting storage is disabled")
        # sacct may exit with status 0 after an incomplete answer.
        if done.returncode or is_transient(done.stderr):
            raise SlurmUnavailable(
                f"sacct: {words_of(done.stderr.splitlines()) or f'exit status {done.returncode}'}"
            )
        return done.stdout

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        # SLURM_BITSTR_LEN=0 prints lists of indices in full.
        environment = clean_environment() | {"LC_ALL": "C", "TZ": "UTC", "SLURM_BITSTR_LEN": "0"}
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
            raise cannot_run(command[0], error) from None
        except subprocess.TimeoutExpired:
            raise SlurmUnavailable(f"{command[0]}: no answer within {self.timeout_s:g} s") from None


def _named(answer: str, name: str) -> str | None:
    """The lowest number among lines of ``<id>|<name>`` with this name."""
    numbers = [
        int(line[1])
        for line in re.finditer(r"^(\d+)[^|\n]*\|(.*)$", answer, re.MULTILINE)
        if line[2] == name
    ]
    return str(min(numbers)) if numbers else None
