"""Interpolations: numbers from the environment, and levels that are given by an interpolation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from mosweep.core.yaml_text import parse_number

__all__ = ["decode_numbers", "is_interpolated", "resolved_levels"]

#: A whole value that is looked up in the environment, such as ``${oc.env:LR}``.
_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")


def decode_numbers(config: DictConfig) -> None:
    """Replace every ``${oc.env:LR}`` in ``config`` whose text is a number by that number.

    For OmegaConf it is text. ``run-${oc.env:LR}`` stays as it is.
    """
    _visit(config)


def _visit(node: Any) -> None:
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    keys: Any = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            _visit(child)
        if child is None or not child._is_interpolation():
            continue
        if not _ENVIRONMENT.fullmatch(str(child._value())):
            continue
        try:
            text = node[key]
        except OmegaConfBaseException:  # Not set. This is an error when the value is read.
            continue
        number = parse_number(text) if isinstance(text, str) else None
        if number is not None:
            child._set_value(number)


def is_interpolated(level: Any) -> bool:
    """Whether ``level`` is, or contains, an interpolation."""
    if isinstance(level, Mapping):
        return any(map(is_interpolated, level.values()))
    if isinstance(level, list):
        return any(map(is_interpolated, level))
    return isinstance(level, str) and "${" in level


def resolved_levels(levels: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The levels, with the value in the resolved ``plain`` for each that is interpolated."""
    return {
        key: _selected(plain, key, level) if is_interpolated(level) else level
        for key, level in levels.items()
    }


def _selected(plain: Mapping[str, Any], key: str, default: Any) -> Any:
    value: Any = plain
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return default
        value = value[name]
    return value
