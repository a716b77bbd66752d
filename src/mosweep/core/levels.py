"""Levels of factors as text: the form in which they are compared, shown and recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["level_text", "levels_text", "setting_text"]


def level_text(level: Any) -> str:
    """A level as text: as written on the command line, or JSON if it is not a plain value."""
    if isinstance(level, list | dict | bool) or level is None:
        return json.dumps(level, ensure_ascii=False, default=str)
    return str(level)


def levels_text(levels: Iterable[Any]) -> str:
    """Several levels in a sentence: ``4, 16, 64``."""
    return ", ".join(map(level_text, levels))


def setting_text(factors: Mapping[str, Any], separator: str = ",") -> str:
    """Factors with their levels: ``lora.rank=4,model=tiny``."""
    return separator.join(f"{name}={level_text(level)}" for name, level in factors.items())
