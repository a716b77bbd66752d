"""The evaluation-driven loop: train a round, evaluate it, and so on until a score is reached. Every step is an ordinary stage.

    data → round 1 → eval 1 → round 2 → eval 2 → … → optimize → the trial's evaluations

The chain is known before anything runs, so that cache, resume, launchers and plan take it like any other. What is decided on the way is
decided inside the stages: once a round has reached the threshold, those after it leave nothing but ``{"stopped": true}``, at no cost.
``optimize`` stands for the tuned model: its facts and files are those of the round that reached the threshold. A loop in which none did
fails there, and says which round was best.

A backend that can take part has ``round`` and ``peak_lr`` (``RoundBackend``). Its works know nothing of thresholds and stopping: from
the second on, each is wrapped in ``NextRound``, which looks at the scores first. So the threshold is in no key of the first round, and
loops that differ in it share that.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from mosweep.core.errors import ConfigError, MissingExtra, StageError, choices
from mosweep.core.fingerprint import unkeyed
from mosweep.core.types import Artifact, Context, Stage, Work, load_work
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.datasets.rounds import Selection, failed_groups, select
from mosweep.stages.base import Setting
from mosweep.stages.model import ModelSource, folder_of
from mosweep.training.schedule import Schedule

__all__ = ["ChosenEval", "HardExamples", "NextRound", "Optimize", "Round", "RoundBackend", "RoundEval", "chosen_examples", "loop_stages"]

#: What a round's folder has for the next round alone.
STATE = "state"

#: What a stage used and which job it was: facts that its round tells, and nobody after it.
_SPENT = ("usage", "remote_job")

#: Metrics that say how sure another one is.
_UNCERTAINTY = ("stderr", "std", "var", "bootstrap_stderr")


@dataclass(frozen=True)
class HardExamples:
    """What becomes of examples in groups of which evaluation samples failed, by scoring below ``threshold``; see ``datasets.rounds``."""

    mode: Literal["boost", "mine"]
    factor: float | None
    by: Sequence[str] | None
    metric: str | None
    threshold: float


@dataclass(frozen=True)
class Round:
    """What a backend is to do in round ``number``: ``steps`` optimizer steps, after the ``before`` of the rounds before it.

    ``schedule`` gives the learning rate of every step of the whole run, with this round's peak. ``hard`` is ``None`` in the first round.
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


@runtime_checkable
class RoundBackend(Protocol):
    """A backend that can train in rounds."""

    def peak_lr(self, setting: Setting) -> float:
        """The peak learning rate of a fine-tune of this setting, which the first round has."""
        ...

    def round(self, setting: Setting, this: Round, previous: Stage | None) -> Stage:
        """The stage that trains ``this`` round, from the adapter, the optimizer's state and the place in the data that ``previous`` left.

        Its work has the kind ``round`` and leaves the facts of a fine-tune. It finds ``previous`` among its inputs where it asked for it,
        and, except in the first round, the evaluation of the round before as ``feedback`` (for ``chosen_examples``).
        """
        ...


async def chosen_examples(context: Context, this: Round, data: Path, count: int, seed: int) -> tuple[JSONLDataset, dict[str, Any]]:
    """The ``count`` examples of this round in order, from the file ``data``, and the facts about them to leave under ``data``."""
    loaded = await JSONLDataset.load(data)
    examples = loaded.unique()
    previous, feedback = context.inputs.get("previous"), context.inputs.get("feedback")
    position = int(previous.facts["data"]["position"]) if previous else 0
    if this.hard is None or feedback is None:
        chosen = select(examples.samples, count, seed=seed, position=position)
    else:
        hard, lines = this.hard, (feedback.folder / "samples.jsonl").read_text(encoding="utf-8").split("\n")
        scorer = hard.metric.rpartition("/")[0] if hard.metric else None
        samples = [json.loads(line) for line in lines if line]
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
    return JSONLDataset(examples.samples[row] for row in chosen.rows), _about(chosen, len(examples), len(loaded) - len(examples))


def _about(chosen: Selection, rows: int, duplicates: int) -> dict[str, Any]:
    about: dict[str, Any] = {"rows": rows, "duplicates": duplicates, "examples": len(chosen.rows), "position": chosen.position}
    return about | ({"hard": chosen.hard, "groups": dict(chosen.groups)} if chosen.groups else {})


