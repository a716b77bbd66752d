"""Whether a trial reads a setting, given the patterns that its parts take.

Model, data set, task, evaluation and everything about the sweep itself concern every trial. The
sections of training (``backend``, ``lora``, ``optim``, ``loop``, ``seed``) and the native sections
of backends and evaluators concern those trials alone whose parts *take* them: patterns such as
``lora.rank`` or ``optim.*``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from mosweep.config.groups import Config

__all__ = ["meets", "taken"]

_OF_SOME = frozenset(
    {"backend", "control", "lora", "loop", "native", "optim", "seed", "transforms"}
)
_OF_ALL = frozenset(each.name for each in fields(Config)) - _OF_SOME


def taken(key: str, patterns: Iterable[str]) -> bool:
    """Whether a trial that takes ``patterns`` reads the setting or factor ``key``."""
    root = key.partition(".")[0]
    if root in _OF_ALL:
        return True
    return any(meets(key, pattern) for pattern in patterns)


def meets(key: str, pattern: str) -> bool:
    """Whether ``key`` is within ``pattern``, or a whole group of which the pattern takes a part."""
    stem = pattern.removesuffix(".*")
    return (
        key == stem
        or pattern.startswith(f"{key}.")
        or (pattern.endswith(".*") and key.startswith(f"{stem}."))
    )
