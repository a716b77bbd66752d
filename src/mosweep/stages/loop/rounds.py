"""The stages of an evaluation-driven loop: what backends are asked to do in a round, and the works
around theirs.

``NextRound`` and ``RoundEval`` hold another work each (a backend's round, an evaluation) and
decide, when they run, whether that is still needed. ``Chosen`` and ``ChosenEval`` stand at the
end for the round that was chosen. ``stages.loop`` puts them together.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from mosweep.backends.base import Backend
from mosweep.core.errors import StageError, choices
from mosweep.core.facts import Usage
from mosweep.core.fingerprint import unkeyed
from mosweep.core.samples import SAMPLES, read_samples
from mosweep.core.types import Stage, load_work
from mosweep.core.work import CHOSEN, EVAL, ROUND, ROUND_EVAL, Artifact, Context, Kind, Traits, Work
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.datasets.rounds import Selection, failed_groups, select
from mosweep.stages.base import TrialConfig
from mosweep.stages.loop.schedule import Schedule
from mosweep.stages.model import ModelSource, folder_of

__all__ = [
    "Chosen",
    "ChosenEval",
    "HardExamples",
    "NextRound",
    "Round",
    "RoundBackend",
    "RoundEval",
    "chosen_examples",
]

#: What a round's folder has for the next round alone.
STATE = "state"

#: What a stage used and which job it was: facts that its round tells, and nobody after it.
_SPENT = ("usage", "remote_job")

#: Metrics that say how sure another one is.
_UNCERTAINTY = ("stderr", "std", "var", "bootstrap_stderr")


@dataclass(frozen=True)
class HardExamples:
    """What becomes of examples in groups of which evaluation samples failed, by scoring below
    ``threshold``; see ``datasets.rounds``.
    """

    mode: Literal["boost", "mine"]
    factor: float | None
    by: Sequence[str] | None
    metric: str | None
    threshold: float


@dataclass(frozen=True)
class Round:
    """What a backend is to do in round ``number``: ``steps`` optimizer steps, after the ``before``
    of the rounds before it.

    ``schedule`` gives the learning rate of every step of the whole run, with this round's peak.
    ``hard`` is ``None`` in the first round.
    """

    number: int
    steps: int
    before: int
    schedule: Schedule
    hard: HardExamples | None = None

    @property
    def rates(self) -> list[float]:
        """The learning rate of each of this round's steps."""
        return [self.schedule.lr(self.before + step) for step in range(1, self.steps + 1)]


class RoundBackend(Backend):
    """A backend that can train in rounds.

    ``loop_settings`` names its native setting, below ``section``, for each setting of the loop that
    says the same: ``batch_size``, ``max_seq_length``, ``use_recommended_lr``.
    """

    loop_settings: ClassVar[Mapping[str, str]] = {}

    @property
    def merges(self) -> bool:
        """Whether the chosen round's adapter is also merged into a full model."""
        return False

    @abstractmethod
    def peak_lr(self, trial: TrialConfig) -> float:
        """The peak learning rate of a fine-tune of this trial, which the first round has."""

    @abstractmethod
    def round(self, trial: TrialConfig, this: Round, previous: Stage | None) -> Stage:
        """The stage that trains ``this`` round.

        It goes on from the adapter, the optimizer's state and the place in the data that
        ``previous`` left. Its work has the kind ``ROUND`` and leaves the facts of a fine-tune. It
        finds ``previous`` among its inputs where it asked for it and, except in the first round,
        the evaluation of the round before as ``feedback`` (for ``chosen_examples``).
        """


async def chosen_examples(
    context: Context, this: Round, data: Path, count: int, seed: int
) -> tuple[JSONLDataset, dict[str, Any]]:
    """The ``count`` examples of this round in order, from the file ``data``, and the facts about
    them to leave under ``data``.
    """
    loaded = await JSONLDataset.load(data)
    examples = loaded.unique()
    previous, feedback = context.inputs.get("previous"), context.inputs.get("feedback")
    position = int(previous.facts["data"]["position"]) if previous else 0
    if this.hard is None or feedback is None:
        chosen = select(examples.samples, count, seed=seed, position=position)
    else:
        hard, samples = this.hard, read_samples(feedback.folder / SAMPLES)
        scorer = hard.metric.rpartition("/")[0] if hard.metric else None
        groups = failed_groups(samples, hard.threshold, scorer=scorer, names=hard.by)
        chosen = await asyncio.to_thread(
            select,
            examples.samples,
            count,
            seed=seed,
            position=position,
            number=this.number,
            groups=groups,
            mode=hard.mode,
            factor=hard.factor or 1.0,
        )
    return JSONLDataset(examples.samples[row] for row in chosen.rows), _about(
        chosen, len(examples), len(loaded) - len(examples)
    )


