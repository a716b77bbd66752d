"""The errors that mosweep raises.

    MosweepError
    ├── UserError          the user's mistake: one or two lines, exit status 2, nothing was started
    │   └── ConfigError    … in a configuration value: its key, value and valid values
    ├── StageError         a stage failed; has the path of its log
    ├── StoreError         an operation of the store failed
    │   ├── CorruptRecord  a record, or one of its files, has changed since it was published
    │   └── ClaimLost      another owner has taken the stage over; its result must not be published
    └── MissingExtra       an optional library is missing; has the command to install it

Classes also inherit the matching standard exception.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ClaimLost",
    "ConfigError",
    "CorruptRecord",
    "MissingExtra",
    "MosweepError",
    "StageError",
    "StoreError",
    "UserError",
    "choices",
    "near_misses",
]


class MosweepError(Exception):
    """The base class of mosweep's errors."""


class UserError(MosweepError, ValueError):
    """Something the user can fix. Shown without a traceback; exit status 2."""


class ConfigError(UserError):
    """A configuration value that cannot be used.

    ``key`` is the dotted path (``lora.rank``), ``value`` the given value, and ``problem`` the text
    that says what is valid.
    """

    def __init__(self, key: str, value: object, problem: str) -> None:
        super().__init__(key, value, problem)
        self.key, self.value, self.problem = key, value, problem

    def __str__(self) -> str:
        return f"{self.key}={_shown(self.value)}: {self.problem}"


class StageError(MosweepError, RuntimeError):
    """A stage failed. ``log`` is the path of its log, if there is one."""

    def __init__(self, message: str, log: str | None = None) -> None:
        super().__init__(message, log)
        self.message, self.log = message, log

    def __str__(self) -> str:
        return self.message if self.log is None else f"{self.message} (log: {self.log})"


class StoreError(MosweepError, OSError):
    """An operation of the store failed."""


class CorruptRecord(StoreError):
    """A record, or a file that it names, differs from what was published."""


class ClaimLost(StoreError):
    """Another owner has taken this stage over."""


class MissingExtra(MosweepError, ImportError):
    """An optional library is missing."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(library, extra, purpose)
        self.library, self.extra, self.purpose = library, extra, purpose

    def __str__(self) -> str:
        return f"{self.purpose} needs {self.library}: pip install 'mosweep[{self.extra}]'"


def near_misses(word: str, valid: Iterable[str], limit: int = 3) -> list[str]:
    """Up to ``limit`` valid words that look like ``word``, nearest first."""
    return difflib.get_close_matches(word, list(valid), n=limit, cutoff=0.6)


def choices(word: str, valid: Iterable[str], limit: int = 12) -> str:
    """'did you mean …?' if a valid word looks like ``word``, then up to ``limit`` valid words."""
    words = sorted(valid)
    near = near_misses(word, words)
    shown = ", ".join(words[:limit]) + (f", … ({len(words)} in all)" if len(words) > limit else "")
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}valid: {shown}" if words else f"{hint}none are known"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"
