"""The times of stages, in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterable

from mosweep.core.results import StageResult

__all__ = ["finished_ms", "now_ms", "spans_ms"]


def spans_ms(stages: Iterable[StageResult]) -> list[tuple[int, int]]:
    """The starts and ends of the recorded stages."""
    records = (stage.record for stage in stages)
    return [
        (_ms(r["started"]), _ms(r["finished"]))
        for r in records
        if r and "started" in r and "finished" in r
    ]


def finished_ms(stage: StageResult) -> int:
    """When the stage finished. Now, if it has not."""
    return (
        _ms(stage.record["finished"]) if stage.record and "finished" in stage.record else now_ms()
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def now_ms() -> int:
    """The current time."""
    return _ms(time.time())
