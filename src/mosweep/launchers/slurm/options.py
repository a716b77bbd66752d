"""``hydra/launcher=slurm``: what it can be told, and the sbatch script that comes of it.

The keys are those of hydra-submitit-launcher's ``submitit_slurm`` and mean the same; those after
``setup`` are ours. What a stage's own ``resources`` say goes before them.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosweep.core.errors import ConfigError
from mosweep.core.events import Recorder
from mosweep.core.schema import between
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.core.work import Resources
from mosweep.launchers.base import Outcome
from mosweep.launchers.slurm.arrays import Array, indices
from mosweep.launchers.slurm.submissions import Submission
from mosweep.sweep.plan import Plan

__all__ = ["Slurm"]


@dataclass(frozen=True)
class Slurm:
    """Options of the Slurm launcher. ``None`` leaves a choice to Slurm.

    - ``wait``: stay until all is done; otherwise submit and return, and ``mosweep watch``, ``run``
      and ``cancel`` go on from there.
    - ``max_jobs``: at most this many jobs of ours in Slurm at a time, waiting ones included;
      ``array_parallelism`` bounds the running ones of an array.
    - ``retries``: how often a stage whose job was lost (node failure, preemption without requeue,
      failed boot, a death without a trace) is submitted again; ``max_num_timeout``: how often one
      that ran into its time limit is, to resume from its last checkpoint.
    - ``max_mem_gb``: a stage that ran out of memory is submitted again with twice as much, up to
      this; ``None``: it has failed.
    - ``python``: the interpreter in the job; ``command_prefix``: what is put before it
      (``apptainer exec --nv image.sif``); ``container_image`` and ``container_mounts``: passed to
      ``srun`` for clusters with pyxis.
    - ``patience_min``: how long a Slurm that does not answer is waited for.
    """

    submitit_folder: str | None = None
    timeout_min: float = field(default=60, metadata=between(gt=0))
    cpus_per_task: int | None = field(default=None, metadata=between(ge=1))
    gpus_per_node: int | None = field(default=None, metadata=between(ge=0))
    tasks_per_node: int = field(default=1, metadata=between(ge=1))
    mem_gb: float | None = field(default=None, metadata=between(gt=0))
    nodes: int = field(default=1, metadata=between(ge=1))
    name: str = "mosweep"
    stderr_to_stdout: bool = False
    partition: str | None = None
    qos: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = field(default=None, metadata=between(ge=1))
    gpus_per_task: int | None = field(default=None, metadata=between(ge=1))
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    account: str | None = None
    signal_delay_s: int = field(default=120, metadata=between(ge=0))
    max_num_timeout: int = field(default=2, metadata=between(ge=0))
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    array_parallelism: int = field(default=256, metadata=between(ge=1))
    setup: Sequence[str] | None = None
    reservation: str | None = None
    max_jobs: int | None = field(default=None, metadata=between(ge=1))
    wait: bool = True
    retries: int = field(default=2, metadata=between(ge=0))
    max_mem_gb: float | None = field(default=None, metadata=between(gt=0))
    python: str | None = None
    command_prefix: str | None = None
    container_image: str | None = None
    container_mounts: str | None = None
    poll_s: float = field(default=10.0, metadata=between(gt=0))
    patience_min: float = field(default=60.0, metadata=between(gt=0))

    def __post_init__(self) -> None:
        if not self.name.strip() or any(letter in self.name for letter in " ,\t\n"):
            raise ConfigError("name", self.name, "a job's name has neither spaces nor commas")

    def check(self, plan: Plan) -> None:
        """Refuse what Slurm would never run, before anything is written; see
        ``launchers.base.Launcher``.
        """
        from mosweep.launchers.slurm.launch import check

        check(self, plan)

    def run(self, plan: Plan, store: Store, recorder: Recorder, sweep: Path) -> Outcome:
        """Run the plan; see ``launchers.base.Launcher``. On Ctrl-C the jobs in Slurm go on."""
        from mosweep.launchers.slurm.launch import Launch

        return Launch(self, plan, store, recorder, sweep).run()

    def parameters(self, resources: Resources) -> dict[str, Any]:
        """What a stage asks for, under sbatch's own names: its ``resources`` over these options."""
        asked = resources
        gpus, gres = asked.gpus, self.gres
        found: dict[str, Any] = {
            "nodes": asked.nodes or self.nodes,
            "ntasks-per-node": asked.ntasks_per_node or self.tasks_per_node,
            "cpus-per-task": asked.cpus or self.cpus_per_task,
            "time": _clock(asked.time_min or self.timeout_min),
            "account": asked.account or self.account,
            "partition": asked.partition or self.partition,
            "qos": asked.qos or self.qos,
            "constraint": asked.constraint or self.constraint,
            "reservation": self.reservation,
            "exclude": self.exclude,
            "comment": self.comment,
        }
        if asked.mem_gb or self.mem_gb:
            found["mem"] = f"{round((asked.mem_gb or self.mem_gb or 0) * 1024)}M"
        else:
            found |= {
                "mem-per-cpu": self.mem_per_cpu,
                "mem-per-gpu": None if gpus == 0 else self.mem_per_gpu,
            }
        if gpus is None:
            found |= {
                "gres": gres,
                "gpus-per-node": self.gpus_per_node or None,
                "gpus-per-task": self.gpus_per_task,
            }
            found["cpus-per-gpu"] = self.cpus_per_gpu
        elif gpus > 0:
            found["gpus-per-node"] = gpus
            found["cpus-per-gpu"] = self.cpus_per_gpu
        found |= {**self.additional_parameters, **asked.additional_parameters}
        return {
            name.replace("_", "-"): value
            for name, value in found.items()
            if value is not None and value is not False
        }

    def script(self, array: Array, submission: Submission, store: Path) -> str:
        """The sbatch script of one array. submitit writes it, as it does for
        hydra-submitit-launcher.
        """
        from submitit.slurm import slurm as submitit

        parameters = self.parameters(array.first.resources)
        delay = int(
            min(self.signal_delay_s, (array.first.resources.time_min or self.timeout_min) * 15)
        )
        fixed = {
            "array": f"{indices(array.stages)}%{self.array_parallelism}",
            "output": submission.intent["output"],
            # after preemption, a node's failure and near the time limit: stages resume
            "requeue": True,
            "signal": f"B:USR2@{delay}",
        }
        if not self.stderr_to_stdout:
            fixed["error"] = submission.intent["output"].removesuffix(".out") + ".err"
        if array.dependency:
            fixed |= {"dependency": array.dependency, "kill-on-invalid-dep": "yes"}
        text: str = submitit._make_sbatch_string(
            command=self._command(submission, store),
            folder=submission.folder,
            job_name=submission.job_name,
            setup=[
                *_if_done(submission),
                f"export MOSWEEP_MAX_TIMEOUTS={self.max_num_timeout} "
                f"MOSWEEP_SIGNAL_DELAY_S={delay}",
                *(self.setup or []),
            ],
            use_srun=False,
            additional_parameters={**parameters, **fixed},
            # What follows are submitit's own defaults for what we give above.
            time=parameters["time"],
            nodes=parameters["nodes"],
            stderr_to_stdout=self.stderr_to_stdout,
        )
        return text.replace("#SBATCH --wckey=submitit\n", "")

    @property
    def output(self) -> str | None:
        """Where jobs print what is not their stage's, as Slurm's pattern; ``None``: in the
        submission's folder.
        """
        if self.submitit_folder is None:
            return None
        folder = Path(self.submitit_folder.replace("%j", "")).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return f"{folder}/%A_%a.out"

    def _command(self, submission: Submission, store: Path) -> str:
        python = self.python or ("python3" if self.container_image else sys.executable)
        words = [python, "-m", "mosweep.launchers.slurm.job", str(store), str(submission.folder)]
        command = " ".join(
            [*([self.command_prefix] if self.command_prefix else []), shlex.join(words)]
        )
        if self.container_image:
            mounts = (
                [f"--container-mounts={self.container_mounts}"] if self.container_mounts else []
            )
            image = f"--container-image={self.container_image}"
            command = f"{shlex.join(['srun', '--ntasks=1', image, *mounts])} {command}"
        # the stage's process is the job's own: signals reach it, and its end is the job's
        return f"exec {command}"

    def differs(self, stages: Sequence[Stage]) -> bool:
        """Whether the stages ask for different things."""
        return len({str(self.parameters(stage.resources)) for stage in stages}) > 1


def _if_done(submission: Submission) -> list[str]:
    """Lines of bash: a job whose stage a sibling has done (``mosweep.launchers.slurm.job``) says so
    and ends, without the cost of Python's start.
    """
    mark = f"{shlex.quote(str(submission.folder))}/$SLURM_ARRAY_TASK_ID"
    return [
        f"if [ -e {mark}.done ]; then",
        f"""  read -r said < {mark}.done; echo "$said" > {mark}.ended""",
        """  [[ $said == *'"event": "finished"'* ]]; exit""",
        "fi",
    ]


def _clock(minutes: float) -> str:
    """Minutes as Slurm's days-hours:minutes:seconds."""
    seconds = max(1, round(minutes * 60))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    return f"{f'{days}-' if days else ''}{hours:02}:{rest // 60:02}:{rest % 60:02}"