def _about(chosen: Selection, rows: int, duplicates: int) -> dict[str, Any]:
    about: dict[str, Any] = {
        "rows": rows,
        "duplicates": duplicates,
        "examples": len(chosen.rows),
        "position": chosen.position,
    }
    return about | ({"hard": chosen.hard, "groups": dict(chosen.groups)} if chosen.groups else {})


# -- the stages ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wrapped(Work):
    """A work inside a work. ``about`` is what defines the inner one's result, ``spec`` what makes
    it.
    """

    about: Mapping[str, Any]
    spec: Mapping[str, Any] = field(metadata=unkeyed)

    @cached_property
    def inner(self) -> Work:
        """The work inside."""
        return load_work(self.spec)

    @property
    def traits(self) -> Traits:
        """As the work inside, which may turn out not to be needed."""
        return replace(self.inner.traits, may_be_trivial=True)

    def expected_usage(self, tokens: int) -> Usage | None:
        """As the work inside."""
        return self.inner.expected_usage(tokens)


@dataclass(frozen=True)
class NextRound(_Wrapped):
    """A round after the first: trains unless the round before has reached the threshold."""

    number: int
    threshold: float

    kind: ClassVar[Kind] = ROUND
    version: ClassVar[int] = 1

    @property
    def traits(self) -> Traits:
        """As the work inside, with a line for the plan."""
        notice = "rounds after the first are trained only if they are needed"
        return replace(super().traits, notice=notice)

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether the threshold has been reached before."""
        return self._reached(inputs) is not None

    async def run(self, context: Context) -> Mapping[str, Any]:
        """What the round inside leaves, or ``stopped`` and the number of the round that reached the
        threshold.
        """
        reached = self._reached(context.inputs)
        return (
            await self.inner.run(context)
            if reached is None
            else {"stopped": True, "reached": reached}
        )

    def _reached(self, inputs: Mapping[str, Artifact]) -> int | None:
        before = inputs["feedback"].facts
        if before.get("stopped"):
            return int(before["reached"])
        return self.number - 1 if before["score"] >= self.threshold else None


@dataclass(frozen=True)
class RoundEval(_Wrapped):
    """The evaluation of a round, and the score that is watched."""

    number: int
    metric: str | None

    kind: ClassVar[Kind] = ROUND_EVAL
    version: ClassVar[int] = 1

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether the round was not trained."""
        return _stopped(inputs) is not None

    async def run(self, context: Context) -> Mapping[str, Any]:
        """What the evaluation leaves, and ``score``. An evaluation without the metric has
        failed.
        """
        if (stopped := _stopped(context.inputs)) is not None:
            return {"stopped": True, "reached": stopped.facts["reached"]}
        facts = await self.inner.run(context)
        name = _watched(facts["metrics"], self.metric)
        return {**facts, "round": self.number, "watched": name, "score": facts["metrics"][name]}


def _stopped(inputs: Mapping[str, Artifact]) -> Artifact | None:
    return next((artifact for artifact in inputs.values() if artifact.facts.get("stopped")), None)


def _watched(metrics: Mapping[str, float], metric: str | None) -> str:
    names = [name for name in metrics if name.rpartition("/")[2] not in _UNCERTAINTY]
    if metric is None and len(names) == 1:
        return names[0]
    if metric is None:
        raise StageError(
            f"the evaluation has {len(names)} metrics; name the one to watch with loop.metric: "
            f"{', '.join(names)}"
        )
    if metric not in metrics or not math.isfinite(metrics[metric]):
        raise StageError(
            f"loop.metric={metric}: the evaluation has no such metric; {choices(metric, names)}"
        )
    return metric


