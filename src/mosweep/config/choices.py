"""The choices of config groups and the classes behind them, without composing a configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mosweep.core import schema
from mosweep.core.errors import ConfigError
from mosweep.core.paths import own_and_shipped
from mosweep.core.yaml_text import load_yaml

__all__ = ["choices_of", "conf_folders", "name_of", "plugin_folders", "use_folder"]

#: The entry point group of packages with their own ``conf/``.
PLUGINS = "mosweep.plugins"

_extra: list[Path] = []


def use_folder(folder: Path | None) -> None:
    """Search ``folder`` first, for ``--config-dir``."""
    _extra[:] = [folder] if folder else []


def conf_folders() -> list[Path]:
    """The folders with choices, in search order: the user's, plug-ins', the shipped one."""
    own = own_and_shipped("conf")
    return [*_extra, *own[:-1], *plugin_folders(), own[-1]]


@cache
def plugin_folders() -> tuple[Path, ...]:
    """The ``conf/`` folders of installed packages with an entry point in ``mosweep.plugins``.

    The entry point names a package whose folder has ``conf/``. The metadata files are read
    directly: ``importlib.metadata`` would take longer than the rest of ``mosweep --help``.
    """
    return tuple(dict.fromkeys(_plugin_folders()))


def _plugin_folders() -> Iterator[Path]:
    for place in sys.path:
        try:
            names = [name for name in os.listdir(place or ".") if name.endswith(".dist-info")]
        except OSError:
            continue
        for name in names:
            try:
                text = Path(place, name, "entry_points.txt").read_bytes()
            except OSError:
                continue
            if f"[{PLUGINS}]".encode() in text:
                yield from _conf_of(text.decode())


def _conf_of(text: str) -> Iterator[Path]:
    from configparser import ConfigParser
    from importlib.util import find_spec

    parser = ConfigParser(delimiters="=")
    parser.read_string(text)
    for _, package in parser.items(PLUGINS):
        spec = find_spec(package.partition(":")[0].strip())
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (conf := Path(place, "conf")).is_dir():
                yield conf


def choices_of(group: str) -> dict[str, type[Any]]:
    """The classes behind ``conf/<group>/*.yaml``, by choice.

    Choices that cannot be read are left out.
    """
    return _classes(group, tuple(conf_folders()))


@cache
def _classes(group: str, folders: tuple[Path, ...]) -> dict[str, type[Any]]:
    classes: dict[str, type[Any]] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"{group}/*.yaml")):
            if path.stem not in classes and (target := _target(path, group)):
                try:
                    classes[path.stem] = schema.load_target(target, group)
                except ConfigError:  # The error is raised when the choice is used.
                    continue
    return classes


def _target(path: Path, group: str) -> str | None:
    import yaml

    try:
        data = load_yaml(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(data, dict):
        return None
    section = data if schema.TARGET in data else data.get(group)
    return (
        str(section[schema.TARGET])
        if isinstance(section, dict) and schema.TARGET in section
        else None
    )


def name_of(group: str, part: object) -> str:
    """The choice of ``group`` with the class of ``part``, or the class's name if there is none."""
    cls = type(part)
    return next((name for name, other in choices_of(group).items() if other is cls), cls.__name__)
