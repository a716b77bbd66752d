"""Verbs that plan, run and end: ``plan``, ``run``, ``cancel``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosweep.cli.looking import observed
from mosweep.cli.options import parser_of, print_json
from mosweep.cli.projecting import tracking_of
from mosweep.core.errors import UserError
from mosweep.core.types import Stage, Trial, load_work
from mosweep.core.work import Resources
from mosweep.sweep.folder import Sweep, find_sweep
from mosweep.sweep.launches import Launch

if TYPE_CHECKING:
    from mosweep.core.store import Store
    from mosweep.sweep.plan import Plan

__all__ = ["cancel", "plan", "run"]


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
    _add_selection(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_intermixed_args(list(arguments))
    from mosweep.analysis.foresight import foresee
    from mosweep.cost.estimate import estimate
    from mosweep.reports.plan import plan_data, plan_text

    if len(args.overrides) == 1 and "=" not in args.overrides[0]:
        trials, launch = _frozen(find_sweep(args.overrides[0]))
        store, design = launch.store, launch.design
        asked = (design.get("contrasts"), design.get("primary_metric"), design.get("bundles"))
    else:
        from mosweep.design.application import planned
        from mosweep.design.factors import bundles_of
        from mosweep.execution.launch import store_of

        trials, config = planned(args.overrides)
        store = store_of(config)
        asked = (config.contrasts, config.primary_metric, bundles_of(config.treatments, trials))
    plan, _ = _selected_plan(trials, store, args)
    foreseen = foresee(trials, store, *asked)
    if args.json:
        print_json(plan_data(plan, estimate(plan, store), foreseen))
    else:
        print(plan_text(plan, estimate(plan, store), foreseen))
    return 0


def run(arguments: Sequence[str]) -> int:
    """Go on with a sweep."""
    parser = parser_of("run", "Go on with a sweep: what succeeded is kept, the rest runs.")
    parser.add_argument(
        "--workers",
        type=int,
        help="run here, with so many processes at a time, wherever the sweep ran before",
    )
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="submit what is missing and return, where jobs go on by themselves (Slurm)",
    )
    _add_selection(parser)
    args = parser.parse_args(arguments)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    sweep = find_sweep(args.sweep)
    trials, launch = _frozen(sweep)
    from dataclasses import replace

    from mosweep.config.groups import Budget
    from mosweep.core.schema import build
    from mosweep.cost.budget import check_budget
    from mosweep.execution.launch import (
        check_access,
        evalops_recorder,
        link_and_record,
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
    store = launch.store
    plan, redo = _selected_plan(trials, store, args)
    plan = replace(plan, budget=build(Budget, launch.design.get("budget") or {}, "budget"))
    if plan.to_run:
        check_budget(plan, store)
        launcher.check(plan)
        check_access(plan, store, redo)
    _forget(redo, store)
    sweep.note_launch(launch.file)
    evalops = evalops_recorder(evalops_of(launch.design), store, sweep, plan)
    if run_plan(plan, store, sweep, launcher, quiet=args.json, told=evalops).detached:
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


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        help="only stages of this kind or label (finetune, eval, eval:TASK); repeatable",
    )
    parser.add_argument(
        "--trials",
        action="append",
        default=[],
        help="only these: names, a glob, or conditions such as lora.rank>=16; repeatable",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="redo what is selected, and what depends on it; all else is kept",
    )


def _selected_plan(
    trials: Sequence[Trial], store: Store, args: argparse.Namespace
) -> tuple[Plan, Mapping[str, Stage]]:
    """The plan of the selected trials and stages, and what is to be redone by force."""
    from dataclasses import replace

    from mosweep.sweep.plan import make_plan
    from mosweep.sweep.selection import forced, select_stages, select_trials, with_stages

    stages = [name for given in args.stage for name in given.split(",")]
    chosen = select_trials(trials, args.trials)
    redo = forced(trials, chosen, stages) if args.force else {}
    selected = select_stages(
        chosen, stages, lambda key: key not in redo and store.read(key) is not None
    )
    plan = make_plan(with_stages(trials, selected, redo), store)
    return replace(
        plan, records={key: record for key, record in plan.records.items() if key not in redo}
    ), redo


def _forget(redo: Mapping[str, Stage], store: Store) -> None:
    """Remove the records of what is to be redone; refused while another process is at any of it."""
    held = store.claims.held() if redo else {}
    for key, stage in redo.items():
        if key in held:
            raise UserError(
                f"--force: {stage.label} ({key[:12]}) is running right now ({held[key]}); cancel "
                "it first"
            )
    for key in redo:
        store.forget(key, again=True)


def cancel(arguments: Sequence[str]) -> int:
    """End what a sweep has running or waiting."""
    text = (
        "End what a sweep has running or waiting, here, on a cluster or at a provider. What is "
        "done stays; mosweep run goes on with it."
    )
    parser = parser_of("cancel", text)
    args = parser.parse_args(arguments)
    from mosweep.launchers.lookup import launchers_with_jobs

    sweep = find_sweep(args.sweep)
    result = observed(sweep)
    open_ones = {
        s.key: s
        for trial in result.trials
        for s in trial.stages
        if s.status in ("running", "pending")
    }
    drivers = _end_drivers(sweep)
    jobs: dict[str, str] = {}
    places: Counter[str] = Counter()
    for launch in sweep.launches:
        for launcher in launchers_with_jobs(launch.store):
            wanted = [key for key in launch.stages if key in open_ones and key not in jobs]
            ended = launcher.withdraw(launch.store, wanted)
            jobs |= ended
            places[f"jobs in {launcher.title}"] += len(ended)
    from mosweep.execution.launch import cancel_jobs

    begun = {
        stage.key
        for trial in result.trials
        for stage in trial.stages
        if stage.status != "succeeded"
    }
    remote = {
        key: job for launch in sweep.launches for key, job in cancel_jobs(launch, begun).items()
    }
    sweep.journal.append_all(
        {
            "event": "cancelled",
            "key": key,
            "label": stage.label,
            "job": {**jobs, **remote}.get(key),
            "error": "cancelled by mosweep cancel",
        }
        for key, stage in open_ones.items()
    )
    if args.json:
        print_json(
            {
                "stages": len(open_ones),
                "jobs": sorted([*jobs.values(), *remote.values()]),
                "processes": drivers,
            }
        )
    elif open_ones or remote:
        places["at a provider"] += len(remote)
        where = " and ".join(f"{count} {place}" for place, count in places.items() if count)
        among = f", among them {where}" if where else ""
        print(f"cancelled: {len(open_ones)} stages{among}; mosweep run goes on with them")
    else:
        print("nothing to cancel: no stage is running or waiting")
    return 0


def _end_drivers(sweep: Sweep) -> list[int]:
    """Interrupt the processes of this machine that are running the sweep, as Ctrl-C would; their
    pids.
    """
    from mosweep.core.claims import start_time

    ended = []
    for event in sweep.journal.read("launch"):
        pid, since = event.get("pid"), event.get("since")
        if (
            event.get("host") == socket.gethostname()
            and pid
            and since
            and start_time(pid) == since
            and pid != os.getpid()
        ):
            os.kill(pid, signal.SIGINT)
            ended.append(pid)
    # a driver in the background may ignore Ctrl-C
    for patience, stronger in ((10.0, signal.SIGTERM), (5.0, signal.SIGKILL)):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(start_time(pid) for pid in ended):
            time.sleep(0.1)
        for pid in ended:
            if start_time(pid):
                os.kill(pid, stronger)
    return ended


def _frozen(sweep: Sweep) -> tuple[list[Trial], Launch]:
    """The trials of all launches as they were frozen, rebuilt without Hydra."""
    if not sweep.launches:
        raise UserError(f"{sweep.folder}: nothing was ever launched there")
    trials: dict[str, Trial] = {}
    for launch in sweep.launches:
        stages: dict[str, Stage] = {}
        for key, spec in launch.specs().items():
            stages[key] = _thawed(spec, stages)
        for trial in launch.trials:
            mine = tuple(stages[key] for key in trial["stages"])
            trials[trial["name"]] = Trial(trial["name"], trial["factors"], mine, trial["control"])
    return list(trials.values()), sweep.launches[-1]


def _thawed(spec: Mapping[str, Any], known: Mapping[str, Stage]) -> Stage:
    from mosweep.core import schema

    resources = schema.build(Resources, spec.get("resources", {}), "resources")
    stage = Stage(
        str(spec["label"]),
        load_work(spec),
        {role: known[key] for role, key in spec["needs"].items()},
        resources,
    )
    if stage.key != spec["key"]:
        raise UserError(
            f"{spec['label']}: this version of mosweep makes another key of the frozen stage "
            f"({spec['key'][:12]} → {stage.key[:12]}); "
            "launch the sweep's own command again"
        )
    return stage


def evalops_of(design: Mapping[str, Any]) -> Any:
    from mosweep.config.groups import EvalOps

    return EvalOps(**design.get("evalops", {}))
