"""The works of an evaluation-driven loop.

``NextRound`` and ``RoundEval`` each wrap another work (a backend's round, an evaluation). When they
run, they decide whether it is still needed. ``Chosen`` and ``ChosenEval`` provide the result: the
chosen round's model and its evaluation. ``mosweep.stages.loop.graph`` puts them together.
"""

from __future__ import annotations

import asyncio
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mosweep.core.errors import StageError, choices
from mosweep.core.facts import Usage
from mosweep.core.fingerprint import unkeyed
from mosweep.core.types import load_work
from mosweep.core.work import CHOSEN, EVAL, ROUND, ROUND_EVAL, Artifact, Context, Kind, Traits, Work
from mosweep.stages.loop.backend import STATE
from mosweep.stages.model import ModelSource, folder_of

__all__ = ["Chosen", "ChosenEval", "NextRound", "RoundEval"]

#: Facts about a round's own usage and job. ``chosen`` does not repeat them.
_SPENT = ("usage", "remote_job")

#: Metrics that state the uncertainty of another metric.
_UNCERTAINTY = ("stderr", "std", "var", "bootstrap_stderr")


@dataclass(frozen=True)
class _Wrapped(Work):
    """A work around an inner work.

    ``about`` defines the inner work's result and is part of the key. ``spec`` builds the inner
    work.
    """

    about: Mapping[str, Any]
    spec: Mapping[str, Any] = field(metadata=unkeyed)

    @cached_property
    def inner(self) -> Work:
        """The inner work."""
        return load_work(self.spec)

    @property
    def traits(self) -> Traits:
        """The traits of the inner work. It may not need to run."""
        return replace(self.inner.traits, may_be_trivial=True)

    def expected_usage(self, tokens: int) -> Usage | None:
        """The expected usage of the inner work."""
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
        """The traits of the inner work, with a notice for the plan."""
        notice = "rounds after the first are trained only if they are needed"
        return replace(super().traits, notice=notice)

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether an earlier round has reached the threshold."""
        return self._reached(inputs) is not None

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Train the round and return its facts.

        If an earlier round has reached the threshold, return only ``stopped`` and its number.
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
    """The evaluation of a round, with the watched score."""

    number: int
    metric: str | None

    kind: ClassVar[Kind] = ROUND_EVAL
    version: ClassVar[int] = 1

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether the round was not trained."""
        return _stopped(inputs) is not None

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Evaluate the round and return the facts with ``score``.

        Raises ``StageError`` if the evaluation has no such metric.
        """
        if (stopped := _stopped(context.inputs)) is not None:
            return {"stopped": True, "reached": stopped.facts["reached"]}
        facts = await self.inner.run(context)
        name = _watched(facts["metrics"], self.metric)
        return {**facts, "round": self.number, "watched": name, "score": facts["metrics"][name]}


def _stopped(inputs: Mapping[str, Artifact]) -> Artifact | None:
    return next((artifact for artifact in inputs.values() if artifact.facts.get("stopped")), None)


def _watched(metrics: Mapping[str, float], metric: str | None) -> str:
    """The full name of the watched metric."""
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
    """The end of a loop: the round that reached the threshold.

    With ``merged`` it also merges the round's adapter into a full model.
    """

    threshold: float
    merged: bool
    base: ModelSource | None = field(metadata=unkeyed)

    kind: ClassVar[Kind] = CHOSEN
    version: ClassVar[int] = 1

    @property
    def traits(self) -> Traits:
        """Without merging it only links files, and runs at once."""
        if self.merged:
            requires = {"torch": "local", "safetensors": "local"}
            return Traits(requires=requires, may_be_trivial=True)
        return Traits(silent=True, immediate=True, may_be_trivial=True)

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether it only links files, because nothing is merged."""
        return not self.merged

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Link the files and return the facts of the round that reached the threshold.

        Raises ``StageError``, which names the best round, if none did.
        """
        rounds = list(_rounds(context.inputs))
        rows = [
            {
                "round": number,
                "score": score.facts["score"],
                "model_id": trained.facts["model_id"],
                "lr": trained.facts.get("lr"),
            }
            for number, trained, score in rounds
        ]
        reached = next(
            (index for index, row in enumerate(rows) if row["score"] >= self.threshold), None
        )
        first_score = rounds[0][2].facts
        watched = f"{first_score['task']}/{first_score['watched']}"
        if reached is None:
            best = max(rows, key=lambda row: row["score"])
            raise StageError(
                f"{watched} reached {self.threshold:g} in none of {len(rows)} rounds; the best "
                f"is round {best['round']} with {best['score']:.4g}: {best['model_id']}"
            )
        number, trained, score = rounds[reached]
        _link_files(trained.folder, context.out, exclude=STATE)
        if self.merged:
            await self._merge(context)
        history = [model.facts for _, model, _ in rounds[: reached + 1]]
        losses = [point for past in history for point in past.get("loss", ())]
        curves = _joined([past.get("curves", {}) for past in history])
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
    """The trial's evaluation of the watched task.

    The loop has already evaluated the chosen model on it, so the result is reused.
    """

    task: str

    kind: ClassVar[Kind] = EVAL
    version: ClassVar[int] = 1
    traits: ClassVar[Traits] = Traits(silent=True, immediate=True, may_be_trivial=True)

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Always."""
        return True

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Link the files and return the facts of the chosen round's evaluation."""
        chosen = next(artifact for artifact in context.inputs.values() if artifact.kind.tunes)
        evaluation = context.inputs[f"eval {chosen.facts['round']}"]
        _link_files(evaluation.folder, context.out)
        return {
            name: value
            for name, value in evaluation.facts.items()
            if name not in ("watched", "score", *_SPENT)
        }


def _rounds(inputs: Mapping[str, Artifact]) -> list[tuple[int, Artifact, Artifact]]:
    """Number, model and evaluation of the rounds that were trained."""
    numbers = sorted(int(role.removeprefix("eval ")) for role in inputs if role.startswith("eval "))
    rounds = [(number, inputs[f"round {number}"], inputs[f"eval {number}"]) for number in numbers]
    return [
        (number, trained, score)
        for number, trained, score in rounds
        if not trained.facts.get("stopped")
    ]


def _joined(rounds: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, list[Any]]:
    """Each curve over all ``rounds``, with their points one after the other."""
    joined: dict[str, list[Any]] = {}
    for curves in rounds:
        for name, points in curves.items():
            joined.setdefault(name, []).extend(points)
    return joined


def _link_files(source: Path, target: Path, exclude: str | None = None) -> None:
    """Hard-link the files of ``source`` into ``target``, or copy them where links fail."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == source and name in (exclude, "log.txt")]

    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, ignore=ignored, dirs_exist_ok=True)
