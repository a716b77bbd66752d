"""The dry run: a backend that trains nothing and returns deterministic, simulated results.

All results are marked ``dummy``. Scores follow ``score(item) = 0.5 + effects + N(0, seed_sd) per
fine-tune + N(0, item_sd) per item``. This known distribution tests designs, statistics and failure
handling. Scores are not clipped, so they are exactly normal.

In a loop, ``backend.rounds`` gives the value that replaces 0.5 in each round. By default each
round halves the distance to 1.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mosweep.backends.base import Backend
from mosweep.backends.dummy.training import DummyTrainingRun, Failure
from mosweep.config.choices import choices_of
from mosweep.config.groups import TOP_LEVEL
from mosweep.core import fingerprint, schema
from mosweep.core.checks import Check
from mosweep.core.errors import ConfigError, StageError
from mosweep.core.schema import between
from mosweep.core.types import Stage
from mosweep.core.work import FINETUNE, ROUND, Artifact, Context, Kind, Traits, Work
from mosweep.stages.base import TrialConfig
from mosweep.stages.data import training_content
from mosweep.stages.loop.backend import Round, RoundBackend
from mosweep.stages.loop.schedule import Schedule

__all__ = ["DummyBackend", "DummyFinetune", "DummyRound"]

#: Mean score of the untouched base model.
BASELINE = 0.5
#: Learning rate of a simulated loop if ``optim.lr`` is not set.
LR = 1e-3

_IMMEDIATE = Traits(silent=True, immediate=True)
_SLOW = Traits(silent=True)


@dataclass(frozen=True, slots=True)
class DummyFinetune(Work):
    """Simulates a fine-tune. ``setting`` holds the settings that a real backend would receive."""

    model: str
    dataset: str
    task: str
    setting: Mapping[str, Any]
    shift: float
    delay_s: float
    fail: Failure
    item_sd: float
    seed_sd: float

    kind: ClassVar[Kind] = FINETUNE
    version: ClassVar[int] = 1

    def reads(self, role: str, artifact: Artifact) -> Any:
        """Of the data set, only what is trained on."""
        return training_content(artifact) if role == "data" else artifact.digest

    @property
    def traits(self) -> Traits:
        """Immediate, unless it waits or ends its process."""
        return _IMMEDIATE if self.delay_s == 0 and self.fail in ("none", "raise") else _SLOW

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Wait, fail if configured to, and record the true mean that evaluations sample from."""
        model_id = f"dummy/{self.model}@{context.key[:12]}"
        await DummyTrainingRun(context.key[:12], model_id, self.delay_s, self.fail).wait()
        noise = random.Random(f"finetune {context.key}").gauss(0.0, self.seed_sd)
        return {
            "dummy": True,
            "model_id": model_id,
            "model": self.model,
            "dataset": {"name": self.dataset},
            "mean": BASELINE + self.shift + noise,
            "item_sd": self.item_sd,
        }


@dataclass(frozen=True, slots=True)
class DummyRound(DummyFinetune):
    """Simulates a round of a loop. ``plan`` is the round's plan. ``level`` is its mean score."""

    plan: Mapping[str, Any]
    level: float

    kind: ClassVar[Kind] = ROUND

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Simulate a fine-tune, with the learning rates of the round's steps.

        The step count continues from the previous round.
        """
        facts = await DummyFinetune.run(self, context)
        previous, plan = context.inputs.get("previous"), self.plan
        done = previous.facts["steps_done"] if previous else 0
        if done != plan["before"]:
            raise StageError(
                f"round {plan['number']} starts after {plan['before']} steps, but the previous "
                f"round ended after {done}"
            )
        schedule = Schedule(**plan["schedule"])
        rates = [schedule.lr(done + step) for step in range(1, plan["steps"] + 1)]
        facts = {
            **facts,
            "mean": facts["mean"] - BASELINE + self.level,
            "round": plan["number"],
            "steps": plan["steps"],
        }
        return facts | {
            "steps_done": done + plan["steps"],
            "lr": {"peak": schedule.peak, "first": rates[0], "last": rates[-1]},
        }


def _effects(given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Pairs of ``factor=level`` and shift, from ``{lora.rank=64: 0.2}``.

    The command line can only express the nested form ``{lora.rank: {64: 0.2}}``.
    """
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _effects(value, f"{prefix}.{key}" if prefix else key)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"effects.{key}", value, "expected a number, the shift of the metric")
        elif prefix or "=" in key:
            yield (f"{prefix}={key}" if prefix else key), float(value)
        else:
            raise ConfigError(
                f"effects.{key}", value, "expected factor=level as the key, such as lora.rank=64"
            )


