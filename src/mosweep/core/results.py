"""The results of a sweep: the state of its stages and trials, for recorders and reports."""

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
    """The state of a stage's job in a queue such as Slurm's.

    ``state`` and ``reason`` are as the queue reports them. Times are in seconds.
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
    - ``record``: the data of its record (``facts``, ``started``, ``finished`` …). ``folder`` is the
      artifact's folder. Both are ``None`` until the stage has succeeded.
    - ``cached``: whether it was done before the latest launch.
    - ``needs``: the keys of the stages that it needs, by role.
    - ``queue``: the state of its job in a queue, if a queue was polled.
    - ``since``: when it started, in seconds since 1970, if the journal knows.
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
        """The record's facts, empty until there is a record. The properties below type them."""
        facts: Mapping[str, Any] = self.record["facts"] if self.record else {}
        return facts

    @property
    def base(self) -> BaseFacts | None:
        """The base model that it generated."""
        generated = self._left("model") and self.kind.given
        return self._facts(BaseFacts) if generated else None

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
        """The number and score of the round of a loop that it evaluated."""
        return RoundFacts.of(self.facts) if self.of_round and self.evaluation else None

    @property
    def of_round(self) -> bool:
        """Whether it evaluates a round of a loop, or would if the round were needed."""
        return self.kind.optional and self.kind.leaves == "scores"

    @property
    def stopped(self) -> bool:
        """Whether it belongs to a round that the loop did not need."""
        return bool(self.facts.get("stopped"))

    @property
    def pretended(self) -> bool:
        """Whether its result is from a dry run: nothing was trained or measured."""
        return bool(self.facts.get("dummy"))

    @property
    def task(self) -> str:
        """The name of the task that it evaluates."""
        evaluation = self.evaluation
        return evaluation.task if evaluation else self.label.removeprefix("eval:")

    @property
    def curves(self) -> Mapping[str, Sequence[Any]]:
        """Points of step and value, by name: the training ``loss`` and other ``curves``."""
        model = self.model
        return {"loss": model.loss, **model.curves} if model else {}

    @property
    def samples(self) -> Samples | None:
        """Its scores item by item, or ``None`` if it has no samples. They are read once."""
        if self._samples is ...:
            evaluated = self.folder is not None and self._left("scores")
            object.__setattr__(
                self, "_samples", Samples.read(Path(str(self.folder))) if evaluated else None
            )
        samples: Samples | None = self._samples
        return samples

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
        """``succeeded`` if all stages are, or the first of failed, cancelled, running, pending."""
        statuses = {stage.status for stage in self.stages}
        order: tuple[Status, ...] = ("failed", "cancelled", "running")
        for status in order:
            if status in statuses:
                return status
        return "succeeded" if statuses == {"succeeded"} else "pending"

    @property
    def evaluations(self) -> Iterator[tuple[StageResult, EvalFacts]]:
        """The evaluations that succeeded, with their facts. Those within a loop are left out."""
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

    @cached_property
    def stderrs(self) -> dict[str, float]:
        """The standard errors of those ``metrics`` that have one, by the metric's name."""
        return {
            f"{evaluation.task}/{name}": error
            for _, evaluation in self.evaluations
            for name in evaluation.metrics
            if (error := evaluation.stderr_of(name)) is not None
        }

    @cached_property
    def undefined(self) -> dict[str, str]:
        """``{"<task>/<metric>": reason}`` of the metrics that have no value."""
        return {
            f"{evaluation.task}/{name}": why
            for _, evaluation in self.evaluations
            for name, why in evaluation.undefined.items()
        }

    @property
    def pretended(self) -> bool:
        """Whether any of its results is from a dry run."""
        return any(stage.pretended for stage in self.stages)

    @property
    def rounds(self) -> tuple[int, int] | None:
        """In a loop: how many rounds were evaluated, and how many are possible."""
        rounds = [stage for stage in self.stages if stage.of_round]
        return (sum(bool(stage.evaluation) for stage in rounds), len(rounds)) if rounds else None

    @cached_property
    def digest(self) -> str:
        """A digest that changes whenever the trial does. Recorders compare it with their own."""
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
        """The control trials, which evaluate an untuned base model."""
        return tuple(trial for trial in self.trials if trial.control)

    @property
    def pretended(self) -> bool:
        """Whether any result is from a dry run."""
        return any(stage.pretended for stage in self.stages.values())

    def controls_of(self, trial: TrialResult) -> list[TrialResult]:
        """The control trials that evaluate the base model of ``trial``.

        All their levels are also levels of ``trial``. The first one shares the most levels.
        """
        if trial.control:
            return []
        levels = self._levels[trial.name].items()
        matching = [
            control for control in self.controls if self._levels[control.name].items() <= levels
        ]
        return sorted(matching, key=lambda control: len(control.factors), reverse=True)

    @cached_property
    def _levels(self) -> dict[str, dict[str, str]]:
        return {
            trial.name: {name: level_text(level) for name, level in trial.factors.items()}
            for trial in self.trials
        }
