"""What the end of a job means for its stage. Pure: asks nobody, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mosweep.launchers.slurm.answers import Job

__all__ = [
    "LOST",
    "Facts",
    "Verdict",
    "final_state",
    "is_out_of_memory",
    "is_stuck",
    "is_unclear",
    "judge",
]

#: Ends of a job that say nothing against its stage.
LOST = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "LOST", "GONE"})
#: What Slurm, the kernel or torchtune's parent process says when host memory ran out (CUDA's words
#: are others).
_OUT_OF_MEMORY = re.compile(
    r"exceeded memory limit|oom[-_ ]kill|killed \(out of memory\?\)|MemoryError", re.IGNORECASE
)
#: Why Slurm lets a job wait that will not start unless somebody changes something.
_STUCK = re.compile(
    r"PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|PartitionDown|PartitionInactive"
    r"|BadConstraints|InvalidAccount|InvalidQOS|JobHeld"
    r"|launch failed|ReservationDeleted|PerJob|MaxWallDuration"
)


@dataclass(frozen=True)
class Facts:
    """What the verdict on a stage rests on, besides how its job ended.

    - ``printed``: the last that the job printed outside of its stage.
    - ``tried``: the states that earlier jobs of the stage ended in.
    - ``retries``, ``max_timeouts``: how often a lost job, and one that ran into its time limit, is
      submitted again.
    - ``may_grow``: there is memory left to give.
    - ``broken``: something that the stage needs is not done and not well on its way.
    """

    printed: str
    tried: Sequence[str]
    retries: int
    max_timeouts: int
    may_grow: bool
    broken: bool


@dataclass(frozen=True)
class Verdict:
    """``again``: submit the stage again. ``leave``: take it out of its job; it is
    submitted again with what it waited for. Otherwise it has failed, with ``error``.
    """

    state: str
    again: bool = False
    leave: bool = False
    error: str = ""
    cancelled: bool = False


def judge(job: Job, facts: Facts) -> Verdict:
    """What becomes of the stage of a job that ended and left no word."""
    state, tried = job.state, facts.tried
    if state == "FAILED" and is_out_of_memory(facts.printed):
        state = "OUT_OF_MEMORY"  # without cgroups Slurm says so to the job only
    again = {
        **dict.fromkeys(LOST, sum(each in LOST for each in tried) < facts.retries),
        "TIMEOUT": tried.count("TIMEOUT") < facts.max_timeouts,
        "OUT_OF_MEMORY": facts.may_grow,
    }
    if again.get(state):
        return Verdict(state, again=True)
    where = f" on {job.node}" if job.node else ""
    if state == "CANCELLED":
        if facts.broken or job.reason.startswith("Dependency"):
            return Verdict(state, leave=True)
        by = f" by {job.by}" if job.by else ""
        return Verdict(state, error=f"cancelled{by}", cancelled=True)
    if state == "COMPLETED":
        error = f"its job{where} ended without a result (is a disk full?)"
    elif state == "FAILED":
        code = f", exit status {job.exit_code}" if job.exit_code else ""
        error = f"its process{where} died{code}"
    else:
        often = f", {len(tried) + 1} times" if tried else ""
        hint = (
            " (a larger hydra.launcher.max_mem_gb would allow another try)"
            if state == "OUT_OF_MEMORY"
            else ""
        )
        error = f"{state}{where}{often}{hint}"
    return Verdict(state, error=error)


def final_state(
    place: str,
    said: Job | None,
    accounted: Job | None,
    *,
    waited: bool,
    behind: Collection[str],
    patient: bool,
) -> Job | None:
    """How a job ended, by what ``squeue`` said of it last and by what the accounting says.

    ``None`` if that is not clear yet. ``waited``: it was last seen waiting, and never started.
    ``behind``: the jobs that it waited for. ``patient``: the accounting may still be late.
    """
    if accounted is not None and accounted.alive and patient:
        return said
    if accounted is not None and not accounted.alive:
        # a user who cancels a job is named
        in_vain = not accounted.by and behind
        return replace(accounted, reason=said.reason if said else "Dependency" if in_vain else "")
    # Slurm forgets an element of an array at once if it is cancelled while it waits.
    return said or Job(place, "CANCELLED" if waited and accounted is None else "LOST")


def is_unclear(job: Job | None) -> bool:
    """Whether the accounting may know better: who cancelled it, whether memory ran out."""
    return job is None or job.state in ("CANCELLED", "FAILED")


def is_out_of_memory(text: str) -> bool:
    """Whether the text says that memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


def is_stuck(reason: str) -> bool:
    """Whether a job that waits for this reason will wait until somebody changes something."""
    return _STUCK.search(reason) is not None
