"""The choices of config groups and the classes behind them, read without composing anything."""

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

__all__ = ["choices_of", "conf_folders", "name_of", "plugin_folders", "use_folder"]

#: The entry point group of packages that bring a ``conf/`` of their own.
PLUGINS = "mosweep.plugins"

_extra: list[Path] = []


def use_folder(folder: Path | None) -> None:
    """Search ``folder`` first, as ``--config-dir`` asks."""
    _extra[:] = [folder] if folder else []
    choices_of.cache_clear()


def conf_folders() -> list[Path]:
    """Where choices are looked for, first place first: the user's, plug-ins', the shipped."""
    own = own_and_shipped("conf")
    return [*_extra, *own[:-1], *plugin_folders(), own[-1]]


@cache
def plugin_folders() -> tuple[Path, ...]:
    """The ``conf/`` folders of installed packages with an entry point in ``mosweep.plugins``.

    The entry point names a package; its folder holds ``conf/``. Reads the metadata files directly:
    ``importlib.metadata`` would take longer than all the rest of ``mosweep --help``.
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


@cache
def choices_of(group: str) -> dict[str, type[Any]]:
    """The classes behind ``conf/<group>/*.yaml``, by choice. Choices that cannot be read are left
    out.
    """
    found: dict[str, type[Any]] = {}
    for folder in conf_folders():
        for path in sorted(folder.glob(f"{group}/*.yaml")):
            if path.stem not in found and (target := _target(path, group)):
                try:
                    found[path.stem] = schema.load_target(target, group)
                except ConfigError:  # told when it is chosen
                    continue
    return found


def _target(path: Path, group: str) -> str | None:
    import yaml

    try:
        data = yaml.load(
            path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
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
    """The choice of ``group`` that ``part`` is an object of; its class name if there is none."""
    kind = type(part)
    return next((name for name, each in choices_of(group).items() if each is kind), kind.__name__)
