"""What a plan will take, from records of like stages: an honest range, or unknown.

Stages are alike if they are of one kind, on one model, of one size (steps, items) and, for evaluations, of one task. What like stages took
is no promise, for another rank, data set or machine moves it: the range is from the quickest to the slowest of those on record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from mosweep.config import Budget
from mosweep.core.errors import UserError
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.plan import Plan

__all__ = ["Estimate", "Range", "check_budget", "estimate"]

#: At most this many records are looked at, the newest first.
LOOK_AT = 2000


@dataclass(frozen=True)
class Range:
    """From ``low`` to ``high``, most likely ``expected``."""

    low: float = 0.0
    expected: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The range of what was measured."""
        return cls(min(values), sum(values) / len(values), max(values))

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


@dataclass(frozen=True)
class Estimate:
    """What the missing stages of a plan will take; ``None`` where that is unknown.

    ``seconds``: computing time of all, one after the other; ``gpu_hours``: the same by the GPUs that they ask for, or that like ones had;
    ``labels``: seconds of one stage of each label; ``unknown``: of what there is no record.
    """

    seconds: Range | None
    gpu_hours: Range | None
    labels: Mapping[str, Range] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def estimate(plan: Plan, store: Store) -> Estimate:
    """What ``plan.to_run`` will take, by the records in ``store``."""
    wanted = {stage.key: _likeness(stage.payload) for stage in plan.to_run}
    took = _on_record(store, set(wanted.values())) if wanted else {}
    seconds: list[Range] = []
    gpu_hours: list[Range] = []
    labels: dict[str, list[float]] = {}
    unknown: dict[str, None] = {}
    unknown_gpu = False
    for stage in plan.to_run:
        known = took.get(wanted[stage.key])
        if not known:
            unknown[_named(stage)] = None
            unknown_gpu |= stage.resources.gpus != 0
            continue
        times = [each for each, _ in known]
        seconds.append(Range.of(times))
        gpu_hours.append(Range.of([_gpus(stage, device) * each / 3600 for each, device in known]))
        labels.setdefault(stage.label, []).extend(times)
    return Estimate(
        None if unknown else sum(seconds, Range()),
        None if unknown_gpu else sum(gpu_hours, Range()),
        {label: Range.of(times) for label, times in labels.items()},
        tuple(unknown),
    )


def check_budget(plan: Plan, store: Store, budget: Budget) -> None:
    """``UserError`` if the plan may take more than the budget, or if that cannot be known."""
    if budget.gpu_hours is None or not plan.to_run:
        return
    found = estimate(plan, store)
    if found.gpu_hours is None:
        raise UserError(
            f"budget.gpu_hours={budget.gpu_hours:g}: what {', '.join(found.unknown)} will take is unknown, no like stage is on record; "
            "run one such trial first, or launch without a budget"
        )
    if found.gpu_hours.high > budget.gpu_hours:
        raise UserError(
            f"budget.gpu_hours={budget.gpu_hours:g}: {len(plan.to_run)} stages may take {found.gpu_hours.low:.3g} to "
            f"{found.gpu_hours.high:.3g} GPU-hours by like stages on record; nothing was started"
        )


#: Settings that decide how long a stage takes; all others may differ among like stages.
_SIZE = ("architecture", "delay_s", "items", "model", "source", "task")
_NATIVE_SIZE = ("batch_size", "epochs", "max_steps_per_epoch")


def _likeness(payload: Mapping[str, Any]) -> str:
    """What stages share that take about as long."""
    config = payload["config"]
    native = config.get("config") if isinstance(config.get("config"), Mapping) else {}
    sizes = [config.get(name) for name in _SIZE] + [native.get(name) for name in _NATIVE_SIZE]
    base = None if isinstance(config.get("model"), str) else payload["inputs"].get("model")
    return json.dumps([payload["kind"], payload["work"], base, *sizes], sort_keys=True, default=str)


def _on_record(store: Store, wanted: set[str]) -> dict[str, list[tuple[float, str]]]:
    """Seconds and device of the stages on record, by likeness."""
    took: dict[str, list[tuple[float, str]]] = {}
    for data in _newest(store):
        like = _likeness(data["payload"])
        if like in wanted and "started" in data and "finished" in data:
            took.setdefault(like, []).append((float(data["finished"]) - float(data["started"]), str(data["facts"].get("device", ""))))
    return took


def _newest(store: Store) -> Iterator[dict[str, Any]]:
    paths = sorted((path for path in (store.root / "records").glob("?/*.json")), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths[:LOOK_AT]:
        try:
            yield json.loads(path.read_bytes().split(b"\n", 1)[0])
        except (OSError, ValueError):
            continue


def _gpus(stage: Stage, device: str) -> float:
    asked = stage.resources.gpus
    return float(asked) if asked is not None else float(device.startswith("cuda"))


def _named(stage: Stage) -> str:
    model = stage.payload["config"].get("model")
    return f"{stage.label} of {model}" if isinstance(model, str) else stage.label
