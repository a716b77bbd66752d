"""Where a result comes from: code, versions, command line.

Provenance is recorded but never part of a key. It must not contain secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mosweep.core.worktree import worktree

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

    See ``worktree`` for the Git state.
    """
    import platform

    data: dict[str, Any] = {
        "versions": versions(sorted(modules)),
        "platform": platform.platform(),
        "executable": sys.executable,
    }
    if (git := worktree(folder)) is not None:
        data["git"] = git
    return data
