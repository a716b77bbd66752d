"""What happened: the state of stages and trials as records and journal tell it. Recorders and
reports read only this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.types import Status
from mosweep.core.work import ROUND_EVAL, Kind

__all__ = ["Queued", "StageResult", "SweepResult", "TrialResult"]


@dataclass(frozen=True, slots=True)
class Queued:
    """What a queue, such as Slurm's, says of a stage's job: its own name of the ``state``, and why.
    Times in seconds.
    """

    job: str
    state: str
    status: Status
    reason: str = ""
    node: str = ""
    elapsed_s: float | None = None
    error: str | None = None
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage of one trial.

    ``label`` is what the trial calls it (``finetune``, ``eval:capitalization``). ``record`` is the
    published record's data (``facts``, ``files``, ``payload``, ``started``, ``finished`` …) and
    ``folder`` the artifact's; both are ``None`` until the stage succeeded. ``cached`` tells whether
    the latest launch found the stage done. ``needs`` maps roles to the keys of other stages.
    ``queue`` is what a queue says of its job, where one was asked; ``since`` is when it started
    (unix seconds), as far as the journal knows.
    """

    label: str
    kind: Kind
    key: str
    status: Status
    needs: Mapping[str, str] = field(default_factory=dict)
    cached: bool = False
    job: str | None = None
    log: Path | None = None
    error: str | None = None
    record: Mapping[str, Any] | None = field(default=None, repr=False)
    folder: Path | str | None = None
    queue: Queued | None = None
    since: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether it is a round of a loop, or the evaluation of one, that was not needed any
        more.
        """
        return bool(self.facts.get("stopped"))

    @property
    def curves(self) -> Mapping[str, Sequence[Any]]:
        """What training told at its steps, by name: the ``loss``, and other ``curves`` where there
        are any. Points of step and value.
        """
        return (
            {"loss": self.facts.get("loss", ()), **self.facts.get("curves", {})}
            if self.kind.leaves == "model"
            else {}
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """The record's facts, empty until there is one."""
        facts: Mapping[str, Any] = self.record["facts"] if self.record else {}
        return facts


@dataclass(frozen=True)
class TrialResult:
    """One trial. ``id`` is the digest of its stages' keys; ``config`` its whole resolved
    configuration.
    """

    name: str
    id: str
    factors: Mapping[str, Any]
    control: bool
    stages: tuple[StageResult, ...]
    folder: Path | str

    @cached_property
    def status(self) -> Status:
        """``failed`` if a stage failed, ``succeeded`` if all did, and so on in between."""
        seen = {stage.status for stage in self.stages}
        order: tuple[Status, ...] = ("failed", "cancelled", "running")
        for status in order:
            if status in seen:
                return status
        return "succeeded" if seen == {"succeeded"} else "pending"

    @property
    def metrics(self) -> dict[str, float]:
        """``{"<task>/<metric>": value}`` of the evaluations that succeeded."""
        return {
            f"{stage.facts['task']}/{name}": value
            for stage in self.stages
            if stage.kind.scores and stage.record
            for name, value in stage.facts["metrics"].items()
        }

    @property
    def rounds(self) -> tuple[int, int] | None:
        """Of a trial that is a loop: how many rounds were evaluated, and how many there may be."""
        scores = [stage for stage in self.stages if stage.kind == ROUND_EVAL]
        return (
            (sum(bool(stage.record) and not stage.stopped for stage in scores), len(scores))
            if scores
            else None
        )

    @cached_property
    def digest(self) -> str:
        """Changes whenever anything about the trial does: what recorders compare to know what they
        have recorded.
        """
        return fingerprint.fingerprint(
            [
                self.id,
                self.name,
                self.status,
                [
                    [s.key, s.status, s.error, s.record and s.record["artifact_digest"]]
                    for s in self.stages
                ],
            ]
        )


@dataclass(frozen=True)
class SweepResult:
    """One sweep: ``name`` of the experiment, its ``folder``, its trials, and the design and
    provenance frozen at launch.
    """

    name: str
    folder: Path
    trials: tuple[TrialResult, ...]
    design: Mapping[str, Any] = field(default_factory=dict)
