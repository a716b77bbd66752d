"""What tests of runs with a Tinker-compatible server have in common."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from mosweep.backends.tinker.training import JOURNAL

MODEL = "mosweep/tiny"


def names(count: int, first: int = 0, stride: int = 1) -> list[str]:
    """Words that are all different, where ``stride`` is odd and no multiple of 5."""
    letters = str.maketrans("0123456789", "abcdefghij")
    return [
        f"{number * stride % 100_000:05d}".translate(letters)
        for number in range(first, first + count)
    ]


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An asynchronous test in an event loop of its own."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        asyncio.run(test(**given))

    return run


def events(folder: Path) -> list[dict[str, Any]]:
    """What a run has noted."""
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]


def kill_group(driver: int) -> None:
    """``kill -9`` for a driver and its workers, which are in groups of their own."""
    children = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if _parent(path) == driver
    ]
    os.kill(driver, signal.SIGKILL)
    for child in children:
        os.killpg(child, signal.SIGKILL)


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
