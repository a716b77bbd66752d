"""Checks that Slurm is installed, answers, and accepts the jobs of a plan."""

from __future__ import annotations

import contextlib
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mosweep.core.checks import Check
from mosweep.core.errors import MissingExtra, MosweepError, UserError
from mosweep.core.types import Stage
from mosweep.launchers.slurm.client import SlurmClient
from mosweep.launchers.slurm.errors import NoAccounting, SlurmRefused, SlurmUnavailable
from mosweep.launchers.slurm.script import parameters
from mosweep.sweep.plan import Plan

if TYPE_CHECKING:
    from mosweep.launchers.slurm.options import Slurm

__all__ = ["check", "is_here"]


def check(options: Slurm, plan: Plan) -> None:
    """Raise ``UserError`` without Slurm, or if it would never accept the job of a stage."""
    if find_spec("submitit") is None:
        raise MissingExtra("submitit", "slurm", "hydra/launcher=slurm")
    client = SlurmClient()
    asked: dict[str, Stage] = {}
    for stage in plan.to_run:
        asked.setdefault(str(parameters(options, stage.resources)), stage)
    for stage in asked.values():
        try:
            client.test(parameters(options, stage.resources))
        except SlurmUnavailable:
            return  # It may answer when the first job is submitted.
        except SlurmRefused as error:
            raise UserError(_refusal(client, options, stage, error)) from None


def _refusal(client: SlurmClient, options: Slurm, stage: Stage, error: SlurmRefused) -> str:
    given = " ".join(
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in parameters(options, stage.resources).items()
    )
    known = ""
    if "partition" in str(error).lower():
        with contextlib.suppress(SlurmUnavailable):
            known = f"; valid partitions: {', '.join(client.partitions())}"
    return (
        f"Slurm refuses jobs for {stage.label}: {error}{known}\noptions: {given} (from "
        "resources.* and hydra.launcher.*)"
    )


def is_here() -> Check:
    """The check of Slurm for ``mosweep doctor``."""
    sbatch = shutil.which("sbatch")
    if not sbatch:
        return Check("slurm", False, "no sbatch on this machine")
    if find_spec("submitit") is None:
        return Check(
            "slurm", False, f"{sbatch}, but submitit is missing: pip install 'mosweep[slurm]'"
        )
    client = SlurmClient(timeout_s=10)
    try:
        partitions, size = ", ".join(client.partitions()), client.max_array_size()
        try:
            client.accounting(["1"])
            accounting = "accounting"
        except NoAccounting as error:
            accounting = (
                f"no accounting ({error}): the cause of a job's end is only known for a few minutes"
            )
    except MosweepError as error:
        return Check("slurm", False, f"{sbatch}, but Slurm does not answer: {error}")
    return Check(
        "slurm", True, f"{sbatch}; partitions {partitions}; arrays of up to {size}; {accounting}"
    )
