"""``doctor``: what is installed here, what would work, and what to do about what would not."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from mosweep.config.choices import choices_of
from mosweep.core.checks import Check
from mosweep.core.paths import home, shipped
from mosweep.launchers.base import Launcher

__all__ = ["Check", "diagnose", "diagnosis_text"]


def diagnose() -> list[Check]:
    """Everything worth knowing before a sweep, without importing anything heavy."""
    version = ".".join(map(str, sys.version_info[:3]))
    checks = [
        Check("python", None, f"{version} at {sys.executable}"),
        Check(
            "mosweep",
            None,
            f"{_version('mosweep') or 'not installed'}; conf, recipes and tasks in "
            f"{shipped('conf').parent}",
        ),
        _home(),
        _libraries(
            "backend=torchtune",
            ["torch", "torchtune", "torchao", "torchdata", "transformers"],
            "torchtune",
        ),
        Check("backend=dummy", True, "needs nothing"),
        _libraries("eval=inspect", ["inspect-ai"], "inspect"),
        _libraries("tracking=mlflow", ["mlflow"], "mlflow"),
        _libraries("tracking=wandb", ["wandb"], "wandb"),
        _torchao(),
        _gpus(),
        *_launchers(),
    ]
    return [*checks, *_openai(), *_tinker()]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _libraries(name: str, distributions: list[str], extra: str) -> Check:
    missing = [distribution for distribution in distributions if _version(distribution) is None]
    if missing:
        return Check(name, False, f"missing {', '.join(missing)}: pip install 'mosweep[{extra}]'")
    return Check(
        name,
        True,
        ", ".join(f"{distribution} {_version(distribution)}" for distribution in distributions),
    )


def _torchao() -> Check:
    found = _version("torchao")
    if found is None or _version("torchtune") is None:
        return Check("torchao", None, "not installed")
    minor = tuple(int(part) for part in found.split("+")[0].split(".")[:2])
    works = (0, 13) <= minor < (0, 16)
    return Check(
        "torchao",
        works,
        found if works else f"{found}: torchtune 0.6.1 works with 0.13 to 0.15 only",
    )


def _gpus() -> Check:
    devices = sorted(
        name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()
    )
    return Check(
        "gpu",
        None,
        f"{len(devices)} NVIDIA"
        if devices
        else "none: torchtune trains on the CPU, fit for tiny models",
    )


def _launchers() -> list[Check]:
    """What the launchers that can be chosen say of themselves."""
    return [
        check
        for found in choices_of("hydra/launcher").values()
        if issubclass(found, Launcher)
        for check in found.doctor()
    ]


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


def _key(name: str, variable: str) -> Check:
    return Check(name, None, f"{variable} is {'set' if os.environ.get(variable) else 'not set'}")


def _tinker() -> list[Check]:
    service = os.environ.get("TINKER_BASE_URL", "the service itself")
    key = _key("Tinker", "TINKER_API_KEY").finding
    libraries = _libraries(
        "backend=tinker", ["tinker", "tinker-cookbook", "transformers"], "tinker"
    )
    works = None if libraries.works and not os.environ.get("TINKER_API_KEY") else libraries.works
    return [
        Check("Tinker", None, f"{key}; {service}"),
        Check(libraries.name, works, libraries.finding),
    ]


def _openai() -> list[Check]:
    """OpenAI serves evaluations and judges for good, and fine-tunes for a while."""
    from mosweep.backends.openai.training import CLOSING

    service = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    key = _key("OpenAI", "OPENAI_API_KEY").finding
    libraries = _libraries("backend=openai", ["openai", "tenacity"], "openai")
    works = None if libraries.works and not os.environ.get("OPENAI_API_KEY") else libraries.works
    return [
        Check("OpenAI", None, f"{key}; {service}"),
        Check(libraries.name, works, f"{libraries.finding}. {CLOSING}"),
    ]


def diagnosis_text(checks: list[Check]) -> str:
    """One line per finding."""
    marks = {True: "ok", False: "no", None: "  "}
    return "\n".join(f"{marks[check.works]}  {check.name:<18} {check.finding}" for check in checks)
