"""``mosweep plan``: what a command would run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mosweep.cli.options import print_json
from mosweep.sweep.folder import find_sweep

if TYPE_CHECKING:
    pass
from mosweep.cli.options import add_selection, selected_plan
from mosweep.sweep.frozen import frozen_trials

__all__ = ["plan"]


def plan(arguments: Sequence[str]) -> int:
    """What a command would run."""
    parser = argparse.ArgumentParser(
        prog="mosweep plan",
        description="What a command would run. Writes nothing, submits nothing.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="the overrides of the sweep, as after mosweep -m; or a sweep that is there",
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="accepted, since a sweep's command has it"
    )
    add_selection(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_intermixed_args(list(arguments))
    from mosweep.analysis.foresight import foresee
    from mosweep.cost.estimate import estimate
    from mosweep.reports.plan import plan_data, plan_text

    if len(args.overrides) == 1 and "=" not in args.overrides[0]:
        trials, launch = frozen_trials(find_sweep(args.overrides[0]))
        store, design = launch.store, launch.design
        asked = (design.get("contrasts"), design.get("primary_metric"), design.get("bundles"))
    else:
        from mosweep.design.application import planned
        from mosweep.design.factors import bundles_of
        from mosweep.execution.launch import store_of

        trials, config = planned(args.overrides)
        store = store_of(config)
        asked = (config.contrasts, config.primary_metric, bundles_of(config.treatments, trials))
    plan, _ = selected_plan(trials, store, args)
    foreseen = foresee(trials, store, *asked)
    if args.json:
        print_json(plan_data(plan, estimate(plan, store), foreseen))
    else:
        print(plan_text(plan, estimate(plan, store), foreseen))
    return 0
