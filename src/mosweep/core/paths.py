"""Where files are: the folders that mosweep ships, the user's own, and mosweep's home.

``conf/``, ``recipes/`` and ``tasks/`` are at the top level of the repository, and in
``mosweep/shipped/`` of the wheel. A user's folder of the same name in the working directory comes
first.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["cached_here", "file_name", "forget_files", "home", "own_and_shipped", "shipped"]

T = TypeVar("T")

_caches: list[Any] = []


def cached_here(function: Callable[..., T]) -> Callable[..., T]:
    """``functools.cache`` for what depends on the working directory and the user's files.

    It takes positional arguments only. ``forget_files`` clears it.
    """
    cached = functools.cache(lambda here, *arguments: function(*arguments))
    _caches.append(cached)

    @functools.wraps(function)
    def call(*arguments: Any) -> T:
        return cached(os.getcwd(), *arguments)

    return call


def forget_files() -> None:
    """Read the user's files again: they may have changed since this process last planned."""
    for cached in _caches:
        cached.cache_clear()


def file_name(text: str, longest: int = 180) -> str:
    """``text`` as the name of one file: without slashes, and of at most ``longest`` bytes.

    A longer one keeps its beginning, and ends in a digest of the whole text.
    """
    name = text.replace("/", "_").replace("\0", "_")
    if len(name.encode(errors="surrogateescape")) <= longest:
        return name
    start = name.encode(errors="surrogateescape")[: longest - 20].decode(errors="ignore")
    return f"{start}~{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:12]}"


def shipped(name: str) -> Path:
    """The folder ``conf``, ``recipes`` or ``tasks`` that belongs to this installation."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "shipped" / name
    return inside if inside.is_dir() else package.parents[1] / name


def own_and_shipped(name: str) -> list[Path]:
    """The user's own folder ``name`` if there is one, then the shipped one."""
    own = Path.cwd() / name
    folders = [own] if own.is_dir() else []
    if not (folders and own.samefile(shipped(name))):
        folders.append(shipped(name))
    return folders


def home() -> Path:
    """The folder of the store and of MLflow's database.

    It is ``$MOSWEEP_HOME``, by default ``.mosweep`` in the working directory.
    """
    return Path(os.environ.get("MOSWEEP_HOME") or ".mosweep").absolute()