@dataclass(frozen=True)
class DummyBackend(RoundBackend):
    """The group ``backend=dummy``. ``like`` names the backend that it imitates."""

    stands_in: ClassVar[bool] = True

    delay_s: float = field(default=0.0, metadata=between(ge=0))
    """Duration of a simulated fine-tune, in seconds."""
    fail: Failure = "none"
    """How a fine-tune fails: ``none``, ``raise``, ``exit``, ``oom`` or ``hang``."""
    effects: Mapping[str, Any] | None = None
    """Shift of the metric at a level of a factor: ``{lora.rank=64: 0.2}``."""
    item_sd: float = field(default=0.1, metadata=between(ge=0))
    """Standard deviation between items."""
    seed_sd: float = field(default=0.02, metadata=between(ge=0))
    """Standard deviation between fine-tunes that differ only in their seed."""
    rounds: Sequence[float] | None = None
    """In a loop, the score after each round. The last value repeats."""
    like: str | None = None
    """The section of the backend that it imitates."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "effects", dict(_effects(self.effects or {})))
        if self.rounds is not None and not self.rounds:
            raise ConfigError(
                "rounds",
                "[]",
                "expected the score after each round, such as [0.4, 0.7, 0.9]; the last value "
                "repeats",
            )

    def finetune(self, trial: TrialConfig) -> Stage:
        """The fine-tuning stage of a trial."""
        if self.rounds is not None:
            problem = "applies to loops only: set loop.enabled=true"
            raise ConfigError("backend.rounds", list(self.rounds), problem)
        return Stage(
            "finetune",
            DummyFinetune(**self._fields(trial)),
            resources=trial.resources("finetune"),
        )

    def peak_lr(self, trial: TrialConfig) -> float:
        """``optim.lr``, or else ``LR``."""
        return trial.config.optim.lr or LR

    def round(self, trial: TrialConfig, this: Round, previous: Stage | None) -> Stage:
        """A round of a loop."""
        levels, number = self.rounds, this.number
        level = (
            levels[min(number, len(levels)) - 1]
            if levels
            else 1 - (1 - BASELINE) * 0.5 ** (number - 1)
        )
        loop = trial.config.loop
        shown = {name: getattr(loop, name) for name in ("max_seq_length", "renderer")}
        work = DummyRound(**self._fields(trial), plan={**schema.plain(this), **shown}, level=level)
        return Stage(
            "round", work, {"previous": previous} if previous else {}, trial.resources("finetune")
        )

    def _native(self, trial: TrialConfig) -> dict[str, Any]:
        """The native settings of all backends, checked by the backends."""
        sections: dict[str, Any] = {self.like: {}} if self.like else {}
        given = {name: value for name, value in trial.config.native.items() if value}
        for kind in choices_of("backend").values() if given else ():
            if issubclass(kind, Backend) and kind.section in given:
                schema.build(kind, {}, "backend").check_native(trial)
                sections[kind.section] = given[kind.section]
        return sections

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """Always passes."""
        yield Check("backend=dummy", True, "needs nothing")

    def _shift(self, trial: TrialConfig) -> float:
        """The sum of the effects at the trial's levels.

        Raises ``ConfigError`` for a factor that does not exist.
        """
        for level in self.effects or {}:
            factor = level.partition("=")[0]
            if not trial.has(factor) and factor.partition(".")[0] in TOP_LEVEL:
                raise ConfigError(f"backend.effects.{level}", "…", f"no such setting: {factor}")
        effects: Mapping[str, float] = self.effects or {}
        return sum(shift for level, shift in effects.items() if trial.at_level(level))

    def _fields(self, trial: TrialConfig) -> dict[str, Any]:
        """The fields of a ``DummyFinetune``."""
        config = trial.config
        native = self._native(trial)
        return {
            "model": config.model.name,
            "dataset": config.dataset.name,
            "task": config.task.name,
            "setting": {
                # The canonical form excludes the folder of the model.
                "model": fingerprint.canonical(config.model, "model"),
                "lora": config.lora.in_force,
                "optim": config.optim,
                "seed": config.seed,
                **native,
                "dataset_path": config.dataset.path,
            },
            "shift": self._shift(trial),
            "delay_s": self.delay_s,
            "fail": self.fail,
            "item_sd": self.item_sd,
            "seed_sd": self.seed_sd,
        }