# -- the stages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wrapped:
    """A work inside a work. ``about`` is what defines the inner one's result, ``spec`` what makes it."""

    about: Mapping[str, Any]
    spec: Mapping[str, Any] = field(metadata=unkeyed)

    @cached_property
    def inner(self) -> Work:
        """The work inside."""
        return load_work(self.spec)

    @property
    def requires(self) -> Mapping[str, str]:
        """As the work inside."""
        return getattr(self.inner, "requires", {})

    @property
    def runtime(self) -> str:
        """As the work inside."""
        return getattr(self.inner, "runtime", "")

    @property
    def silent(self) -> bool:
        """As the work inside."""
        return getattr(self.inner, "silent", False)

    @property
    def immediate(self) -> bool:
        """As the work inside."""
        return getattr(self.inner, "immediate", False)

    @property
    def remote(self) -> str | None:
        """As the work inside."""
        return getattr(self.inner, "remote", None)

    @property
    def max_concurrent(self) -> int:
        """As the work inside."""
        return getattr(self.inner, "max_concurrent", 1)

    @property
    def source(self) -> ModelSource | None:
        """As the work inside; absent where that has none."""
        found: ModelSource | None = self.inner.source  # type: ignore[attr-defined]
        return found

    @property
    def notice(self) -> str | None:
        """As the work inside."""
        return getattr(self.inner, "notice", None)

    @property
    def expected_usage(self) -> Any:
        """As the work inside: a method, or ``None``."""
        return getattr(self.inner, "expected_usage", None)

    @classmethod
    def check_access(cls, works: Sequence[_Wrapped]) -> None:
        """As the works inside."""
        inside: dict[type[Work], list[Work]] = {}
        for work in works:
            inside.setdefault(type(work.inner), []).append(work.inner)
        for kind, mine in inside.items():
            if check := getattr(kind, "check_access", None):
                check(mine)


def _wrapped(stage: Stage) -> dict[str, Any]:
    payload = stage.payload
    return {
        "about": {name: payload[name] for name in ("work", "version", "config")},
        "spec": {name: stage.spec[name] for name in ("target", "fields", "label")},
    }


@dataclass(frozen=True)
class NextRound(_Wrapped):
    """A round after the first: trains unless the round before has reached the threshold."""

    number: int
    threshold: float

    kind: ClassVar[str] = "round"
    version: ClassVar[int] = 1

    async def run(self, context: Context) -> Mapping[str, Any]:
        """What the round inside leaves, or ``stopped`` and the number of the round that reached the threshold."""
        before = context.inputs["feedback"].facts
        if before.get("stopped"):
            return {"stopped": True, "reached": before["reached"]}
        if before["score"] >= self.threshold:
            return {"stopped": True, "reached": self.number - 1}
        return await self.inner.run(context)


@dataclass(frozen=True)
class RoundEval(_Wrapped):
    """The evaluation of a round, and the score that is watched."""

    number: int
    metric: str | None

    kind: ClassVar[str] = "round-eval"
    version: ClassVar[int] = 1

    async def run(self, context: Context) -> Mapping[str, Any]:
        """What the evaluation leaves, and ``score``. An evaluation without the metric has failed."""
        for artifact in context.inputs.values():
            if artifact.facts.get("stopped"):
                return {"stopped": True, "reached": artifact.facts["reached"]}
        facts = await self.inner.run(context)
        name = _watched(facts["metrics"], self.metric)
        return {**facts, "round": self.number, "watched": name, "score": facts["metrics"][name]}


def _watched(metrics: Mapping[str, float], metric: str | None) -> str:
    names = [name for name in metrics if name.rpartition("/")[2] not in _UNCERTAINTY]
    if metric is None and len(names) == 1:
        return names[0]
    if metric is None:
        raise StageError(f"the evaluation has {len(names)} metrics; name the one to watch with loop.metric: {', '.join(names)}")
    if metric not in metrics or not math.isfinite(metrics[metric]):
        raise StageError(f"loop.metric={metric}: the evaluation has no such metric; {choices(metric, names)}")
    return metric


