"""What the end of a job means for its stage. Pure functions, without calls to Slurm."""

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

#: Final states that are not the stage's fault.
LOST = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "LOST", "GONE"})
#: Messages of Slurm, the kernel and torchtune's parent process when host memory runs out. CUDA's
#: messages differ.
_OUT_OF_MEMORY = re.compile(
    r"exceeded memory limit|oom[-_ ]kill|killed \(out of memory\?\)|MemoryError", re.IGNORECASE
)
#: Slurm's reasons for a pending job that cannot start without a change to it or to the cluster.
_STUCK = re.compile(
    r"PartitionConfig|PartitionTimeLimit|PartitionNodeLimit|PartitionDown|PartitionInactive"
    r"|BadConstraints|InvalidAccount|InvalidQOS|JobHeld"
    r"|launch failed|ReservationDeleted|PerJob|MaxWallDuration"
)


@dataclass(frozen=True)
class Facts:
    """The basis for the verdict on a stage, besides the job's final state.

    - ``printed``: the end of the job's output outside of its stage.
    - ``tried``: the final states of the stage's earlier jobs.
    - ``retries``, ``max_timeouts``: how often a job that was lost, or reached its time limit, is
      submitted again.
    - ``may_grow``: the stage can be retried with more memory.
    - ``broken``: an input of the stage is not done, and its job will not make it.
    """

    printed: str
    tried: Sequence[str]
    retries: int
    max_timeouts: int
    may_grow: bool
    broken: bool


@dataclass(frozen=True)
class Verdict:
    """What happens to the stage.

    ``again``: it is submitted again. ``leave``: it is submitted again together with the input that
    it waited for. Otherwise it has failed, with ``error``.
    """

    state: str
    again: bool = False
    leave: bool = False
    error: str = ""
    cancelled: bool = False


def judge(job: Job, facts: Facts) -> Verdict:
    """The verdict on the stage of a job that ended without reporting a result."""
    state, tried = job.state, facts.tried
    if state == "FAILED" and is_out_of_memory(facts.printed):
        state = "OUT_OF_MEMORY"  # Without cgroups, only the job's output shows it.
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
            " (to retry with more memory, increase hydra.launcher.max_mem_gb)"
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
    """How a job ended, from ``squeue``'s last answer (``said``) and from the accounting.

    ``None`` if that is not clear yet. ``waited``: it was last seen waiting, and never started.
    ``behind``: its dependencies. ``patient``: the accounting may still be outdated.
    """
    if accounted is not None and accounted.alive and patient:
        return said
    if accounted is not None and not accounted.alive:
        # The accounting names a user who cancels a job.
        in_vain = not accounted.by and behind
        return replace(accounted, reason=said.reason if said else "Dependency" if in_vain else "")
    # Slurm immediately forgets a task of an array that is cancelled while it waits.
    return said or Job(place, "CANCELLED" if waited and accounted is None else "LOST")


def is_unclear(job: Job | None) -> bool:
    """Whether the accounting may know more: who cancelled the job, or that memory ran out."""
    return job is None or job.state in ("CANCELLED", "FAILED")


def is_out_of_memory(text: str) -> bool:
    """Whether the text reports that memory ran out."""
    return _OUT_OF_MEMORY.search(text) is not None


def is_stuck(reason: str) -> bool:
    """Whether a job that waits for this reason needs a change before it can start."""
    return _STUCK.search(reason) is not None
