"""The events of a running sweep, and the interface of the recorders that receive them.

A recorder overrides the methods it needs. Each method takes one event object, so a new field of an
event breaks no recorder.
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
    """A plan is about to run.

    ``total`` counts its unique stages, ``cached`` those already done, ``to_run`` the others.
    """

    folder: Path
    trials: int
    total: int
    cached: int
    to_run: int


@dataclass(frozen=True)
class StageStarted:
    """A stage has started. ``log`` is where its output goes, ``job`` is what runs it."""

    key: str
    label: str
    trial: str
    job: str
    log: Path | None = None


@dataclass(frozen=True)
class StageFinished:
    """A stage's record exists.

    ``elsewhere``: another process ran the stage while this one waited. ``seconds`` is wall time.
    """

    key: str
    label: str
    trial: str
    job: str
    seconds: float
    elsewhere: bool = False


@dataclass(frozen=True)
class StageFailed:
    """A stage failed or was ``cancelled``. ``log`` is where its output went.

    Stages that depend on it do not run and have no event.
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
    """A stage was submitted to a queue as ``job``. ``tries`` are its earlier jobs there."""

    key: str
    label: str
    trial: str
    job: str
    tries: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Notice:
    """A message for the user, such as that a queue does not answer or jobs were submitted."""

    text: str


@dataclass(frozen=True)
class SweepFinished:
    """The launch has ended."""

    result: SweepResult


class Recorder:
    """Receives the events of a sweep. Methods do nothing unless overridden."""

    def sweep_started(self, event: SweepStarted) -> None:
        """Called once, before the first stage."""

    def notice(self, event: Notice) -> None:
        """Called with a message that does not belong to a single stage."""

    def stages_queued(self, events: Sequence[StageQueued]) -> None:
        """Called when stages were submitted to a queue. A job array comes as one call."""

    def stage_started(self, event: StageStarted) -> None:
        """Called when a stage has started."""

    def stage_finished(self, event: StageFinished) -> None:
        """Called when a stage's record exists."""

    def stage_failed(self, event: StageFailed) -> None:
        """Called when a stage failed or was cancelled."""

    def sweep_finished(self, event: SweepFinished) -> None:
        """Called once, after the last stage, with the sweep's results."""


@dataclass(frozen=True)
class Recorders(Recorder):
    """Several recorders as one. Each event goes to all of them, in order."""

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
