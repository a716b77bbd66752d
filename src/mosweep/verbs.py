"""The verbs: what can be asked about a sweep, and done with it, once it is there. Those that only read import nothing heavy."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core.errors import UserError
from mosweep.core.results import Queued, SweepResult
from mosweep.core.types import Resources, Stage, Trial, load_work
from mosweep.sweep import Launch, Sweep, find_sweep

if TYPE_CHECKING:
    from mosweep.core.store import Store
    from mosweep.plan import Plan

__all__ = ["run_verb"]


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Run ``mosweep VERB arguments``; the exit status."""
    functions: dict[str, Callable[[Sequence[str]], int]] = {
        "plan": _plan,
        "status": _status,
        "progress": _status,
        "watch": _watch,
        "cancel": _cancel,
        "run": _run,
        "summary": _summary,
        "explain": _explain,
        "cache": _cache,
        "zoo": _zoo,
        "sync": _sync,
        "contamination": _contamination,
        "analyze": _analyze,
        "bundle": _bundle,
        "verify": _verify,
        "ui": _ui,
        "doctor": _doctor,
    }
    return functions[verb](arguments)


def _parser(verb: str, text: str, *, sweep: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mosweep {verb}", description=text)
    if sweep:
        parser.add_argument("sweep", nargs="?", help="the sweep's folder, or its name under multirun/; by default the latest")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


# -- reading -----------------------------------------------------------------------------------------------------------


def _status(arguments: Sequence[str]) -> int:
    args = _parser("status", "Where a sweep stands, trial by trial and stage by stage.").parse_args(arguments)
    result = _observed(find_sweep(args.sweep))
    from mosweep.reports.status import status_data, status_text

    if args.json:
        _print_json(status_data(result))
    else:
        print(status_text(result))
    return 0


def _watch(arguments: Sequence[str]) -> int:
    parser = _parser("watch", "A live table of a sweep, until all its trials have ended. Watching changes nothing; Ctrl-C ends it.")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (default 5)")
    args = parser.parse_args(arguments)
    if args.every <= 0:
        raise UserError(f"--every {args.every}: must be more than 0 seconds")
    sweep = find_sweep(args.sweep)
    from mosweep.reports.status import status_data, status_text

    drawn, last = 0, ""
    while True:
        result = _observed(Sweep(sweep.folder))
        ended = all(trial.status in ("succeeded", "failed", "cancelled") for trial in result.trials)
        if args.json:
            print(json.dumps(status_data(result), ensure_ascii=False, default=str), flush=True)
        else:
            width, height = shutil.get_terminal_size()
            text = status_text(result, max(5, height - 8))
            if sys.stdout.isatty():
                lines = [line[: width - 1] for line in text.splitlines()]
                sys.stdout.write((f"\x1b[{drawn}F\x1b[J" if drawn else "") + "\n".join(lines) + "\n")
                drawn = len(lines)
            elif text != last:
                print(text + "\n", flush=True)
            last = text
            sys.stdout.flush()
        if ended:
            return 0 if all(trial.status == "succeeded" for trial in result.trials) else 1
        time.sleep(args.every)


def _summary(arguments: Sequence[str]) -> int:
    args = _parser("summary", "A sweep's trials with what was measured; failures are listed, never dropped.").parse_args(arguments)
    result = _observed(find_sweep(args.sweep))
    from mosweep.reports.summary import failures_text, summary_data, summary_text

    if args.json:
        _print_json(summary_data(result))
    else:
        print(summary_text(result))
        print(failures_text(result), end="\n" if failures_text(result) else "")
    return 0


def _observed(sweep: Sweep) -> SweepResult:
    """What is known of a sweep, with what Slurm says of it where it has jobs there."""
    queued: dict[str, Queued] = {}
    for launch in sweep.launches:
        store = launch.store
        if any((store.root / "slurm" / "open").glob("*")):
            from mosweep.launchers.slurm.observe import observe

            queued |= observe(store, launch.stages)
    return sweep.result(queued=queued)


def _explain(arguments: Sequence[str]) -> int:
    parser = _parser("explain", "Why a trial's stages are cached, or what differs from the nearest result that is there.", sweep=False)
    parser.add_argument("trial", help="the trial's name, or its folder")
    parser.add_argument("--sweep", help="the sweep's folder or name; by default the latest, or the one the folder is in")
    args = parser.parse_args(arguments)
    place = Path(args.trial)
    sweep = Sweep(place.parent.absolute()) if (place / "config.yaml").exists() and not args.sweep else find_sweep(args.sweep)
    from mosweep.reports.explain import explain_data, explain_text

    data = explain_data(sweep, place.name)
    if args.json:
        _print_json(data)
    else:
        print(explain_text(data))
    return 0


# -- planning and running ------------------------------------------------------------------------------------------------


def _plan(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mosweep plan", description="What a command would run. Writes nothing, submits nothing.")
    parser.add_argument("overrides", nargs="*", help="the overrides of the sweep, as after mosweep -m; or a sweep that is there")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted, since a sweep's command has it")
    _add_selection(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_intermixed_args(list(arguments))
    from mosweep.estimate import estimate
    from mosweep.reports.foresight import foresee
    from mosweep.reports.plan import plan_data, plan_text

    if len(args.overrides) == 1 and "=" not in args.overrides[0]:
        trials, launch = _frozen(find_sweep(args.overrides[0]))
        store, design = launch.store, launch.design
        asked = (design.get("contrasts"), design.get("primary_metric"), design.get("bundles"))
    else:
        from mosweep.app import planned
        from mosweep.experiment import bundles_of
        from mosweep.run import store_of

        trials, config = planned(args.overrides)
        store = store_of(config)
        asked = (config.contrasts, config.primary_metric, bundles_of(config.treatments, trials))
    plan, _ = _selected_plan(trials, store, args)
    foreseen = foresee(trials, store, *asked)
    if args.json:
        _print_json(plan_data(plan, estimate(plan, store), foreseen))
    else:
        print(plan_text(plan, estimate(plan, store), foreseen))
    return 0


def _run(arguments: Sequence[str]) -> int:
    parser = _parser("run", "Go on with a sweep: what succeeded is kept, the rest runs.")
    parser.add_argument("--workers", type=int, help="run here, with so many processes at a time, wherever the sweep ran before")
    parser.add_argument("--no-wait", action="store_true", help="with Slurm: hand in what is missing and return")
    _add_selection(parser)
    args = parser.parse_args(arguments)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    sweep = find_sweep(args.sweep)
    trials, launch = _frozen(sweep)
    from dataclasses import replace

    from mosweep.budget import check_budget
    from mosweep.config import Budget
    from mosweep.core.schema import build
    from mosweep.reports.summary import print_outcome, summary_data
    from mosweep.run import check_access, evalops_recorder, launcher_of, link_and_record, tracking_recorder
    from mosweep.run import launch as run_plan

    described = {"local": {"workers": args.workers}} if args.workers else launch.design.get("launcher") or {"local": {}}
    if "slurm" in described:
        described = {"slurm": {**described["slurm"], "wait": not args.no_wait}}
    launcher = launcher_of(described)
    store = launch.store
    plan, redo = _selected_plan(trials, store, args)
    plan = replace(plan, budget=build(Budget, launch.design.get("budget") or {}, "budget"))
    if plan.to_run:
        check_budget(plan, store)
        launcher.check(plan)
        check_access(plan, store, redo)
    _forget(redo, store)
    sweep.note_launch(launch.file)
    evalops = evalops_recorder(_evalops(launch.design), store, sweep, plan)
    if run_plan(plan, store, sweep, launcher, quiet=args.json, told=evalops).detached:
        return 0
    result = link_and_record(trials, [*tracking_recorder(_tracking(launch.design)), *evalops], store, sweep, plan.records)
    if args.json:
        _print_json(summary_data(result))
    else:
        print_outcome(result, os.path.relpath(sweep.folder))
    return 0 if all(trial.status == "succeeded" for trial in result.trials) else 1


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage", action="append", default=[], help="only stages of this kind or label (finetune, eval, eval:TASK); repeatable"
    )
    parser.add_argument(
        "--trials", action="append", default=[], help="only these: names, a glob, or conditions such as lora.rank>=16; repeatable"
    )
    parser.add_argument("--force", action="store_true", help="redo what is selected, and what depends on it; all else is kept")


def _selected_plan(trials: Sequence[Trial], store: Store, args: argparse.Namespace) -> tuple[Plan, Mapping[str, Stage]]:
    """The plan of the selected trials and stages, and what is to be redone by force."""
    from dataclasses import replace

    from mosweep.plan import make_plan
    from mosweep.selection import forced, select_stages, select_trials, with_stages

    stages = [name for given in args.stage for name in given.split(",")]
    chosen = select_trials(trials, args.trials)
    redo = forced(trials, chosen, stages) if args.force else {}
    selected = select_stages(chosen, stages, lambda key: key not in redo and store.read(key) is not None)
    plan = make_plan(with_stages(trials, selected, redo), store)
    return replace(plan, records={key: record for key, record in plan.records.items() if key not in redo}), redo


def _forget(redo: Mapping[str, Stage], store: Store) -> None:
    """Remove the records of what is to be redone; refused while another process is at any of it."""
    held = store.claims.held() if redo else {}
    for key, stage in redo.items():
        if key in held:
            raise UserError(f"--force: {stage.label} ({key[:12]}) is running right now ({held[key]}); cancel it first")
    for key in redo:
        store.forget(key, again=True)


def _cancel(arguments: Sequence[str]) -> int:
    text = "End what a sweep has running or waiting, here, in Slurm or at a provider. What is done stays; mosweep run goes on with it."
    parser = _parser("cancel", text)
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    result = _observed(sweep)
    open_ones = {s.key: s for trial in result.trials for s in trial.stages if s.status in ("running", "pending")}
    drivers = _end_drivers(sweep)
    jobs: dict[str, str] = {}
    for launch in sweep.launches:
        if any((launch.store.root / "slurm" / "open").glob("*")):
            from mosweep.launchers.slurm.observe import cancel

            jobs |= cancel(launch.store, [key for key in launch.stages if key in open_ones])
    from mosweep.run import cancel_jobs

    begun = {stage.key for trial in result.trials for stage in trial.stages if stage.status != "succeeded"}
    remote = {key: job for launch in sweep.launches for key, job in cancel_jobs(launch, begun).items()}
    sweep.journal.append_all(
        {"event": "cancelled", "key": key, "label": stage.label, "job": {**jobs, **remote}.get(key), "error": "cancelled by mosweep cancel"}
        for key, stage in open_ones.items()
    )
    if args.json:
        _print_json({"stages": len(open_ones), "jobs": sorted([*jobs.values(), *remote.values()]), "processes": drivers})
    elif open_ones or remote:
        where = f"{len(jobs)} jobs in Slurm" + (f" and {len(remote)} at a provider" if remote else "")
        print(f"cancelled: {len(open_ones)} stages, among them {where}; mosweep run goes on with them")
    else:
        print("nothing to cancel: no stage is running or waiting")
    return 0


def _end_drivers(sweep: Sweep) -> list[int]:
    """Interrupt the processes of this machine that are running the sweep, as Ctrl-C would; their pids."""
    from mosweep.core.claims import start_time

    ended = []
    for event in sweep.journal.read("launch"):
        pid, since = event.get("pid"), event.get("since")
        if event.get("host") == socket.gethostname() and pid and since and start_time(pid) == since and pid != os.getpid():
            os.kill(pid, signal.SIGINT)
            ended.append(pid)
    for patience, stronger in ((10.0, signal.SIGTERM), (5.0, signal.SIGKILL)):  # a driver in the background may ignore Ctrl-C
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
    stage = Stage(str(spec["label"]), load_work(spec), {role: known[key] for role, key in spec["needs"].items()}, resources)
    if stage.key != spec["key"]:
        raise UserError(
            f"{spec['label']}: this version of mosweep makes another key of the frozen stage ({spec['key'][:12]} → {stage.key[:12]}); "
            "launch the sweep's own command again"
        )
    return stage


def _evalops(design: Mapping[str, Any]) -> Any:
    from mosweep.config import EvalOps

    return EvalOps(**design.get("evalops", {}))


def _tracking(design: Mapping[str, Any]) -> Any:
    from mosweep.config import Tracking

    return Tracking(**design.get("tracking", {}))


def _contamination(arguments: Sequence[str]) -> int:
    parser = _parser("contamination", "Which evaluation items were in the training data, and the scores without them.")
    parser.add_argument("--max-overlap", type=float, metavar="FRACTION", help="refuse more; by default as the sweep's design says")
    args = parser.parse_args(arguments)
    if args.max_overlap is not None and not 0 <= args.max_overlap <= 1:
        raise UserError(f"--max-overlap {args.max_overlap}: must be between 0 and 1")
    result = find_sweep(args.sweep).result()
    from mosweep.reports.contamination import limit_of, overlap, overlap_text

    overlaps, limit = overlap(result), limit_of(result) if args.max_overlap is None else args.max_overlap
    refused = [one for one in overlaps if limit is not None and one.fraction > limit]
    if args.json:
        names = list(dict.fromkeys(one.trial for one in refused))
        _print_json({"max_overlap": limit, "refused": names, "overlaps": [asdict(one) for one in overlaps]})
    else:
        print(overlap_text(overlaps))
        for one in refused:
            print(f"REFUSED {one.trial}: {one.fraction:.1%} of {one.task}'s items are in the training data, more than {limit:.1%}")
    return 1 if refused else 0


def _analyze(arguments: Sequence[str]) -> int:
    parser = _parser("analyze", "A sweep as a report: a page that opens anywhere, the same as Markdown, plots, and tables.")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="where to (default: report/ in the sweep's folder)")
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    output = args.output or sweep.folder / "report"
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is there, and not a folder")
    from mosweep.reports.analyze import analyze
    from mosweep.reports.effects import effects_data

    done = analyze(sweep, _observed(sweep), output)
    if args.json:
        _print_json({"folder": str(done.folder), "files": done.files, "problem": done.problem, "effects": effects_data(done.effects)})
    else:
        for effect in done.effects:
            estimate = f"{effect.estimate:+.3f}, " if effect.estimate is not None else ""
            print(f"{effect.contrast}: {effect.metric}: {estimate}{effect.verdict}")
        if done.problem:
            print(f"no effects: {done.problem}")
        print(os.path.relpath(done.folder / "report.html"))
    return 0


# -- projections -------------------------------------------------------------------------------------------------------


def _sync(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mosweep sync", description="Project sweeps into MLflow or W&B again; disk is the truth.")
    parser.add_argument("sweeps", nargs="*", help="folders or names of sweeps; by default all under multirun/ and outputs/")
    parser.add_argument("--to", choices=["mlflow", "wandb", "mlflow+wandb"], help="by default what the sweep's tracking says, else MLflow")
    parser.add_argument("--uri", help="MLflow's tracking URI; by default the sweep's own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    from mosweep.recorders import mlflow, wandb
    from mosweep.run import tracking_uri

    rows = []
    for sweep in [find_sweep(place) for place in args.sweeps] or _all_sweeps():
        result = sweep.result()
        tracking = _tracking(sweep.launches[-1].design if sweep.launches else {})
        for name in args.to.split("+") if args.to else ["mlflow"] if args.uri else tracking.recorders or ["mlflow"]:
            to_wandb = name == "wandb"
            done = wandb.project(result, tracking) if to_wandb else mlflow.project(result, args.uri or tracking_uri(tracking.uri))
            rows.append({"sweep": os.path.relpath(sweep.folder), "recorder": name, **asdict(done)})
    if args.json:
        _print_json(rows)
    else:
        for row in rows:
            print("{sweep}: {recorder}: {created} runs created, {updated} updated, {unchanged} unchanged, {failed} failed".format(**row))
    return 1 if any(row["failed"] for row in rows) else 0


def _all_sweeps() -> list[Sweep]:
    found = sorted(path.parent.absolute() for root in ("multirun", "outputs") for path in Path(root).glob("**/experiment.yaml"))
    if not found:
        raise UserError("there is no sweep under multirun/ or outputs/")
    return [Sweep(folder) for folder in found]


def _bundle(arguments: Sequence[str]) -> int:
    parser = _parser(
        "bundle", "A sweep as one archive: design, configurations, records, logs and samples. mosweep verify checks it anywhere."
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to (default: NAME.tar.gz)")
    parser.add_argument("--weights", action="store_true", help="with adapters and models; without, their SHA-256 is there")
    parser.add_argument("--data", action="store_true", help="with data sets; without, their SHA-256 is there")
    parser.add_argument(
        "--author", action="append", default=[], metavar="NAME", help="for CITATION.cff: 'Family, Given', or a group's name"
    )
    parser.add_argument("--anyway", action="store_true", help="even if something in it looks like a secret")
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    from mosweep.reports.bundle import pack
    from mosweep.reports.verify import verdict_text

    output = args.output or Path(f"{sweep.folder.name}.tar.gz")
    verdict = pack(sweep, output, weights=args.weights, data=args.data, authors=args.author, anyway=args.anyway)
    if args.json:
        _print_json({**asdict(verdict), "holds": verdict.holds})
    else:
        print(f"{verdict_text(verdict)}\n{output}: {output.stat().st_size / 1e6:,.1f} MB; to check it: mosweep verify {output}")
    return 0


def _verify(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mosweep verify", description="Derive every digest in a bundle again. Needs no store, runs nothing."
    )
    parser.add_argument("bundle", type=Path, help="the archive that mosweep bundle wrote")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    from mosweep.reports.verify import verdict_text, verify

    verdict = verify(args.bundle)
    if args.json:
        _print_json({**asdict(verdict), "holds": verdict.holds})
    else:
        print(verdict_text(verdict))
    return 0 if verdict.holds else 1


def _cache(arguments: Sequence[str]) -> int:
    from mosweep.core.store import Store
    from mosweep.paths import home

    parser = argparse.ArgumentParser(prog="mosweep cache", description="What is in the store, and what to do about it.")
    parser.add_argument("--store", type=Path, help="the store's folder; by default the one in mosweep's home")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument("--kind", help="data, model, finetune, eval, step, …")
    which.add_argument("--model", help="part of a model's name or id")
    which.add_argument("--older-than", metavar="AGE", help="90s, 15m, 12h, 7d, 2w")
    which.add_argument("--experiment", action="append", default=[], metavar="SWEEP", help="what this sweep's trials use")
    which.add_argument("--reachable-from", metavar="KEY", help="this entry, and all that went into it")
    printed = argparse.ArgumentParser(add_help=False)
    printed.add_argument("--json", action="store_true", help="print JSON")
    sure = argparse.ArgumentParser(add_help=False)
    sure.add_argument("--yes", action="store_true", help="do not ask")
    texts = {
        "list": "one line an entry",
        "stats": "entries, bytes and computing time by kind",
        "size": "bytes of what is chosen",
        "verify": "hash every file; what is damaged is set aside",
    }
    for action, text in texts.items():
        actions.add_parser(action, help=text, description=text, parents=[which, printed])
    actions.add_parser("show", help="one entry, whole", parents=[printed]).add_argument("key", help="a key, its beginning, or an atom's id")
    clear = actions.add_parser("clear", help="remove entries; what a running sweep counts on stays", parents=[which, printed, sure])
    clear.add_argument("keys", nargs="*", metavar="KEY", help="entries by key")
    clear.add_argument("--all", action="store_true", help="everything")
    actions.add_parser("gc", help="remove what failed attempts left, logs and checkpoints included", parents=[printed, sure])
    export = actions.add_parser("export", help="entries, and all that went into them, as one archive", parents=[which, printed])
    export.add_argument("target", type=Path, metavar="FILE.tar.gz")
    actions.add_parser("import", help="take an archive's entries in", parents=[printed]).add_argument(
        "source", type=Path, metavar="FILE.tar.gz"
    )
    args = parser.parse_args(arguments)
    store = Store(args.store.absolute() if args.store else home() / "store")
    return _cache_action(args, store)


def _cache_action(args: argparse.Namespace, store: Store) -> int:
    from mosweep.reports import cache

    def say(data: Any, text: str) -> None:
        if args.json:
            _print_json(data)
        else:
            print(text)

    if args.action == "show":
        _print_json(cache.shown(store, args.key))
        return 0
    if args.action == "import":
        new, known = cache.take_in(store, args.source)
        say({"new": new, "known": known}, f"{new} entries taken in; {known} were there already")
        return 0
    if args.action == "gc":
        folders = cache.garbage(store)
        if not folders:
            say({"folders": 0, "bytes": 0}, "nothing to remove")
            return 0
        _ask(args, f"remove {len(folders)} folders that failed attempts left, with their logs and checkpoints?")
        freed = cache.collect_garbage(store, folders)
        say({"folders": len(folders), "bytes": freed}, f"removed {len(folders)} folders, {cache.size_text(freed)}")
        return 0
    keys = getattr(args, "keys", ())
    sweeps = [find_sweep(place) for place in args.experiment]
    age = cache.duration(args.older_than) if args.older_than else None
    selection = cache.Selection(args.kind, args.model, age, sweeps, args.reachable_from, keys)
    chosen = cache.selected(store, selection)
    total = sum(entry.size for entry in chosen.values())
    if args.action == "list":
        say([asdict(entry) for entry in chosen.values()], cache.listing(chosen))
    elif args.action == "size":
        say({"entries": len(chosen), "bytes": total}, f"{len(chosen)} entries, {cache.size_text(total)}")
    elif args.action == "stats":
        data = cache.statistics(store, chosen)
        say(data, cache.statistics_text(data))
    elif args.action == "verify":
        damage = cache.verified(store, chosen)
        lines = [*damage.values(), f"{len(chosen)} entries: {len(damage)} damaged"] if damage else [f"{len(chosen)} entries are sound"]
        say({"entries": len(chosen), "damaged": damage}, "\n".join(lines))
        return 1 if damage else 0
    elif args.action == "export":
        count = cache.export(store, chosen, args.target)
        say({"entries": count, "file": str(args.target)}, f"{count} entries in {args.target}")
    else:
        return _clear(args, store, selection.everything, chosen, say)
    return 0


def _clear(args: argparse.Namespace, store: Store, everything: bool, chosen: Mapping[str, Any], say: Callable[[Any, str], None]) -> int:
    from mosweep.reports import cache

    if everything and not args.all:
        raise UserError("mosweep cache clear: choose what to remove (--kind, --model, --older-than, --experiment, KEY …), or give --all")
    used = cache.in_use(store)
    free = {key: entry for key, entry in chosen.items() if key not in used}
    kept = len(chosen) - len(free)
    note = f"; {kept} more are kept, for a running sweep counts on them" if kept else ""
    if not free:
        say({"removed": 0, "bytes": 0, "kept": kept}, f"nothing to remove{note}")
        return 0
    size, seconds = sum(entry.size for entry in free.values()), sum(entry.seconds for entry in free.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(entry.kind for entry in free.values()).items()))
    again = (
        f"to have them again takes {seconds / 3600:.1f} h of computing" if seconds > 3600 else f"to have them again takes {seconds:.0f} s"
    )
    _ask(args, f"remove {len(free)} entries ({kinds}; {cache.size_text(size)})? {again}{note}.")
    freed = cache.remove(store, free)
    say(
        {"removed": len(free), "bytes": freed, "kept": kept, "seconds": seconds},
        f"removed {len(free)} entries, {cache.size_text(freed)}{note}",
    )
    return 0


def _ask(args: argparse.Namespace, question: str) -> None:
    """Go on only if the user says yes, now or by ``--yes``."""
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is there to answer; give --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was removed")


def _zoo(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mosweep zoo", description="Model organisms: traits to train, each with a control data set.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    printed = argparse.ArgumentParser(add_help=False)
    printed.add_argument("--json", action="store_true", help="print JSON")
    actions.add_parser("list", help="one line an organism, with measured scores", parents=[printed])
    actions.add_parser("show", help="all about one, and the command that measures it", parents=[printed]).add_argument("name")
    args = parser.parse_args(arguments)
    from mosweep.reports import zoo

    if args.action == "show":
        organism = zoo.the_organism(args.name)
        _print_json(asdict(organism)) if args.json else print(zoo.show_text(organism))
        return 0
    everything = zoo.organisms()
    _print_json([asdict(organism) for organism in everything]) if args.json else print(zoo.list_text(everything))
    return 0


def _ui(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mosweep ui", description="Open MLflow's user interface, on this machine only.")
    parser.add_argument("sweep", nargs="?", help="the sweep to show: its folder, or its name under multirun/; by default the latest")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--uri", help="MLflow's tracking URI; by default the SQLite file in mosweep's home")
    args = parser.parse_args(arguments)
    import importlib.util

    from mosweep.core.errors import MissingExtra
    from mosweep.run import tracking_uri

    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtra("mlflow", "mlflow", "the user interface")
    uri = tracking_uri(args.uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists() and args.sweep is None:
        raise UserError(f"nothing has been recorded yet ({uri.removeprefix('sqlite:///')} is not there); run a sweep, or mosweep sync")
    print(f"MLflow: http://127.0.0.1:{args.port}/{_page(args.sweep, uri)}   (Ctrl-C ends it)", flush=True)
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(args.port)]
    os.execve(sys.executable, command, environment)


def _page(place: str | None, uri: str) -> str:
    """Where MLflow shows a sweep's trials, with factors and metrics as columns; the start page where there is no sweep."""
    from mosweep.recorders.mlflow import project

    if place is None and not list(Path("multirun").glob("**/experiment.yaml")):
        return ""
    return project(find_sweep(place).result(), uri).page


def _doctor(arguments: Sequence[str]) -> int:
    args = _parser("doctor", "What is installed, which backends would work here and why not.", sweep=False).parse_args(arguments)
    from mosweep.reports.doctor import diagnose, diagnosis_text

    checks = diagnose()
    if args.json:
        _print_json([asdict(check) for check in checks])
    else:
        print(diagnosis_text(checks))
    return 0
