"""Writes events to the sweep's journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mosweep.core.events import (
    Notice,
    Recorder,
    StageFailed,
    StageFinished,
    StageQueued,
    StageStarted,
)
from mosweep.core.journal import Journal

__all__ = ["JournalRecorder"]


@dataclass(frozen=True)
class JournalRecorder(Recorder):
    """One line per event in ``journal``."""

    journal: Journal

    def notice(self, event: Notice) -> None:
        """Write the text."""
        self.journal.append("notice", text=event.text)

    def stages_queued(self, events: Sequence[StageQueued]) -> None:
        """Write the job of each stage."""
        self.journal.append_all(
            {
                "event": "queued",
                "key": event.key,
                "job": event.job,
                **({"tries": event.tries} if event.tries else {}),
            }
            for event in events
        )

    def stage_started(self, event: StageStarted) -> None:
        """Write the job and the path of the log."""
        self.journal.append(
            "started",
            key=event.key,
            label=event.label,
            trial=event.trial,
            job=event.job,
            log=event.log,
        )

    def stage_finished(self, event: StageFinished) -> None:
        """Write the duration."""
        self.journal.append(
            "finished",
            key=event.key,
            job=event.job,
            seconds=round(event.seconds, 3),
            elsewhere=event.elsewhere or None,
        )

    def stage_failed(self, event: StageFailed) -> None:
        """Write the error and the path of the log."""
        what = "cancelled" if event.cancelled else "failed"
        self.journal.append(
            what,
            key=event.key,
            label=event.label,
            trial=event.trial,
            job=event.job,
            error=event.error,
            log=event.log,
        )
