"""Checking a composed configuration, and building the typed one from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosweep.config.groups import (
    TOP_LEVEL,
    Budget,
    Config,
    Contamination,
    Dataset,
    Experiment,
    Lora,
    Model,
    Optim,
    StoreConfig,
    Task,
    Tracking,
)
from mosweep.config.loop import Loop
from mosweep.config.resources import Request
from mosweep.core import schema

__all__ = ["Sections"]

_SECTIONS: dict[str, type[Any]] = {
    "model": Model,
    "dataset": Dataset,
    "task": Task,
    "lora": Lora,
    "optim": Optim,
    "loop": Loop,
    "experiment": Experiment,
    "tracking": Tracking,
    "store": StoreConfig,
    "budget": Budget,
    "contamination": Contamination,
    "resources": Request,
}


class Sections:
    """Builds ``Config`` objects, each distinct section once.

    Trials of a sweep share most of their sections: ``compose`` returns the same mapping object for
    a section that no factor changes.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[str, int], tuple[Any, Any]] = {}

    def config(self, data: Mapping[str, Any]) -> Config:
        """Check ``data``, the resolved configuration of a trial, and build a ``Config`` from it."""
        sections: dict[str, Any] = {"native": {}, "transforms": {}}
        for name, value in data.items():
            section = self.section(name, value)
            if name in TOP_LEVEL:
                sections[name] = section
            elif value is None or (isinstance(value, Mapping) and schema.TARGET in value):
                sections["transforms"][name] = section
            else:
                sections["native"][name] = section
        return schema.build(Config, sections)

    def section(self, name: str, value: Any) -> Any:
        """The typed section ``name``. The same mapping object gives the same section."""
        if not isinstance(value, Mapping):
            return value
        entry = self._built.get((name, id(value)))
        if entry is not None and entry[0] is value:
            return entry[1]
        section = self._build(name, value)
        # This keeps ``value`` alive, so that its id stays unique.
        self._built[name, id(value)] = (value, section)
        return section

    @staticmethod
    def _build(name: str, value: Mapping[str, Any]) -> Any:
        value = _without_missing(value)
        if name in ("backend", "eval") or (name not in TOP_LEVEL and schema.TARGET in value):
            return schema.build_target(value, name)
        return schema.build(_SECTIONS[name], value, name) if name in _SECTIONS else value


def _without_missing(value: Any) -> Any:
    """The data without OmegaConf's ``???``, which stands for a key that was not given."""
    if isinstance(value, Mapping):
        return {k: _without_missing(v) for k, v in value.items() if v != "???"}
    return value