@dataclass(frozen=True)
class Chosen(Work):
    """The end of a loop: the round that reached the threshold. ``merged``: also write the full
    model, its adapter merged in.
    """

    threshold: float
    merged: bool
    base: ModelSource | None = field(metadata=unkeyed)

    kind: ClassVar[Kind] = CHOSEN
    version: ClassVar[int] = 1

    @property
    def traits(self) -> Traits:
        """Without merging, it only looks and links."""
        if self.merged:
            requires = {"torch": "local", "safetensors": "local"}
            return Traits(requires=requires, may_be_trivial=True)
        return Traits(silent=True, immediate=True, may_be_trivial=True)

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether there is nothing to merge: then it is links only."""
        return not self.merged

    async def run(self, context: Context) -> Mapping[str, Any]:
        """The facts and files of the round that reached the threshold; ``StageError`` that names
        the best one if none did.
        """
        done = list(_rounds(context.inputs))
        rows = [
            {
                "round": number,
                "score": score.facts["score"],
                "model_id": trained.facts["model_id"],
                "lr": trained.facts.get("lr"),
            }
            for number, trained, score in done
        ]
        reached = next(
            (place for place, row in enumerate(rows) if row["score"] >= self.threshold), None
        )
        watched = f"{done[0][2].facts['task']}/{done[0][2].facts['watched']}"
        if reached is None:
            best = max(rows, key=lambda row: row["score"])
            raise StageError(
                f"{watched} reached {self.threshold:g} in none of {len(rows)} rounds; the best "
                f"is round {best['round']} "
                f"with {best['score']:.4g}: {best['model_id']}"
            )
        number, trained, score = done[reached]
        _link_files(trained.folder, context.out, leave=STATE)
        if self.merged:
            await self._merge(context)
        until = [each.facts for _, each, _ in done[: reached + 1]]
        losses = [point for each in until for point in each.get("loss", ())]
        curves = _joined([each.get("curves", {}) for each in until])
        facts = {name: value for name, value in trained.facts.items() if name not in _SPENT}
        facts |= {
            "round": number,
            "score": score.facts["score"],
            "watched": watched,
            "threshold": self.threshold,
            "rounds": rows,
        }
        return facts | ({"loss": losses} if losses else {}) | ({"curves": curves} if curves else {})

    async def _merge(self, context: Context) -> None:
        from mosweep.models.lora import merge

        await asyncio.to_thread(
            merge, folder_of(context, self.base), context.out / "adapter", context.out / "merged"
        )


@dataclass(frozen=True)
class ChosenEval(Work):
    """The trial's evaluation of the task that the loop watched: it was made, of the very model that
    was chosen, and is taken as it is.
    """

    task: str

    kind: ClassVar[Kind] = EVAL
    version: ClassVar[int] = 1
    traits: ClassVar[Traits] = Traits(silent=True, immediate=True, may_be_trivial=True)

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """It always is."""
        return True

    async def run(self, context: Context) -> Mapping[str, Any]:
        """The facts and files of the chosen round's evaluation."""
        chosen = next(artifact for artifact in context.inputs.values() if artifact.kind.tunes)
        found = context.inputs[f"eval {chosen.facts['round']}"]
        _link_files(found.folder, context.out)
        return {
            name: value
            for name, value in found.facts.items()
            if name not in ("watched", "score", *_SPENT)
        }


def _rounds(inputs: Mapping[str, Artifact]) -> list[tuple[int, Artifact, Artifact]]:
    """Number, model and evaluation of the rounds that were trained."""
    numbers = sorted(int(role.removeprefix("eval ")) for role in inputs if role.startswith("eval "))
    found = [(number, inputs[f"round {number}"], inputs[f"eval {number}"]) for number in numbers]
    return [
        (number, trained, score)
        for number, trained, score in found
        if not trained.facts.get("stopped")
    ]


def _joined(rounds: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, list[Any]]:
    """Each curve over all ``rounds``: its points, one round's after the other's."""
    joined: dict[str, list[Any]] = {}
    for curves in rounds:
        for name, points in curves.items():
            joined.setdefault(name, []).extend(points)
    return joined


def _link_files(source: Path, target: Path, leave: str | None = None) -> None:
    """The files of ``source`` in ``target`` too, without taking their space again where the file
    system allows it.
    """

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == source and name in (leave, "log.txt")]

    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, ignore=ignored, dirs_exist_ok=True)
