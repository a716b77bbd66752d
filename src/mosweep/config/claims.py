"""Whether a trial reads a setting, given the patterns that its parts take.

Every trial reads model, data set, task, evaluation, and everything about the sweep itself. The
sections of training (``backend``, ``lora``, ``optim``, ``loop``, ``seed``) and the native sections
of backends and evaluators are different: a trial reads them only if one of its parts *takes* them,
with patterns such as ``lora.rank`` or ``optim.*``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from mosweep.config.groups import Config

__all__ = ["meets", "taken"]

#: The sections that only some trials read.
_OF_SOME = frozenset(
    {"backend", "control", "lora", "loop", "native", "optim", "seed", "transforms"}
)

#: The sections that every trial reads.
_OF_ALL = frozenset(section.name for section in fields(Config)) - _OF_SOME


def taken(key: str, patterns: Iterable[str]) -> bool:
    """Whether a trial that takes ``patterns`` reads the setting or factor ``key``."""
    root = key.partition(".")[0]
    if root in _OF_ALL:
        return True
    return any(meets(key, pattern) for pattern in patterns)


def meets(key: str, pattern: str) -> bool:
    """Whether ``key`` is within ``pattern``, or is a group that contains the pattern."""
    stem = pattern.removesuffix(".*")
    return (
        key == stem
        or pattern.startswith(f"{key}.")
        or (pattern.endswith(".*") and key.startswith(f"{stem}."))
    )
