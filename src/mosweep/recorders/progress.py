"""Progress on the terminal: one line per stage that ended, and a live table of running stages."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from mosweep.core.events import (
    Notice,
    Recorder,
    StageFailed,
    StageFinished,
    StageStarted,
    SweepStarted,
)

__all__ = ["Progress"]

#: Seconds between updates of the live table.
REFRESH_S = 0.5
#: The most rows in it.
ROWS = 12


@dataclass(frozen=True)
class _Running:
    event: StageStarted
    since: float


class Progress(Recorder):
    """Prints to ``stream``, by default standard output.

    ``reached`` returns the round of a loop that made a stage unnecessary, if one did.
    """

    def __init__(
        self, stream: TextIO | None = None, reached: Callable[[str], int | None] = lambda key: None
    ) -> None:
        self.stream = stream or sys.stdout
        self.reached = reached
        self.total = self.done = self.failed = 0
        self.running: dict[str, _Running] = {}
        self.begun = time.monotonic()
        self.drawn = 0
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.live = self.stream.isatty()

    def sweep_started(self, event: SweepStarted) -> None:
        """Print how many trials and stages will run."""
        self.total = event.to_run
        cached = f", {event.cached} of {event.total} stages already done" if event.cached else ""
        self._line(
            f"{_count(event.trials, 'trial')}: {_count(event.to_run, 'stage')} to run{cached}"
        )
        if self.live:
            threading.Thread(target=self._refresh, daemon=True).start()

    def notice(self, event: Notice) -> None:
        """Print a line."""
        self._line(event.text)

    def stage_started(self, event: StageStarted) -> None:
        """Show it as running."""
        with self.lock:
            self.running[event.key] = _Running(event, time.monotonic())

    def stage_finished(self, event: StageFinished) -> None:
        """Print a line. Of the rounds that a loop did not need, only the first has one."""
        if reached := self.reached(event.key):
            self.running.pop(event.key, None)
            self.done += 1
            if event.label == f"round {reached + 1}":
                self._line(
                    f"{self._place()} {event.label:<24} {event.trial}  not needed, nor are later "
                    f"rounds: round {reached} reached the threshold"
                )
            return
        took = "by another process" if event.elsewhere else f"{event.seconds:.1f} s"
        self._ended(event.key, f"{event.label:<24} {event.trial}  {took}")

    def stage_failed(self, event: StageFailed) -> None:
        """Print a line, and one for the log's path."""
        self.failed += 1
        log = f"\n{'':>{len(self._place())}} log: {event.log}" if event.log else ""
        what = "cancelled" if event.cancelled else "FAILED"
        self._ended(event.key, f"{event.label:<24} {event.trial}  {what}: {event.error}{log}")

    def close(self) -> None:
        """Stop drawing and leave the cursor below the last line."""
        self.ended.set()
        with self.lock:
            self._erase()
            self.stream.flush()

    def _ended(self, key: str, text: str) -> None:
        self.running.pop(key, None)
        self.done += 1
        self._line(f"{self._place()} {text}")

    def _place(self) -> str:
        return f"[{self.done:>{len(str(self.total))}}/{self.total}]"

    def _line(self, text: str) -> None:
        with self.lock:
            self._erase()
            self.stream.write(text + "\n")

    def _refresh(self) -> None:
        while not self.ended.wait(REFRESH_S):
            with self.lock:
                self._erase()
                self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        failed = f", {self.failed} failed" if self.failed else ""
        waiting = self.total - self.done - len(self.running)
        lines = [
            f"── {self.done} of {self.total} done{failed}, {len(self.running)} running, "
            f"{waiting} waiting, {_clock(now - self.begun)}"
        ]
        for run in list(self.running.values())[:ROWS]:
            lines.append(
                f"   {run.event.label:<24} {_clock(now - run.since):>8}  {run.event.job:<12} "
                f"{run.event.trial}"
            )
        width = shutil.get_terminal_size().columns - 1
        self.stream.write("".join(line[:width] + "\n" for line in lines))
        self.stream.flush()
        self.drawn = len(lines)

    def _erase(self) -> None:
        """Remove the live table, if one is drawn. The caller holds the lock."""
        if self.drawn:
            self.stream.write(f"\x1b[{self.drawn}F\x1b[J")
            self.drawn = 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
