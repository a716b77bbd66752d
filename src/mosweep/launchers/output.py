"""Redirects the output of stages: of one at a time, or of many in one event loop."""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["PerTask", "process_output_to", "task_output_to"]

#: The log of the running task.
_log: contextvars.ContextVar[Path | None] = contextvars.ContextVar("log", default=None)


@contextlib.contextmanager
def process_output_to(log: Path) -> Iterator[None]:
    """Append the output of this process and its children to ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in enumerate(saved, 1):
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def task_output_to(log: Path) -> Iterator[None]:
    """Append this task's output, through a ``PerTask``, to ``log``."""
    token = _log.set(log)
    try:
        yield
    finally:
        _log.reset(token)


class PerTask(io.TextIOBase):
    """A standard stream for many tasks. Text of a task goes to its log, other text to ``rest``."""

    def __init__(self, rest: IO[str]) -> None:
        self.rest = rest

    def write(self, text: str) -> int:
        log = _log.get()
        if log is None:
            return self.rest.write(text)
        with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
            return file.write(text)

    def flush(self) -> None:
        self.rest.flush()
