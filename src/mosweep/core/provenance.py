"""Where a result came from: code, versions, command line. Recorded, never part of a key, and free
of secrets.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["provenance", "versions"]

#: Distributions whose version may change a result.
_MATTER = (
    "mosweep",
    "hydra-core",
    "torch",
    "torchtune",
    "torchao",
    "transformers",
    "inspect-ai",
    "mlflow",
    "tinker",
    "openai",
    "submitit",
)


@cache
def versions() -> dict[str, str]:
    """Versions of the installed libraries that may matter.

    Read off the names of their ``.dist-info`` folders: a look at each folder of ``sys.path``, and
    no import of ``importlib.metadata``.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                distribution, _, version = name.removesuffix(".dist-info").rpartition("-")
                found.setdefault(distribution.replace("_", "-").lower(), version)
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: found[name] for name in _MATTER if name in found}}


@cache
def provenance(folder: Path) -> dict[str, Any]:
    """Git state of ``folder`` (commit and, if the tree is dirty, a digest of the difference),
    versions, machine.
    """
    import platform

    found: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "executable": sys.executable,
    }
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        difference = _git(folder, "diff", "HEAD", "--no-ext-diff") or b""
        found["git"] = {
            "commit": commit.decode().strip(),
            "dirty": hashlib.sha256(difference).hexdigest() if difference else None,
        }
    return found


def _git(folder: Path, *words: str) -> bytes | None:
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
