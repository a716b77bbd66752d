"""Tells the terminal what happens: one line per finished or failed stage; on a terminal, below them, a line on what runs now."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from mosweep.core.events import Recorder, StageFailed, StageFinished, StageStarted, SweepStarted

__all__ = ["Progress"]


class Progress(Recorder):
    """Prints to ``stream`` (standard output unless given)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.total = self.done = 0
        self.running: dict[str, StageStarted] = {}
        self.begun = time.monotonic()

    def sweep_started(self, event: SweepStarted) -> None:
        """Say what is about to run."""
        self.total = event.to_run
        cached = f", {event.cached} of {event.total} stages done already" if event.cached else ""
        self._line(f"{_count(event.trials, 'trial')}: {_count(event.to_run, 'stage')} to run{cached}")

    def stage_started(self, event: StageStarted) -> None:
        """Show it as running."""
        self.running[event.key] = event
        self._status()

    def stage_finished(self, event: StageFinished) -> None:
        """One line."""
        self.running.pop(event.key, None)
        self.done += 1
        took = "by another process" if event.elsewhere else f"{event.seconds:.1f} s"
        self._line(f"{self._count()} {event.label:<24} {event.trial}  {took}")

    def stage_failed(self, event: StageFailed) -> None:
        """One line, and one for the log's path."""
        self.running.pop(event.key, None)
        self.done += 1
        log = f"\n{'':>{len(self._count())}} log: {event.log}" if event.log else ""
        self._line(f"{self._count()} {event.label:<24} {event.trial}  FAILED: {event.error}{log}")

    def _count(self) -> str:
        return f"[{self.done:>{len(str(self.total))}}/{self.total}]"

    def _line(self, text: str) -> None:
        self.stream.write(("\r\x1b[K" if self.live else "") + text + "\n")
        self._status()

    def _status(self) -> None:
        if not self.live:
            return
        width = shutil.get_terminal_size().columns - 1
        names = "; ".join(f"{event.label} {event.trial}" for event in self.running.values())
        text = f"… {time.monotonic() - self.begun:.0f} s, running {len(self.running)}: {names}" if self.running else ""
        self.stream.write("\r\x1b[K" + text[:width])
        self.stream.flush()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
