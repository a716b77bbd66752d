"""Where a result comes from: code, versions, command line.

Provenance is recorded but never part of a key. It must not contain secrets.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["provenance", "versions"]

#: Distributions whose version may change any result. A work names the others that it uses.
_COMMON_LIBRARIES = ("mosweep", "hydra-core", "torch", "transformers")


def versions(modules: Iterable[str] = ()) -> dict[str, str]:
    """The versions of Python, of the common libraries, and of the libraries ``modules``."""
    installed = _installed()
    names = dict.fromkeys([*_COMMON_LIBRARIES, *(name.replace("_", "-") for name in modules)])
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: installed[name] for name in names if name in installed}}


@cache
def _installed() -> dict[str, str]:
    """The versions of all installed distributions.

    They are read from the names of the ``.dist-info`` folders on ``sys.path``, because
    ``importlib.metadata`` is slow to import.
    """
    installed: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                distribution, _, version = name.removesuffix(".dist-info").rpartition("-")
                installed.setdefault(distribution.replace("_", "-").lower(), version)
    return installed


@cache
def provenance(folder: Path, modules: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The machine, the versions of the libraries ``modules``, and the Git state of ``folder``.

    The Git state is the commit and, if the tree is dirty, a digest of the difference.
    """
    import platform

    data: dict[str, Any] = {
        "versions": versions(sorted(modules)),
        "platform": platform.platform(),
        "executable": sys.executable,
    }
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        difference = _git(folder, "diff", "HEAD", "--no-ext-diff") or b""
        data["git"] = {
            "commit": commit.decode().strip(),
            "dirty": hashlib.sha256(difference).hexdigest() if difference else None,
        }
    return data


def _git(folder: Path, *arguments: str) -> bytes | None:
    import subprocess

    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None
