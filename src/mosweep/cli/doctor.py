"""``doctor``: what is installed here, what would work, and what to do about what would not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from mosweep.backends.base import Backend
from mosweep.config.choices import choices_of
from mosweep.core.checks import Check, check_libraries, version_of
from mosweep.core.paths import home, shipped
from mosweep.evals.evaluation import Evaluation

__all__ = ["diagnose", "diagnosis_text"]


def diagnose() -> list[Check]:
    """Everything worth knowing before a sweep, without importing anything heavy."""
    version = ".".join(map(str, sys.version_info[:3]))
    place = shipped("conf").parent
    installed = version_of("mosweep") or "not installed"
    checks = [
        Check("python", None, f"{version} at {sys.executable}"),
        Check("mosweep", None, f"{installed}; conf, recipes and tasks in {place}"),
        _home(),
        _gpus(),
    ]
    for group, base in (("backend", Backend), ("eval", Evaluation)):
        for part in choices_of(group).values():
            if issubclass(part, base):
                checks += part.checks()
    return [
        *checks,
        check_libraries("tracking=mlflow", ["mlflow"], "mlflow"),
        check_libraries("tracking=wandb", ["wandb"], "wandb"),
        _slurm(),
    ]


def _gpus() -> Check:
    devices = sorted(
        name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()
    )
    return Check(
        "gpu",
        None,
        f"{len(devices)} NVIDIA"
        if devices
        else "none: local training runs on the CPU, fit for tiny models",
    )


def _slurm() -> Check:
    found = shutil.which("sbatch")
    if not found:
        return Check("slurm", False, "no sbatch on this machine")
    if importlib.util.find_spec("submitit") is None:
        return Check(
            "slurm", False, f"{found}, but submitit is missing: pip install 'mosweep[slurm]'"
        )
    from mosweep.core.errors import MosweepError
    from mosweep.launchers.slurm.client import NoAccounting, SlurmClient

    client = SlurmClient(timeout_s=10)
    try:
        partitions, size = ", ".join(client.partitions()), client.max_array_size()
        try:
            client.accounting(["1"])
            accounting = "accounting"
        except NoAccounting as error:
            accounting = (
                f"no accounting ({error}): the cause of a job's end is known for a few minutes only"
            )
    except MosweepError as error:
        return Check("slurm", False, f"{found}, but Slurm does not answer: {error}")
    return Check(
        "slurm", True, f"{found}; partitions {partitions}; arrays of up to {size}; {accounting}"
    )


def _home() -> Check:
    """Claims need hard links; some network and removable file systems have none."""
    place = home() if home().is_dir() else home().parent
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            (Path(folder) / "a").write_text("")
            os.link(Path(folder) / "a", Path(folder) / "b")
    except OSError as error:
        return Check(
            "home",
            False,
            f"{home()}: {error.strerror}; set MOSWEEP_HOME to a folder that can be written to "
            "and has hard links",
        )
    return Check("home", True, str(home()))


def diagnosis_text(checks: list[Check]) -> str:
    """One line per finding."""
    marks = {True: "ok", False: "no", None: "  "}
    return "\n".join(f"{marks[check.works]}  {check.name:<18} {check.finding}" for check in checks)
