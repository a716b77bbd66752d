"""The options of ``hydra/launcher=slurm``.

The keys up to ``setup`` are those of hydra-submitit-launcher's ``submitit_slurm``, with the same
meaning. The others are mosweep's. A stage's ``resources`` take precedence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mosweep.config.resources import gigabytes
from mosweep.core.checks import Check
from mosweep.core.errors import ConfigError
from mosweep.core.events import Recorder
from mosweep.core.results import Queued
from mosweep.core.schema import between
from mosweep.core.store import Store
from mosweep.launchers.base import Launcher, Outcome
from mosweep.sweep.plan import Plan

__all__ = ["Slurm"]


@dataclass(frozen=True)
class Slurm(Launcher):
    """Every stage is a job on a Slurm cluster. ``None`` leaves a choice to Slurm."""

    kind: ClassVar[str] = "slurm"
    title: ClassVar[str] = "Slurm"
    outlives: ClassVar[bool] = True

    submitit_folder: str | None = None
    """Where jobs write output that is not their stage's. By default beside their scripts in the
    store."""
    timeout_min: float = field(default=60, metadata=between(gt=0))
    """Time limit of a job in minutes, for stages without one."""
    cpus_per_task: int | None = field(default=None, metadata=between(ge=1))
    """CPUs of a job."""
    gpus_per_node: int | None = field(default=None, metadata=between(ge=0))
    """GPUs of a job on every node."""
    tasks_per_node: int = field(default=1, metadata=between(ge=1))
    """Tasks of a job on every node."""
    mem_gb: float | None = field(default=None, metadata=between(gt=0))
    """Memory of a job on every node, in GiB."""
    nodes: int = field(default=1, metadata=between(ge=1))
    """Nodes of a job."""
    name: str = "mosweep"
    """Prefix of the jobs' names: ``NAME.<stage>-<number>``."""
    stderr_to_stdout: bool = False
    """Write both output streams of a job into one file."""
    partition: str | None = None
    """The partition to submit to."""
    qos: str | None = None
    """The quality of service to request."""
    comment: str | None = None
    """A comment for the accounting."""
    constraint: str | None = None
    """Features that nodes must have."""
    exclude: str | None = None
    """Nodes to avoid."""
    gres: str | None = None
    """Generic resources, for stages without GPUs of their own."""
    cpus_per_gpu: int | None = field(default=None, metadata=between(ge=1))
    """CPUs for every GPU."""
    gpus_per_task: int | None = field(default=None, metadata=between(ge=1))
    """GPUs of every task."""
    mem_per_gpu: str | None = None
    """Memory for every GPU, in Slurm's form."""
    mem_per_cpu: str | None = None
    """Memory for every CPU, in Slurm's form."""
    account: str | None = None
    """The account to charge."""
    signal_delay_s: int = field(default=120, metadata=between(ge=0))
    """Slurm warns a job this many seconds before its time limit."""
    max_num_timeout: int = field(default=2, metadata=between(ge=0))
    """How often a stage that reached its time limit is submitted again. It resumes from its last
    checkpoint."""
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further options of sbatch, such as ``{mail-user: me@example.org}``."""
    array_parallelism: int = field(default=256, metadata=between(ge=1))
    """Running jobs of one array at a time."""
    setup: Sequence[str] | None = None
    """Shell lines before the stage, such as ``module load cuda``."""
    env_set: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the jobs, such as ``{HF_HOME: /scratch/hf}``. They win over
    ``hydra.job.env_set``."""
    reservation: str | None = None
    """The reservation to use."""
    max_jobs: int | None = field(default=None, metadata=between(ge=1))
    """Jobs in Slurm at a time, including waiting ones."""
    wait: bool = True
    """Wait until all stages have ended. Otherwise submit and return, for ``mosweep watch``, ``run``
    and ``cancel``."""
    retries: int = field(default=2, metadata=between(ge=0))
    """How often a stage whose job was lost is submitted again: after a node failure, preemption
    without requeue, a failed boot, or an unknown end."""
    max_mem_gb: float | None = field(default=None, metadata=between(gt=0))
    """A stage that ran out of memory is submitted again with twice as much, up to this many GiB. By
    default it fails."""
    python: str | None = None
    """The interpreter in the job. By default the current one."""
    command_prefix: str | None = None
    """Command before the interpreter, such as ``apptainer exec --nv image.sif``."""
    container_image: str | None = None
    """Passed to ``srun``, on clusters with pyxis."""
    container_mounts: str | None = None
    """Passed to ``srun``, on clusters with pyxis."""
    poll_s: float = field(default=10.0, metadata=between(gt=0))
    """Seconds between queries of Slurm."""
    patience_min: float = field(default=60.0, metadata=between(gt=0))
    """How long to wait if Slurm does not answer, in minutes."""

    def __post_init__(self) -> None:
        if not self.name.strip() or any(letter in self.name for letter in " ,\t\n"):
            raise ConfigError("name", self.name, "must not contain spaces or commas")
        for name, memory in (("mem_per_cpu", self.mem_per_cpu), ("mem_per_gpu", self.mem_per_gpu)):
            if memory is not None:
                gigabytes(name, memory)

    @property
    def waits(self) -> bool:
        """Whether ``run`` returns only when all stages have ended."""
        return self.wait

    def waiting(self, wait: bool) -> Slurm:
        """A copy whose ``run`` waits, or returns when all jobs are submitted."""
        return replace(self, wait=wait)

    def exporting(self, environment: Mapping[str, str]) -> Slurm:
        """A copy whose jobs export these variables."""
        return replace(self, env_set={**environment, **self.env_set})

    def check(self, plan: Plan) -> None:
        """Raise ``UserError`` for stages that Slurm would never run. Writes nothing."""
        from mosweep.launchers.slurm.check import check

        check(self, plan)

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run the plan. On Ctrl-C the jobs in Slurm continue."""
        from mosweep.launchers.slurm.launch import Launch

        return Launch(self, plan, store, recorder, sweep).run()

    def observe(self, store: Store, keys: Collection[str]) -> Mapping[str, Queued]:
        """The jobs in Slurm of the stages in ``keys`` without a record."""
        from mosweep.launchers.slurm.observe import observe

        return observe(store, keys)

    def withdraw(self, store: Store, keys: Collection[str]) -> Mapping[str, str]:
        """Cancel the jobs of the stages in ``keys`` without a record. Returns the jobs by stage."""
        from mosweep.launchers.slurm.observe import withdraw

        return withdraw(store, keys)

    def in_use(self, store: Store) -> set[str]:
        """Stages that have jobs in Slurm, and their inputs."""
        from mosweep.launchers.slurm.submissions import Submissions

        return Submissions(store.root / "slurm").stages()

    @classmethod
    def checks(cls) -> Sequence[Check]:
        """Whether Slurm is installed and answers, for ``mosweep doctor``."""
        from mosweep.launchers.slurm.check import is_here

        return [is_here()]
