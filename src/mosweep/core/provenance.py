"""Where a result came from: code, versions, command line. Recorded, never part of a key, and free
of secrets.
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

#: Distributions whose version may change any result. A work names those that matter to it alone.
_MATTER = ("mosweep", "hydra-core", "torch", "transformers")


def versions(modules: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, of what may matter to any result, and of the libraries ``modules``."""
    installed = _installed()
    names = dict.fromkeys([*_MATTER, *(name.replace("_", "-") for name in modules)])
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: installed[name] for name in names if name in installed}}


@cache
def _installed() -> dict[str, str]:
    """Versions of all installed distributions.

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
    return found


@cache
def provenance(folder: Path, modules: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Git state of ``folder`` (commit and, if the tree is dirty, a digest of the difference),
    versions of the libraries ``modules``, machine.
    """
    import platform

    found: dict[str, Any] = {
        "versions": versions(sorted(modules)),
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
