"""Where files are: the folders that mosweep ships, the user's own, and mosweep's home.

``conf/``, ``recipes/`` and ``tasks/`` are at the top level of the repository, and in
``mosweep/shipped/`` of the wheel. A user's folder of the same name in the working directory comes
first.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["cached_here", "home", "own_and_shipped", "shipped"]

T = TypeVar("T")


def cached_here(function: Callable[..., T]) -> Callable[..., T]:
    """``functools.cache`` per working directory. Supports only positional arguments."""
    remembered = functools.cache(lambda here, *arguments: function(*arguments))

    @functools.wraps(function)
    def call(*arguments: Any) -> T:
        return remembered(os.getcwd(), *arguments)

    return call


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
