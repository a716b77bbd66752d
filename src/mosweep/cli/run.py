"""``mosweep run``: resume a sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mosweep.cli.options import add_selection, parser_of, print_json, selected_plan
from mosweep.core.errors import UserError
from mosweep.core.types import Stage
from mosweep.execution.launch import evalops_of, tracking_of
from mosweep.sweep.folder import find_sweep
from mosweep.sweep.frozen import frozen_trials

if TYPE_CHECKING:
    from mosweep.core.store import Store

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Resume a sweep."""
    parser = parser_of("run", "Resume a sweep: keep what succeeded, run the rest.")
    parser.add_argument(
        "--workers",
        type=int,
        help="run N processes at a time on this machine, even if the sweep ran elsewhere before",
        metavar="N",
    )
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="submit the jobs and return; needs a launcher with a queue (Slurm)",
    )
    add_selection(parser)
    args = parser.parse_args(arguments)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    sweep = find_sweep(args.sweep)
    trials, launch = frozen_trials(sweep)
    from dataclasses import replace

    from mosweep.config.groups import Budget
    from mosweep.core.schema import build
    from mosweep.cost.budget import check_budget
    from mosweep.execution.launch import (
        check_access,
        evalops_recorder,
        link_and_record,
        settle,
        tracking_recorder,
    )
    from mosweep.execution.launch import launch as run_plan
    from mosweep.launchers.lookup import default_launcher, launcher_of
    from mosweep.reports.summary import print_outcome, summary_data

    launcher = (
        default_launcher(workers=args.workers)
        if args.workers
        else launcher_of(launch.design.get("launcher"))
    ).waiting(not args.no_wait)
    environment = launch.design.get("environment") or {}
    os.environ.update(environment)
    launcher = launcher.exporting(environment)
    store = launch.store
    plan, rerun = selected_plan(trials, store, args)
    if settle(plan, store):
        plan, rerun = selected_plan(trials, store, args)
    plan = replace(plan, budget=build(Budget, launch.design.get("budget") or {}, "budget"))
    if plan.to_run:
        check_budget(plan, store)
        launcher.check(plan)
        check_access(plan, store, rerun)
    _forget(rerun, store)
    sweep.note_launch(launch.file)
    evalops = evalops_recorder(evalops_of(launch.design), store, sweep, plan)
    if run_plan(plan, store, sweep, launcher, quiet=args.json, recorders=evalops).detached:
        return 0
    result = link_and_record(
        trials,
        [*tracking_recorder(tracking_of(launch.design)), *evalops],
        store,
        sweep,
        plan.records,
    )
    if args.json:
        print_json(summary_data(result))
    else:
        print_outcome(result, os.path.relpath(sweep.folder))
    return 0 if all(trial.status == "succeeded" for trial in result.trials) else 1


def _forget(rerun: Mapping[str, Stage], store: Store) -> None:
    """Remove the records of the stages to rerun. ``UserError`` if one of them is running."""
    held = store.claims.held() if rerun else {}
    for key, stage in rerun.items():
        if key in held:
            raise UserError(
                f"--force: {stage.label} ({key[:12]}) is running ({held[key]}); cancel it first"
            )
    for key in rerun:
        store.forget(key, again=True)
