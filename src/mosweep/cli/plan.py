"""``mosweep plan``: show what a command would run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mosweep.cli.options import add_selection, print_json, selected_plan
from mosweep.sweep.folder import find_sweep
from mosweep.sweep.frozen import frozen_trials

__all__ = ["plan"]


def plan(arguments: Sequence[str]) -> int:
    """Show what a command would run."""
    parser = argparse.ArgumentParser(
        prog="mosweep plan",
        description="Show what a command would run. Writes nothing, submits nothing.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="the sweep's overrides, as for mosweep -m; or the name or folder of a sweep",
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="has no effect; accepted for convenience"
    )
    parser.add_argument("--config-dir", "-cd", help="a folder of configurations to search first")
    parser.add_argument("--config-name", "-cn", help="the name of the primary configuration")
    add_selection(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_intermixed_args(list(arguments))
    from mosweep.analysis.foresight import foresee
    from mosweep.cost.estimate import estimate
    from mosweep.reports.plan import plan_data, plan_text
    from mosweep.reports.reasons import reasons

    if len(args.overrides) == 1 and "=" not in args.overrides[0]:
        trials, launch = frozen_trials(find_sweep(args.overrides[0]))
        store, design = launch.store, launch.design
        questions = (design.get("contrasts"), design.get("primary_metric"), design.get("bundles"))
    else:
        from mosweep.design.application import planned
        from mosweep.design.factors import bundles_of
        from mosweep.execution.launch import store_of

        trials, config = planned(args.overrides, args.config_dir, args.config_name)
        store = store_of(config)
        bundles = bundles_of(config.treatments, trials)
        questions = (config.contrasts, config.primary_metric, bundles)
    plan, _ = selected_plan(trials, store, args)
    foresight = foresee(trials, store, *questions)
    cost, why = estimate(plan, store), reasons(plan, store)
    if args.json:
        print_json(plan_data(plan, cost, foresight, why))
    else:
        print(plan_text(plan, cost, foresight, why))
    return 0
