"""The state of stages and trials, from records and journal: what recorders and reports read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mosweep.core import fingerprint
from mosweep.core.facts import BaseFacts, DataFacts, EvalFacts, ModelFacts, RoundFacts
from mosweep.core.levels import level_text
from mosweep.core.samples import Samples
from mosweep.core.types import Status
from mosweep.core.work import Kind

__all__ = ["Queued", "StageResult", "SweepResult", "TrialResult"]

_F = TypeVar("_F", BaseFacts, DataFacts, ModelFacts, EvalFacts)


@dataclass(frozen=True, slots=True)
class Queued:
    """What a queue, such as Slurm's, says of a stage's job.

    ``state`` is the queue's own word, ``reason`` says why. Times are in seconds.
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

    - ``label``: its name in the trial, such as ``finetune`` or ``eval:capitalization``.
    - ``record``: the data of its record (``facts``, ``started``, ``finished`` …), and ``folder``
      the artifact's folder; both are ``None`` until the stage has succeeded.
    - ``cached``: whether it was done before the latest launch.
    - ``needs``: the keys of other stages, by role.
    - ``queue``: what a queue says of its job, if one was asked.
    - ``since``: when it started, in seconds since 1970, as far as the journal knows.
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
    _typed: Any = field(default=None, init=False, repr=False, compare=False)
    _samples: Any = field(default=..., init=False, repr=False, compare=False)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The record's facts, empty until there is one. They are typed below."""
        facts: Mapping[str, Any] = self.record["facts"] if self.record else {}
        return facts

    @property
    def base(self) -> BaseFacts | None:
        """The base model that it made."""
        made = self._left("model") and self.kind.given
        return self._facts(BaseFacts) if made else None

    @property
    def dataset(self) -> DataFacts | None:
        """The data set that it built."""
        return self._facts(DataFacts) if self._left("data") else None

    @property
    def model(self) -> ModelFacts | None:
        """The model that it trained."""
        trained = self._left("model") and self.kind.trains
        return self._facts(ModelFacts) if trained else None

    @property
    def evaluation(self) -> EvalFacts | None:
        """Its scores."""
        return self._facts(EvalFacts) if self._left("scores") else None

    @property
    def round(self) -> RoundFacts | None:
        """The number and score of the round that it evaluated, in a loop."""
        return RoundFacts.of(self.facts) if self.of_round and self.evaluation else None

    @property
    def of_round(self) -> bool:
        """Whether it evaluates a round of a loop, or would if the round were needed."""
        return self.kind.optional and self.kind.leaves == "scores"

    @property
    def stopped(self) -> bool:
        """Whether it is part of a round of a loop that was not needed any more."""
        return bool(self.facts.get("stopped"))

    @property
    def pretended(self) -> bool:
        """Whether it made its result up: nothing was trained or measured."""
        return bool(self.facts.get("dummy"))

    @property
    def task(self) -> str:
        """The name of the task that it evaluates."""
        known = self.evaluation
        return known.task if known else self.label.removeprefix("eval:")

    @property
    def curves(self) -> Mapping[str, Sequence[Any]]:
        """Points of step and value by name: the training ``loss`` and other ``curves``."""
        model = self.model
        return {"loss": model.loss, **model.curves} if model else {}

    @property
    def samples(self) -> Samples | None:
        """Its scores item by item, read once; ``None`` if it left no samples."""
        if self._samples is ...:
            left = self.folder is not None and self._left("scores")
            samples = Samples.read(Path(str(self.folder))) if left else None
            object.__setattr__(self, "_samples", samples)
        read: Samples | None = self._samples
        return read

    @property
    def seconds(self) -> float | None:
        """How long it ran; ``None`` if that is unknown."""
        record = self.record
        if record is None or "started" not in record or "finished" not in record:
            return None
        return float(record["finished"] - record["started"])

    def _left(self, what: str) -> bool:
        return self.record is not None and self.kind.leaves == what and not self.stopped

    def _facts(self, kind: type[_F]) -> _F:
        if self._typed is None:
            object.__setattr__(self, "_typed", kind.of(self.facts))
        typed: _F = self._typed
        return typed


@dataclass(frozen=True)
class TrialResult:
    """One trial. ``id`` is the digest of its stages' keys; ``factors`` are its levels."""

    name: str
    id: str
    factors: Mapping[str, Any]
    control: bool
    stages: tuple[StageResult, ...]
    folder: Path | str

    @cached_property
    def status(self) -> Status:
        """``succeeded`` if all are, else the first of failed, cancelled, running, pending."""
        seen = {stage.status for stage in self.stages}
        order: tuple[Status, ...] = ("failed", "cancelled", "running")
        for status in order:
            if status in seen:
                return status
        return "succeeded" if seen == {"succeeded"} else "pending"

    @property
    def evaluations(self) -> Iterator[tuple[StageResult, EvalFacts]]:
        """The evaluations that succeeded, with what they measured; not those within a loop."""
        for stage in self.stages:
            if stage.kind.scores and (evaluation := stage.evaluation):
                yield stage, evaluation

    @cached_property
    def metrics(self) -> dict[str, float]:
        """``{"<task>/<metric>": value}`` of the evaluations that succeeded."""
        return {
            f"{evaluation.task}/{name}": value
            for _, evaluation in self.evaluations
            for name, value in evaluation.metrics.items()
        }

    @property
    def pretended(self) -> bool:
        """Whether any of its results is made up."""
        return any(stage.pretended for stage in self.stages)

    @property
    def rounds(self) -> tuple[int, int] | None:
        """In a loop: how many rounds were evaluated, and how many are possible."""
        rounds = [stage for stage in self.stages if stage.of_round]
        return (sum(bool(stage.evaluation) for stage in rounds), len(rounds)) if rounds else None

    @cached_property
    def digest(self) -> str:
        """Changes whenever the trial does. Recorders compare it with what they have recorded."""
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
    """One sweep: name, folder, trials, and the design (with provenance) frozen at launch."""

    name: str
    folder: Path
    trials: tuple[TrialResult, ...]
    design: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def stages(self) -> dict[str, StageResult]:
        """The stages of all trials, each once, by key."""
        return {stage.key: stage for trial in self.trials for stage in trial.stages}

    @cached_property
    def tuned(self) -> tuple[TrialResult, ...]:
        """The trials with a trained model."""
        return tuple(trial for trial in self.trials if not trial.control)

    @cached_property
    def controls(self) -> tuple[TrialResult, ...]:
        """The control trials, which evaluate an untouched base model."""
        return tuple(trial for trial in self.trials if trial.control)

    @property
    def pretended(self) -> bool:
        """Whether any result is made up."""
        return any(stage.pretended for stage in self.stages.values())

    def controls_of(self, trial: TrialResult) -> list[TrialResult]:
        """The control trials that evaluate the base model of ``trial``.

        ``trial`` has all their levels. The first of them shares the most.
        """
        if trial.control:
            return []
        levels = self._levels[trial.name]
        fitting = [one for one in self.controls if self._levels[one.name].items() <= levels.items()]
        return sorted(fitting, key=lambda control: len(control.factors), reverse=True)

    @cached_property
    def _levels(self) -> dict[str, dict[str, str]]:
        return {
            trial.name: {name: level_text(level) for name, level in trial.factors.items()}
            for trial in self.trials
        }
