"""The common parts of projections, which show elsewhere what is on disk.

One process at a time writes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mosweep.core.claims import Claims, Owner

__all__ = ["Projection", "ProjectionWarning", "turn"]

#: The longest pause between two attempts to get the lock, in seconds.
_WAIT_S = 0.2


class ProjectionWarning(UserWarning):
    """Something was not recorded elsewhere. Nothing is lost, and the next projection retries."""


@dataclass(frozen=True)
class Projection:
    """The number of trials whose runs were created, updated, left unchanged, or failed.

    ``page`` is the address of the runs in MLflow's user interface, relative to its server.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    page: str = ""


@contextlib.contextmanager
def turn(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock for writing."""
    claims = Claims(folder)
    pause_s = 0.01
    while isinstance(claim := claims.acquire(name), Owner):
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _WAIT_S)
    try:
        yield
    finally:
        claims.release(claim)
