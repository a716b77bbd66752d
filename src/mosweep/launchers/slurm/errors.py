"""Slurm's errors, as its commands report them on stderr."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mosweep.core.errors import MosweepError, UserError

__all__ = [
    "NoAccounting",
    "SlurmFull",
    "SlurmRefused",
    "SlurmUnavailable",
    "cannot_run",
    "failure_of",
    "is_gone",
    "is_transient",
    "words_of",
]

#: Error messages for problems of the cluster, not of the request.
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
    "i/o error writing script",  # The controller's disk is full.
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


class SlurmUnavailable(MosweepError):
    """Slurm did not answer: the controller or database is down or overloaded. Retry later.

    After ``submit``, the job may still have been accepted: a busy controller loses the reply, but
    not the job.
    """


class SlurmFull(MosweepError):
    """The submit limit (of the QOS, association or user) is reached. Retry when jobs have ended.

    All tasks of an array count at once, so an array above the limit never fits.
    """


class SlurmRefused(MosweepError):
    """Slurm never accepts this job. The message is sbatch's, on one line."""


class NoAccounting(MosweepError):
    """The cluster has no accounting: it is disabled, or there is no sacct."""


def is_gone(message: str) -> bool:
    """Whether a command failed because the job is unknown or has ended."""
    return any(text in message.casefold() for text in _GONE)


def is_transient(message: str) -> bool:
    """Whether a command failed because of a problem of the cluster."""
    return any(text in message.casefold() for text in _TRANSIENT)


def cannot_run(command: str, error: OSError) -> MosweepError:
    """The error for a command that could not be started."""
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"hydra/launcher=slurm: {command} is not on the PATH; run on a machine with Slurm's "
            "client commands"
        )
    return SlurmUnavailable(f"{command}: {error.strerror}")


def failure_of(complaints: str, status: int) -> MosweepError:
    """The error of an sbatch that printed no number, from its stderr and exit ``status``."""
    lines = complaints.splitlines()
    verdict = next(
        (line for line in reversed(lines) if _VERDICT.search(line)), complaints
    ).casefold()
    message = words_of(lines)
    if _SUBMIT_LIMIT.search(complaints):
        return SlurmFull(message)
    if _POLICY in verdict:
        return (SlurmRefused if _LIMIT.search(complaints) else SlurmFull)(message)
    if status == 0 or not message or is_transient(verdict):
        return SlurmUnavailable(message or f"sbatch left no answer (exit status {status})")
    return SlurmRefused(message)


def words_of(lines: Iterable[str]) -> str:
    """A command's stderr on one line: the lines marked as errors if there are any, else all."""
    said = [" ".join(line.split()) for line in lines if line.strip()]
    errors = [
        line for line in said if re.match(r"\w+: (?:error|fatal): ", line) or _VERDICT.search(line)
    ]
    return "; ".join(_PREFIX.sub("", line) for line in errors or said)
