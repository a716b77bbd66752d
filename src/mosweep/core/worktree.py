"""The Git state of a folder: the commit, and what differs from it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.digests import file_digest
from mosweep.core.paths import home

__all__ = ["worktree"]

#: How many untracked files are listed by name.
_LISTED = 1000
#: A sweep's folder has this file.
_SWEEP = "experiment.yaml"


def worktree(folder: Path) -> dict[str, Any] | None:
    """The state of the work tree that ``folder`` is in. ``None`` if it is in none.

    - ``commit``: ``None`` before the first one.
    - ``dirty``: a digest of every file that differs from the commit, untracked ones included.
      ``None`` if there are none. Ignored files and what mosweep writes do not count.
    - ``untracked``: the untracked files, with the SHA-256 of each.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if not top:
        return None
    root = Path(os.fsdecode(top.removesuffix(b"\n")))
    head = _git(root, "rev-parse", "--verify", "-q", "HEAD")
    listing = ("diff", "HEAD", "--name-only", "--no-renames", "-z") if head else ("ls-files", "-z")
    changed = _paths(root, _git(root, *listing))
    others = _paths(root, _git(root, "ls-files", "--others", "--exclude-standard", "-z"))
    untracked = {name: _content(path) for name, path in _not_written_by_us(root, others).items()}
    different = {**{name: _content(path) for name, path in changed.items()}, **untracked}
    state: dict[str, Any] = {
        "commit": head.decode().strip() if head else None,
        "dirty": fingerprint.fingerprint(different) if different else None,
    }
    if untracked:
        state["untracked"] = dict(list(untracked.items())[:_LISTED])
        if len(untracked) > _LISTED:
            state["untracked_not_listed"] = len(untracked) - _LISTED
    return state


def _content(path: Path) -> str | Mapping[str, Any] | None:
    """What tells the content of ``path`` apart. ``None`` if it is gone or cannot be read.

    The content of ``.env`` files is left out, because a digest of a short secret can be reversed.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return f"link to {os.fsencode(os.readlink(path)).decode(errors='replace')}"
        if stat.S_ISDIR(mode):  # a submodule, or a repository within this one
            return worktree(path)
        if not stat.S_ISREG(mode):
            return "not a file"
        if path.name.startswith(".env"):
            return "not recorded"
        return file_digest(path) + (" executable" if mode & stat.S_IXUSR else "")
    except OSError:
        return None


def _not_written_by_us(root: Path, paths: Mapping[str, Path]) -> dict[str, Path]:
    """``paths`` without sweeps and the store, which would differ after every launch."""
    store, sweeps = home().resolve(), dict[Path, bool]()

    def in_sweep(folder: Path) -> bool:
        if folder not in sweeps:
            sweeps[folder] = folder != root and (
                (folder / _SWEEP).is_file() or in_sweep(folder.parent)
            )
        return sweeps[folder]

    return {
        name: path
        for name, path in paths.items()
        if not (path.is_relative_to(store) or in_sweep(path.parent))
    }


def _paths(root: Path, output: bytes | None) -> dict[str, Path]:
    """The paths that Git has printed, by their names in a form that JSON can hold."""
    return {
        name.decode(errors="backslashreplace"): root / os.fsdecode(name)
        for name in sorted((output or b"").split(b"\0"))
        if name
    }


def _git(folder: Path, *arguments: str) -> bytes | None:
    import subprocess

    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None