@dataclass(frozen=True)
class Optimize:
    """The end of a loop: the round that reached the threshold. ``merged``: also write the full model, its adapter merged in."""

    threshold: float
    merged: bool
    base: ModelSource | None = field(metadata=unkeyed)

    kind: ClassVar[str] = "optimize"
    version: ClassVar[int] = 1

    @property
    def silent(self) -> bool:
        """Whether it only looks and links."""
        return not self.merged

    @property
    def immediate(self) -> bool:
        """Whether it waits for nothing."""
        return not self.merged

    @property
    def requires(self) -> Mapping[str, str]:
        """Libraries that merging takes."""
        return {"torch": "torchtune", "safetensors": "torchtune"} if self.merged else {}

    async def run(self, context: Context) -> Mapping[str, Any]:
        """The facts and files of the round that reached the threshold; ``StageError`` that names the best one if none did."""
        done = list(_rounds(context.inputs))
        rows = [
            {"round": number, "score": score.facts["score"], "model_id": trained.facts["model_id"], "lr": trained.facts.get("lr")}
            for number, trained, score in done
        ]
        reached = next((place for place, row in enumerate(rows) if row["score"] >= self.threshold), None)
        watched = f"{done[0][2].facts['task']}/{done[0][2].facts['watched']}"
        if reached is None:
            best = max(rows, key=lambda row: row["score"])
            raise StageError(
                f"{watched} reached {self.threshold:g} in none of {len(rows)} rounds; the best is round {best['round']} "
                f"with {best['score']:.4g}: {best['model_id']}"
            )
        number, trained, score = done[reached]
        _link_files(trained.folder, context.out, leave=STATE)
        if self.merged:
            await self._merge(context)
        losses = [point for _, each, _ in done[: reached + 1] for point in each.facts.get("loss", ())]
        facts = {name: value for name, value in trained.facts.items() if name not in _SPENT}
        facts |= {"round": number, "score": score.facts["score"], "watched": watched, "threshold": self.threshold, "rounds": rows}
        return facts | ({"loss": losses} if losses else {})

    async def _merge(self, context: Context) -> None:
        from mosweep.models.lora import merge

        await asyncio.to_thread(merge, folder_of(context, self.base), context.out / "adapter", context.out / "merged")


@dataclass(frozen=True)
class ChosenEval:
    """The trial's evaluation of the task that the loop watched: it was made, of the very model that was chosen, and is taken as it is."""

    task: str

    kind: ClassVar[str] = "eval"
    version: ClassVar[int] = 1
    silent: ClassVar[bool] = True
    immediate: ClassVar[bool] = True

    async def run(self, context: Context) -> Mapping[str, Any]:
        """The facts and files of the chosen round's evaluation."""
        optimized = next(artifact for artifact in context.inputs.values() if artifact.kind == Optimize.kind)
        found = context.inputs[f"eval {optimized.facts['round']}"]
        _link_files(found.folder, context.out)
        return {name: value for name, value in found.facts.items() if name not in ("watched", "score", *_SPENT)}


def _rounds(inputs: Mapping[str, Artifact]) -> list[tuple[int, Artifact, Artifact]]:
    """Number, model and evaluation of the rounds that were trained."""
    numbers = sorted(int(role.removeprefix("eval ")) for role in inputs if role.startswith("eval "))
    found = [(number, inputs[f"round {number}"], inputs[f"eval {number}"]) for number in numbers]
    return [(number, trained, score) for number, trained, score in found if not trained.facts.get("stopped")]


def _link_files(source: Path, target: Path, leave: str | None = None) -> None:
    """The files of ``source`` in ``target`` too, without taking their space again where the file system allows it."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == source and name in (leave, "log.txt")]

    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, ignore=ignored, dirs_exist_ok=True)


# -- the chain --------------------------------------------------------------------------------------------------------


def loop_stages(setting: Setting) -> tuple[Stage, list[Stage]]:
    """The stage that stands for the tuned model, and the trial's evaluations of it. ``ConfigError`` for what cannot work."""
    config, loop = setting.config, setting.config.loop
    backend = config.backend
    if not isinstance(backend, RoundBackend):
        name = type(backend).__name__.removesuffix("Backend").lower()
        raise ConfigError("loop.enabled", "true", f"backend={name} cannot train in rounds; valid: dummy, tinker, torchtune")
    _check(setting)
    task, metric = _what_is_watched(setting)
    peak = _recommended_lr(setting) if loop.use_recommended_lr else backend.peak_lr(setting)
    if loop.min_lr > peak:
        raise ConfigError("loop.min_lr", loop.min_lr, f"is above the learning rate itself ({peak:g})")
    optim = replace(config.optim, batch_size=loop.batch_size or config.optim.batch_size)
    inner = replace(setting, config=replace(config, optim=optim))
    previous: Stage | None = None
    feedback: Stage | None = None
    chain: dict[str, Stage] = {}
    for number in range(1, loop.rounds + 1):
        before = (number - 1) * loop.steps_per_round
        this = Round(
            number,
            min(loop.steps_per_round, loop.total_steps - before),
            before,
            Schedule(max(peak * loop.lr_decay ** (number - 1), loop.min_lr), loop.min_lr, loop.warmup_steps, loop.total_steps),
            _hard(setting, metric) if feedback else None,
        )
        trained = replace(backend.round(inner, this, previous), label=f"round {number}")
        if feedback:
            work = NextRound(**_wrapped(trained), number=number, threshold=loop.threshold)
            trained = replace(trained, work=work, needs={**trained.needs, "feedback": feedback})
        scored = _evaluation(setting, task, trained)
        scored = replace(scored, label=f"eval {number}:{task}", work=RoundEval(**_wrapped(scored), number=number, metric=metric))
        chain |= {f"round {number}": trained, f"eval {number}": scored}
        previous, feedback = trained, scored
    return _end(setting, task, chain)


