"""Estimates of a plan's time and cost, from the records of similar stages.

Stages are similar if they have the same kind, model and size (steps, items) and, for evaluations,
the same task. Time and cost also depend on rank, data set and machine, so an estimate is the range
from the least to the most on record. It is unknown without a record. The cost of a stage is that of
the tokens of similar stages, at the prices of ``prices``. Similar fine-tunes also have the same
data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.cost.prices import Usage, cost, quote, usages
from mosweep.sweep.plan import Plan

__all__ = [
    "Cost",
    "Estimate",
    "Experience",
    "Range",
    "estimate",
    "gpus",
    "likeness",
    "newest",
    "provider",
]

#: Maximum number of records that are read, newest first.
MAX_RECORDS = 2000

#: Characters per token, for text whose tokens are not counted yet.
CHARS = 4


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, most likely ``expected``."""

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The range of measured values."""
        return cls(min(values), sum(values) / len(values), max(values))

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


@dataclass(frozen=True)
class Cost:
    """The cost of a stage in USD, or ``None`` and ``why`` it is unknown.

    With ``about`` it is derived from the length of the data, not from measured tokens. ``models``
    are the providers and their models.
    """

    usd: Range | None
    about: bool = False
    models: frozenset[tuple[str, str]] = frozenset()
    why: str = ""


@dataclass(frozen=True)
class Estimate:
    """The time and cost of a plan's missing stages. ``None`` is unknown.

    - ``seconds``: the total compute time. ``gpu_hours``: the same, times the
      GPUs that they request, or that similar stages had.
    - ``labels``: the seconds of one stage of each label. ``unknown``: labels without records.
    - ``usd``: what providers will charge. It is also ``None`` if no provider is used.
    - ``usd_unknown``: stages whose cost is unknown, and why. ``usd_about``: stages whose cost is
      derived from the length of their data. ``prices_as_of``: the oldest date of the prices.
    """

    seconds: Range | None
    gpu_hours: Range | None
    labels: Mapping[str, Range] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    usd: Range | None = None
    usd_unknown: tuple[str, ...] = ()
    usd_about: tuple[str, ...] = ()
    prices_as_of: str | None = None


@dataclass(frozen=True)
class _Took:
    """The time and tokens of a stage on record."""

    seconds: float
    device: str
    used: tuple[Usage, ...]
    usd: float | None


class Experience:
    """The time and cost of similar stages: those in the store, and those of the running launch."""

    def __init__(self, stages: Iterable[Stage], store: Store) -> None:
        self.store = store
        self._like = {stage.key: likeness(stage.payload) for stage in stages}
        self._took: dict[str, list[_Took]] = {}
        likenesses = set(self._like.values())
        for data in newest(store) if likenesses else ():
            if likeness(data["payload"]) in likenesses:
                self._note(data["payload"], data)

    def learn(self, stage: Stage) -> None:
        """Add ``stage``, which has just succeeded."""
        record = self.store.read(stage.key)
        if record is not None:
            self._note(stage.payload, record.data)

    def _note(self, payload: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        if "started" in data and "finished" in data:
            facts, used = data["facts"], tuple(usages(data["facts"]))
            took = _Took(
                float(data["finished"]) - float(data["started"]),
                str(facts.get("device", "")),
                used,
                cost(used),
            )
            self._took.setdefault(likeness(payload), []).append(took)
            self._took.setdefault(likeness(payload, data=True), []).append(took)

    def seconds(self, stage: Stage) -> list[float]:
        """The seconds of each similar stage."""
        return [took.seconds for took in self._took.get(self._like[stage.key], ())]

    def gpu_hours(self, stage: Stage) -> Range | None:
        """The stage's GPU-hours, 0 if it requests no GPU, or ``None`` if they are unknown."""
        took = self._took.get(self._like[stage.key])
        if not took:
            return Range() if stage.resources.gpus == 0 else None
        return Range.of([gpus(stage, past.device) * past.seconds / 3600 for past in took])

    def cost(self, stage: Stage) -> Cost:
        """The stage's cost, 0 if it uses no provider."""
        took = self._took.get(likeness(stage.payload, data=True)) or []
        if not took and not stage.kind.trains:
            took = self._took.get(self._like[stage.key]) or []
        if took:
            costs = [past.usd for past in took if past.usd is not None]
            if len(costs) == len(took):
                return Cost(Range.of(costs))
            return Cost(None, why=_unpriced(used for past in took for used in past.used))
        if provider(stage) is None:
            return Cost(Range())
        return self._by_length(stage)

    def _by_length(self, stage: Stage) -> Cost:
        """The cost of a fine-tune by the length of its data. See ``Work.expected_usage``."""
        data = stage.needs.get("data")
        record = self.store.read(data.key) if data else None
        length = _length(record.folder / str(record.facts.get("folder", ""))) if record else 0
        usage = stage.work.expected_usage(length // CHARS)
        if data is None or usage is None:
            return Cost(None, why="no similar stage has run yet")
        if record is None:
            return Cost(None, why="no similar stage has run yet, and its data set is not built yet")
        usd = cost([usage])
        models = frozenset([(usage.provider, usage.model)])
        return (
            Cost(Range(usd, usd, usd), about=True, models=models)
            if usd is not None
            else Cost(None, why=_unpriced([usage]))
        )

    def models(self, stage: Stage) -> set[tuple[str, str]]:
        """The providers and models that similar stages used."""
        return {
            (used.provider, used.model)
            for took in self._took.get(self._like[stage.key], ())
            for used in took.used
        }


def estimate(plan: Plan, store: Store) -> Estimate:
    """The time and cost of ``plan.to_run``, by the records in ``store``."""
    experience = Experience(plan.to_run, store)
    by_group: dict[tuple[Any, ...], tuple[Range | None, Range | None, Cost]] = {}
    seconds, gpu_hours, usd = Range(), Range(), Range()
    labels: dict[str, list[float]] = {}
    unknown: dict[str, None] = {}
    usd_unknown: dict[str, None] = {}
    usd_about: dict[str, None] = {}
    models: set[tuple[str, str]] = set()
    unknown_gpu = paid = False
    for stage in plan.to_run:
        group = (
            stage.label,
            likeness(stage.payload, data=True),
            stage.resources.gpus,
            provider(stage),
        )
        if group not in by_group:
            times = experience.seconds(stage)
            if times:
                labels.setdefault(stage.label, []).extend(times)
            by_group[group] = (
                Range.of(times) if times else None,
                experience.gpu_hours(stage),
                experience.cost(stage),
            )
            models |= experience.models(stage) | by_group[group][2].models
        stage_seconds, stage_gpu_hours, stage_cost = by_group[group]
        seconds += stage_seconds or Range()
        if stage_seconds is None:
            unknown[_named(stage)] = None
        gpu_hours += stage_gpu_hours or Range()
        unknown_gpu |= stage_gpu_hours is None
        paid |= provider(stage) is not None
        usd += stage_cost.usd or Range()
        if stage_cost.usd is None:
            usd_unknown[f"{_named(stage)}: {stage_cost.why}"] = None
        if stage_cost.about:
            usd_about[_named(stage)] = None
    dates = {price.as_of for model in models if (price := quote(*model))}
    return Estimate(
        None if unknown else seconds,
        None if unknown_gpu else gpu_hours,
        {label: Range.of(times) for label, times in labels.items()},
        tuple(unknown),
        usd if (paid or models) and not usd_unknown else None,
        tuple(usd_unknown),
        tuple(usd_about),
        min(dates, default=None),
    )


def provider(stage: Stage) -> str | None:
    """The provider that charges for the stage's tokens, if any."""
    return stage.work.traits.provider


def gpus(stage: Stage, device: str) -> float:
    """The number of GPUs that the stage occupies.

    It is what the stage requests, or else derived from the ``device`` that it, or a similar stage,
    ran on.
    """
    requested = stage.resources.gpus
    return float(requested) if requested is not None else float(device.startswith("cuda"))


#: The settings that decide how long a stage takes. All others may differ between similar stages.
_SIZE = (
    "architecture",
    "delay_s",
    "epochs",
    "items",
    "max_steps",
    "method",
    "model",
    "n_epochs",
    "source",
    "task",
)

#: The fields of works that have native settings.
_NATIVE = ("config", "settings", "recipe")

#: The native settings that decide how long a stage takes.
_NATIVE_SIZE = ("batch_size", "epochs", "max_steps", "max_steps_per_epoch", "n_epochs")


def likeness(payload: Mapping[str, Any], *, data: bool = False) -> str:
    """A text that is the same for similar stages. With ``data`` they also have the same data."""
    inner = payload["config"].get("about") or payload  # A round of a loop wraps a work.
    config = inner["config"]
    native: Mapping[str, Any] = next(
        (config[name] for name in _NATIVE if isinstance(config.get(name), Mapping)), {}
    )
    sizes = [config.get(name) for name in _SIZE] + [native.get(name) for name in _NATIVE_SIZE]
    sizes.append((config.get("plan") or {}).get("steps"))
    base = None if isinstance(config.get("model"), str) else payload["inputs"].get("model")
    data_keys = [payload["inputs"].get("data")] if data else []
    return json.dumps(
        [payload["kind"], inner["work"], base, *sizes, *data_keys], sort_keys=True, default=str
    )


def newest(store: Store) -> Iterator[dict[str, Any]]:
    """The latest records, whole and unchecked."""
    paths = sorted(
        (path for path in (store.root / "records").glob("?/*.json")),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in paths[:MAX_RECORDS]:
        try:
            yield store.unchecked(path.stem)
        except (OSError, ValueError):
            continue


@cache
def _length(folder: Path) -> int:
    """The number of characters of the messages in the training data."""
    length = 0
    with open(folder / "train.jsonl", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                length += sum(
                    len(str(message.get("content") or ""))
                    for message in json.loads(line).get("messages", ())
                )
    return length


def _unpriced(used: Iterable[Usage]) -> str:
    """A message that names the models without a price."""
    models = sorted({f"{usage.provider}/{usage.model}" for usage in used if cost([usage]) is None})
    return f"no price for {', '.join(models)} in recipes/prices.yaml"


def _named(stage: Stage) -> str:
    """The stage's label, with its model if it has one."""
    config = stage.payload["config"]
    source = config.get("source")
    model = config.get("model") or (source.get("inspect") if isinstance(source, Mapping) else None)
    return f"{stage.label} of {model}" if isinstance(model, str) else stage.label
