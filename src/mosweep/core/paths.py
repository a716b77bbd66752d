"""Where things lie: what mosweep ships, what the user has beside it, and mosweep's home.

``conf/``, ``recipes/`` and ``tasks/`` live at the repository's top level and travel inside the
wheel as ``mosweep/shipped/``. A user's own folders of the same names in the working directory are
looked at first.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home", "own_and_shipped", "shipped"]


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
    """``$MOSWEEP_HOME``, by default ``.mosweep`` in the working directory: store, claims, MLflow's
    database.
    """
    return Path(os.environ.get("MOSWEEP_HOME") or ".mosweep").absolute()