def _evaluation(setting: Setting, task: str, trained: Stage) -> Stage:
    stage: Stage
    try:
        [stage] = replace(setting.config.eval, tasks=[task]).stages(setting, trained)
    except ConfigError as error:
        if error.key == "task" and setting.config.loop.task is not None:
            raise ConfigError("loop.task", task, error.problem) from None
        raise
    return stage


def _end(setting: Setting, task: str, chain: Mapping[str, Stage]) -> tuple[Stage, list[Stage]]:
    first, merged = chain["round 1"], bool(getattr(setting.config.backend, "merged", False))
    made = {"model": first.needs["model"]} if merged and "model" in first.needs else {}
    work = Optimize(setting.config.loop.threshold, merged, getattr(first.work, "source", None) if merged else None)
    tuned = Stage("optimize", work, {**chain, **made}, setting.resources("optimize", computes=False))
    final = []
    for stage in setting.config.eval.stages(setting, tuned):
        if stage.label == setting.eval_label(task):
            scores = {role: need for role, need in chain.items() if role.startswith("eval ")}
            stage = replace(stage, work=ChosenEval(task), needs={**stage.needs, **scores})
        final.append(replace(stage, resources=chain["eval 1"].resources))  # the model is where the rounds' were
    return tuned, final


def _hard(setting: Setting, metric: str | None) -> HardExamples | None:
    loop = setting.config.loop
    if loop.hard_examples not in ("boost", "mine"):
        return None
    mode: Literal["boost", "mine"] = "boost" if loop.hard_examples == "boost" else "mine"
    return HardExamples(mode, loop.hard_factor if mode == "boost" else None, loop.hard_by, metric, loop.threshold)


def _check(setting: Setting) -> None:
    """Refuse settings of a fine-tune that mean nothing, or something else, in a loop."""
    optim, loop = setting.config.optim, setting.config.loop
    instead = {
        "epochs": "loop.max_rounds and loop.steps_per_round",
        "max_steps_per_epoch": "loop.steps_per_round",
        "warmup_steps": "loop.warmup_steps",
    }
    for name, other in instead.items():
        if (value := getattr(optim, name)) is not None:
            raise ConfigError(f"optim.{name}", value, f"means nothing in a loop; set {other}")
    if loop.batch_size and optim.batch_size and loop.batch_size != optim.batch_size:
        raise ConfigError("loop.batch_size", loop.batch_size, f"optim.batch_size={optim.batch_size} says otherwise; give one of them")
    if loop.use_recommended_lr and optim.lr is not None:
        raise ConfigError("loop.use_recommended_lr", "true", f"optim.lr={optim.lr:g} is given too; give one of them")


def _what_is_watched(setting: Setting) -> tuple[str, str | None]:
    """The evaluation's task, and its metric; ``None`` is its only one."""
    config, loop = setting.config, setting.config.loop
    task, metric = loop.task, loop.metric
    tasks = setting.eval_tasks(getattr(config.eval, "tasks", None))
    if config.primary_metric and not (task and metric):
        known = next((name for name in (*tasks, config.task.name) if config.primary_metric.startswith(f"{name}/")), None)
        if known and task in (None, known):
            task, metric = known, metric or config.primary_metric.removeprefix(f"{known}/")
    if task is None:
        task = config.task.name if config.task.name in tasks else tasks[0]
    return task, metric


def _recommended_lr(setting: Setting) -> float:
    """The peak learning rate that tinker-cookbook recommends for the model."""
    model = setting.config.model
    name = model.tinker or model.hub or model.name
    try:
        from tinker_cookbook.hyperparam_utils import get_lr
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker-cookbook", "tinker", "loop.use_recommended_lr") from error
    try:
        return float(get_lr(name, is_lora=True))
    except Exception as error:
        problem = f"tinker-cookbook recommends none for the model {name} ({' '.join(str(error).split())[:120]}); give optim.lr"
        raise ConfigError("loop.use_recommended_lr", "true", problem) from error
