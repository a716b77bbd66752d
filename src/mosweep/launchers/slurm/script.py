"""The options of sbatch for a stage, and the sbatch script of an array."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core.work import Resources
from mosweep.launchers.slurm.arrays import Array, indices
from mosweep.launchers.slurm.submissions import Submission

if TYPE_CHECKING:
    from mosweep.launchers.slurm.options import Slurm

__all__ = ["output", "parameters", "script"]


def parameters(options: Slurm, resources: Resources) -> dict[str, Any]:
    """The options of sbatch for a stage. Its ``resources`` take precedence over ``options``."""
    asked = resources
    gpus, gres = asked.gpus, options.gres
    settings: dict[str, Any] = {
        "nodes": asked.nodes or options.nodes,
        "ntasks-per-node": asked.ntasks_per_node or options.tasks_per_node,
        "cpus-per-task": asked.cpus or options.cpus_per_task,
        "time": _clock(asked.time_min or options.timeout_min),
        "account": asked.account or options.account,
        "partition": asked.partition or options.partition,
        "qos": asked.qos or options.qos,
        "constraint": asked.constraint or options.constraint,
        "reservation": options.reservation,
        "exclude": options.exclude,
        "comment": options.comment,
    }
    if asked.mem_gb or options.mem_gb:
        settings["mem"] = f"{round((asked.mem_gb or options.mem_gb or 0) * 1024)}M"
    else:
        settings |= {
            "mem-per-cpu": options.mem_per_cpu,
            "mem-per-gpu": None if gpus == 0 else options.mem_per_gpu,
        }
    if gpus is None:
        settings |= {
            "gres": gres,
            "gpus-per-node": options.gpus_per_node or None,
            "gpus-per-task": options.gpus_per_task,
        }
        settings["cpus-per-gpu"] = options.cpus_per_gpu
    elif gpus > 0:
        settings["gpus-per-node"] = f"{asked.gpu_type}:{gpus}" if asked.gpu_type else gpus
        settings["cpus-per-gpu"] = options.cpus_per_gpu
    settings |= {**options.additional_parameters, **asked.additional_parameters}
    return {
        name.replace("_", "-"): value
        for name, value in settings.items()
        if value is not None and value is not False
    }


def script(options: Slurm, array: Array, submission: Submission, store: Path) -> str:
    """The sbatch script of one array, written by submitit as for hydra-submitit-launcher."""
    from submitit.slurm import slurm as submitit

    asked = parameters(options, array.first.resources)
    delay = int(
        min(options.signal_delay_s, (array.first.resources.time_min or options.timeout_min) * 15)
    )
    fixed = {
        "array": f"{indices(array.stages)}%{options.array_parallelism}",
        "output": submission.intent["output"],
        # Stages resume after a preemption, a node failure or a requeue near the time limit.
        "requeue": True,
        "signal": f"B:USR2@{delay}",
    }
    if not options.stderr_to_stdout:
        fixed["error"] = submission.intent["output"].removesuffix(".out") + ".err"
    if array.dependency:
        fixed |= {"dependency": array.dependency, "kill-on-invalid-dep": "yes"}
    text: str = submitit._make_sbatch_string(
        command=_command(options, submission, store),
        folder=submission.folder,
        job_name=submission.job_name,
        setup=[
            *_if_done(submission),
            f"export MOSWEEP_MAX_TIMEOUTS={options.max_num_timeout} MOSWEEP_SIGNAL_DELAY_S={delay}",
            *(f"export {name}={shlex.quote(value)}" for name, value in options.env_set.items()),
            *(options.setup or []),
        ],
        use_srun=False,
        additional_parameters={**asked, **fixed},
        # submitit has defaults for these, which must not override the values above.
        time=asked["time"],
        nodes=asked["nodes"],
        stderr_to_stdout=options.stderr_to_stdout,
    )
    return text.replace("#SBATCH --wckey=submitit\n", "")


def output(options: Slurm) -> str | None:
    """The pattern for the jobs' output files. ``None`` for the submission's folder."""
    if options.submitit_folder is None:
        return None
    folder = Path(options.submitit_folder.replace("%j", "")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"{folder}/%A_%a.out"


def _command(options: Slurm, submission: Submission, store: Path) -> str:
    python = options.python or ("python3" if options.container_image else sys.executable)
    words = [python, "-P", "-m", "mosweep.launchers.slurm.job", str(store), str(submission.folder)]
    command = " ".join(
        [*([options.command_prefix] if options.command_prefix else []), shlex.join(words)]
    )
    if options.container_image:
        srun = ["srun", "--ntasks=1", f"--container-image={options.container_image}"]
        if options.container_mounts:
            srun.append(f"--container-mounts={options.container_mounts}")
        command = f"{shlex.join(srun)} {command}"
    # With exec, the job's signals reach the stage's process, and its exit status is the job's.
    return f"exec {command}"


def _if_done(submission: Submission) -> list[str]:
    """Lines of bash that end the job if a sibling has done its stage.

    See ``mosweep.launchers.slurm.job``. This avoids the start of Python.
    """
    mark = f"{shlex.quote(str(submission.folder))}/$SLURM_ARRAY_TASK_ID"
    return [
        f"if [ -e {mark}.done ]; then",
        f"""  read -r said < {mark}.done; echo "$said" > {mark}.ended""",
        """  [[ $said == *'"event": "finished"'* ]]; exit""",
        "fi",
    ]


def _clock(minutes: float) -> str:
    """Minutes in Slurm's form, days-hours:minutes:seconds."""
    seconds = max(1, round(minutes * 60))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    return f"{f'{days}-' if days else ''}{hours:02}:{rest // 60:02}:{rest % 60:02}"
