"""``doctor``: what is installed here, what would work, and what to do about what would not."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from mosweep.backends.base import Backend
from mosweep.config.choices import choices_of
from mosweep.core.checks import Check, check_libraries, version_of
from mosweep.core.paths import home, shipped
from mosweep.evals.evaluation import Evaluation
from mosweep.launchers.base import Launcher

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
    for group, base in (
        ("backend", Backend),
        ("eval", Evaluation),
        ("hydra/launcher", Launcher),
    ):
        for part in choices_of(group).values():
            if issubclass(part, base):
                checks += part.checks()
    return [
        *checks,
        check_libraries("tracking=mlflow", ["mlflow"], "mlflow"),
        check_libraries("tracking=wandb", ["wandb"], "wandb"),
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
