"""sbatch: its environment, and the file that holds its answer."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from mosweep.launchers.slurm.errors import SlurmUnavailable

__all__ = ["clean_environment", "lock_answer", "job_number", "read_answer"]

#: Variables that describe this process. Slurm sets them for the job, which inherits all others.
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


def read_answer(answer: Path) -> tuple[bool, str | None]:
    """Whether the sbatch of a ``submit`` is still running, and the job's number if it printed one.

    The submit may be another process's. On a file system without locks, sbatch counts as ended.
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
    return running, job_number(answer)


def lock_answer(answer: Path) -> int:
    """Truncate and lock ``answer``. Closing all copies of the descriptor releases the lock."""
    descriptor = os.open(answer, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SlurmUnavailable(f"another sbatch is writing {answer}") from None
    except OSError:
        pass  # The file system has no locks.
    os.ftruncate(descriptor, 0)
    return descriptor


def job_number(answer: Path) -> str | None:
    """The job's number in the output of ``sbatch --parsable``: ``123`` or ``123;cluster``.

    ``None`` if the output is incomplete.
    """
    numbers = re.findall(r"^(\d+)(?:;.*)?\n", answer.read_text(errors="replace"), re.MULTILINE)
    return numbers[-1] if numbers else None


def clean_environment() -> dict[str, str]:
    """The environment without the variables that describe this process."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _NEEDED or not (name.startswith(_OURS) or name in _OUR_NAMES)
    }
