"""``mosweep doctor``: check what is installed, what works here, and how to fix the rest."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mosweep.backends.base import Backend
from mosweep.cli.options import parser_of, print_json
from mosweep.config.choices import choices_of
from mosweep.core.checks import Check, check_libraries, version_of
from mosweep.core.paths import home, shipped
from mosweep.evals.evaluation import Evaluation
from mosweep.launchers.base import Launcher

__all__ = ["diagnose", "diagnosis_text", "doctor"]


def diagnose() -> list[Check]:
    """All checks of this machine. Imports no heavy library."""
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
        else "none: local training runs on the CPU, which is enough for tiny models",
    )


def _home() -> Check:
    """Whether mosweep's home is writable and has hard links, which claims need.

    Some network and removable file systems have none.
    """
    place = home() if home().is_dir() else home().parent
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            (Path(folder) / "a").write_text("")
            os.link(Path(folder) / "a", Path(folder) / "b")
    except OSError as error:
        return Check(
            "home",
            False,
            f"{home()}: {error.strerror}; set MOSWEEP_HOME to a writable folder on a file system "
            "with hard links",
        )
    return Check("home", True, str(home()))


def diagnosis_text(checks: list[Check]) -> str:
    """The checks as text, one line each."""
    marks = {True: "ok", False: "no", None: "  "}
    return "\n".join(f"{marks[check.works]}  {check.name:<18} {check.finding}" for check in checks)


def doctor(arguments: Sequence[str]) -> int:
    """Check what is installed and what works here."""
    args = parser_of(
        "doctor",
        "Check what is installed, which backends work here, and how to fix the others.",
        sweep=False,
    ).parse_args(arguments)
    checks = diagnose()
    if args.json:
        print_json([asdict(check) for check in checks])
    else:
        print(diagnosis_text(checks))
    return 0
