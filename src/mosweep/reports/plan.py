"""``plan``: what a set of trials would run, before anything does."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mosweep.core.schema import plain
from mosweep.plan import Plan
from mosweep.reports.table import format_table

__all__ = ["plan_data", "plan_text"]


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able data, in the fixed form of ``mosweep plan --json``."""
    jobs = [
        {
            "stage": stage.label,
            "kind": stage.kind,
            "key": stage.key,
            "trial": plan.trial_of[stage.key],
            "state": plan.state(stage.key),
            "resources": {k: v for k, v in plain(stage.resources).items() if v},
        }
        for stage in plan.to_run
    ]
    # What a run costs is not known before like stages have been timed and priced: unknown, not 0.
    cost = {"gpu_hours": None, "usd": None}
    return {"trials": len(plan.trials), "stages": plan.counts, "jobs": jobs, "cost": cost}


def plan_text(plan: Plan) -> str:
    """Trials, and stages by kind and state."""
    states = Counter((stage.kind, plan.state(key)) for key, stage in plan.stages.items())
    kinds = dict.fromkeys(stage.kind for stage in plan.stages.values())
    rows = [[kind, *(states[kind, state] for state in ("cached", "running", "to_run"))] for kind in kinds]
    control = sum(trial.control for trial in plan.trials)
    head = f"{len(plan.trials)} trials, {control} of them control trials; {len(plan.stages)} stages, {len(plan.to_run)} to run"
    return f"{head}\n\n{format_table(['stage', 'cached', 'running elsewhere', 'to run'], rows)}"
