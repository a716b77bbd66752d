"""What happens while a sweep runs, as frozen events, and the interface of those who listen.

A recorder overrides the methods it cares about. Events gain fields over time; methods take the
event, so that no recorder breaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mosweep.core.results import SweepResult

__all__ = [
    "Notice",
    "Recorder",
    "Recorders",
    "StageFailed",
    "StageFinished",
    "StageQueued",
    "StageStarted",
    "SweepFinished",
    "SweepStarted",
]


@dataclass(frozen=True)
class SweepStarted:
    """A plan is about to run: so many trials, and unique stages in all, done already, and to
    run.
    """

    folder: Path
    trials: int
    total: int
    cached: int
    to_run: int


@dataclass(frozen=True)
class StageStarted:
    """A stage began. ``log`` is where its output goes, ``job`` who runs it."""

    key: str
    label: str
    trial: str
    job: str
    log: Path | None = None


@dataclass(frozen=True)
class StageFinished:
    """A stage's record is there. ``elsewhere``: another process made it while we waited.
    ``seconds`` is wall time.
    """

    key: str
    label: str
    trial: str
    job: str
    seconds: float
    elsewhere: bool = False


@dataclass(frozen=True)
class StageFailed:
    """A stage failed or was ``cancelled``; those that need it will not run and have no event.
    ``log`` is where its output went.
    """

    key: str
    label: str
    trial: str
    job: str
    error: str
    log: Path | None = None
    cancelled: bool = False


@dataclass(frozen=True)
class StageQueued:
    """A stage was given to a queue as ``job``. ``tries`` says what became of it there before."""

    key: str
    label: str
    trial: str
    job: str
    tries: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Notice:
    """Something the user should know: a queue that does not answer, jobs handed in."""

    text: str


@dataclass(frozen=True)
class SweepFinished:
    """Nothing more will run in this launch."""

    result: SweepResult


class Recorder:
    """Listens to a sweep. Every method does nothing unless overridden."""

    def sweep_started(self, event: SweepStarted) -> None:
        """Called once, before the first stage."""

    def notice(self, event: Notice) -> None:
        """Called for what should be told but concerns no one stage."""

    def stages_queued(self, events: Sequence[StageQueued]) -> None:
        """Called when stages were given to a queue, all those of one array at once."""

    def stage_started(self, event: StageStarted) -> None:
        """Called when a stage begins."""

    def stage_finished(self, event: StageFinished) -> None:
        """Called when a stage's record is there."""

    def stage_failed(self, event: StageFailed) -> None:
        """Called when a stage failed or was given up."""

    def sweep_finished(self, event: SweepFinished) -> None:
        """Called once, after the last stage, with everything that is known."""


@dataclass(frozen=True)
class Recorders(Recorder):
    """Several recorders as one, told in order."""

    members: Sequence[Recorder]

    def sweep_started(self, event: SweepStarted) -> None:
        for member in self.members:
            member.sweep_started(event)

    def notice(self, event: Notice) -> None:
        for member in self.members:
            member.notice(event)

    def stages_queued(self, events: Sequence[StageQueued]) -> None:
        for member in self.members:
            member.stages_queued(events)

    def stage_started(self, event: StageStarted) -> None:
        for member in self.members:
            member.stage_started(event)

    def stage_finished(self, event: StageFinished) -> None:
        for member in self.members:
            member.stage_finished(event)

    def stage_failed(self, event: StageFailed) -> None:
        for member in self.members:
            member.stage_failed(event)

    def sweep_finished(self, event: SweepFinished) -> None:
        for member in self.members:
            member.sweep_finished(event)
