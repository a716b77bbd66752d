"""``plan``: what a set of trials would run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from mosweep.analysis.foresight import Foresight
from mosweep.core.schema import plain
from mosweep.core.table import format_table
from mosweep.core.work import Resources
from mosweep.cost.estimate import Estimate, Range
from mosweep.reports.reasons import NEW
from mosweep.sweep.plan import Plan

__all__ = ["plan_data", "plan_text"]

#: Maximum number of comparisons shown.
CONTRASTS = 20


def plan_data(
    plan: Plan,
    cost: Estimate,
    foreseen: Sequence[Foresight] = (),
    why: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The plan as ``mosweep plan --json`` prints it; the format is stable.

    Unknown values are null, not 0.
    """
    jobs = [
        {
            "stage": stage.label,
            "kind": stage.kind.name,
            "key": stage.key,
            "trial": plan.trial_of[stage.key],
            "state": plan.state(stage.key),
            "why": why.get(stage.key),
            "resources": {k: v for k, v in plain(stage.resources).items() if v},
        }
        for stage in plan.to_run
    ]
    return {
        "trials": len(plan.trials),
        "stages": plan.counts,
        "jobs": jobs,
        "cost": asdict(cost),
        "detectable": [*map(asdict, foreseen)],
    }


def plan_text(
    plan: Plan,
    cost: Estimate,
    foreseen: Sequence[Foresight] = (),
    why: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Trials, stages by kind and state, jobs by resources, cost, and detectable effects."""
    states = Counter((stage.kind.name, plan.state(key)) for key, stage in plan.stages.items())
    kinds = dict.fromkeys(stage.kind.name for stage in plan.stages.values())
    rows = [
        [kind, *(states[kind, state] for state in ("cached", "running", "to_run"))]
        for kind in kinds
    ]
    control = sum(trial.control for trial in plan.trials)
    head = (
        f"{len(plan.trials)} trials, {control} of them control trials; {len(plan.stages)} "
        f"stages, {len(plan.to_run)} to run"
    )
    if plan.maybe:
        head += f", {len(plan.maybe)} of them only if their inputs really change"
    lines = [head, "", format_table(["stage", "cached", "running elsewhere", "to run"], rows)]
    reasons = Counter((stage.kind.name, why.get(stage.key, NEW)) for stage in plan.to_run)
    if any(text != NEW for _, text in reasons):
        table = [[kind, count, text] for (kind, text), count in reasons.items()]
        lines += ["", format_table(["stage", "to run", "because"], table)]
    requests = Counter((stage.kind.name, _request(stage.resources)) for stage in plan.to_run)
    if any(resources for _, resources in requests):
        lines += [
            "",
            format_table(
                ["stage", "to run", "each on"],
                [[kind, count, words] for (kind, words), count in requests.items()],
            ),
        ]
    if plan.to_run:
        lines += ["", _cost_text(cost), *_notices(plan), *_foreseen_lines(foreseen)]
    return "\n".join(lines)


def _foreseen_lines(foreseen: Sequence[Foresight]) -> Iterator[str]:
    """The smallest effects that the design can detect, in a table."""
    if not foreseen:
        return
    yield (
        "\nsmallest differences that would be detected 4 times in 5 (each comparison alone, at "
        "95 %), as similar evaluations varied:"
    )
    metrics = len({one.metric for one in foreseen}) > 1
    rows = [
        [
            f"{one.contrast} on {one.metric}" if metrics else one.contrast,
            one.seeds,
            one.blocks,
            one.items,
            one.note or f"{one.mde:.3f}",
        ]
        for one in foreseen[:CONTRASTS]
    ]
    yield format_table(["comparison", "seeds", "blocks", "items", "difference"], rows, longest=100)
    if len(foreseen) > CONTRASTS:
        yield f"… and {len(foreseen) - CONTRASTS} more: --json has all"


def _notices(plan: Plan) -> list[str]:
    """The notices of the works to run."""
    return list(
        dict.fromkeys(notice for stage in plan.to_run if (notice := stage.work.traits.notice))
    )


def _request(resources: Resources) -> str:
    """The resources that a stage requests, as text."""
    given = plain(resources) | dict(resources.additional_parameters)
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in given.items()
        if value
    )


def _cost_text(cost: Estimate) -> str:
    return "\n".join([_time_text(cost), *_usd_text(cost)])


def _time_text(cost: Estimate) -> str:
    if cost.unknown:
        return f"time: unknown; no similar stage has run yet for {', '.join(cost.unknown)}"
    assert cost.seconds is not None
    text = f"computing time: {_span(cost.seconds)} in all, as similar stages took"
    if cost.gpu_hours is not None and cost.gpu_hours.high > 0:
        hours = cost.gpu_hours
        text += f"; GPU-hours: {hours.expected:.3g} ({hours.low:.3g} to {hours.high:.3g})"
    return text


def _usd_text(cost: Estimate) -> Iterator[str]:
    """The providers' charges. Empty if no provider is used."""
    if cost.usd_unknown:
        yield f"cost: unknown; {'; '.join(cost.usd_unknown)}"
    elif cost.usd is not None:
        about = "about " if cost.usd_about else ""
        by = "by the tokens of similar stages"
        if cost.usd_about:
            by += (
                f", and for {', '.join(cost.usd_about)} by the length of the data, at four "
                "characters per token"
            )
        dated = (
            f" and the prices of {cost.prices_as_of}, which may have changed"
            if cost.prices_as_of
            else ""
        )
        yield (
            f"cost: {about}{_usd(cost.usd.expected)} ({_usd(cost.usd.low)} to "
            f"{_usd(cost.usd.high)}), {by}{dated}"
        )


def _usd(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount:.3g}"


def _span(seconds: Range) -> str:
    return f"{_time(seconds.expected)} ({_time(seconds.low)} to {_time(seconds.high)})"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
