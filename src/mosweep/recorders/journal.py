"""Writes what happens into the sweep's journal."""

from __future__ import annotations

from dataclasses import dataclass

from mosweep.core.events import Recorder, StageFailed, StageFinished, StageStarted
from mosweep.core.journal import Journal

__all__ = ["JournalRecorder"]


@dataclass(frozen=True)
class JournalRecorder(Recorder):
    """One line per event in ``journal``."""

    journal: Journal

    def stage_started(self, event: StageStarted) -> None:
        """Note who runs it and where its log is."""
        self.journal.append("started", key=event.key, label=event.label, trial=event.trial, job=event.job, log=event.log)

    def stage_finished(self, event: StageFinished) -> None:
        """Note how long it took."""
        self.journal.append("finished", key=event.key, job=event.job, seconds=round(event.seconds, 3), elsewhere=event.elsewhere or None)

    def stage_failed(self, event: StageFailed) -> None:
        """Note why, and where its log is."""
        self.journal.append("failed", key=event.key, label=event.label, trial=event.trial, job=event.job, error=event.error, log=event.log)
