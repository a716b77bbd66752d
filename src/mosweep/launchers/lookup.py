"""Finds the launcher of a sweep, and the launchers that may have jobs for a store."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from mosweep.core import schema
from mosweep.core.errors import ConfigError
from mosweep.core.files import write_whole
from mosweep.core.store import Store
from mosweep.launchers.base import Launcher

__all__ = [
    "build_launcher",
    "default_launcher",
    "describe",
    "launcher_of",
    "launchers_with_jobs",
    "remember",
]

#: The default launcher.
DEFAULT = "mosweep.launchers.local.Local"


def build_launcher(options: Mapping[str, Any]) -> Launcher:
    """The launcher that ``hydra.launcher`` describes: the class ``_target_``, and its options."""
    given = dict(options)
    target = str(given.pop(schema.TARGET, DEFAULT))
    cls = schema.load_target(target, f"hydra.launcher.{schema.TARGET}")
    if not issubclass(cls, Launcher):
        raise ConfigError(f"hydra.launcher.{schema.TARGET}", target, "is not a mosweep Launcher")
    launcher: Launcher = schema.build(cls, given, "hydra.launcher")
    return launcher


def default_launcher(**options: Any) -> Launcher:
    """The launcher for this machine."""
    return build_launcher(options)


def describe(launcher: Launcher) -> dict[str, dict[str, Any]]:
    """The launcher as JSON, for a frozen design. ``launcher_of`` reads it."""
    kind = type(launcher)
    target = f"{kind.__module__}.{kind.__qualname__}"
    return {launcher.kind: {schema.TARGET: target, **schema.plain(launcher)}}


def launcher_of(described: Mapping[str, Mapping[str, Any]] | None) -> Launcher:
    """The launcher from the result of ``describe``. The default launcher for a design without."""
    for options in (described or {}).values():
        return build_launcher(options)
    return default_launcher()


def remember(store: Store, launcher: Launcher) -> None:
    """Record that ``launcher`` may have jobs for ``store``, for commands of other processes."""
    note = store.root / "launchers" / f"{launcher.kind}.json"
    text = json.dumps(describe(launcher))
    if not note.exists() or note.read_text(encoding="utf-8") != text:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, text)


def launchers_with_jobs(store: Store, *, strict: bool = True) -> Iterator[Launcher]:
    """The launchers that may have jobs for ``store``, one of each kind.

    If a class cannot be imported, this raises ``ConfigError`` (``strict``), or warns and skips it.
    """
    for note in sorted((store.root / "launchers").glob("*.json")):
        try:
            yield launcher_of(json.loads(note.read_text(encoding="utf-8")))
        except ConfigError as error:
            if strict:
                raise
            warnings.warn(f"jobs of {note.stem} are not shown: {error}", stacklevel=2)
