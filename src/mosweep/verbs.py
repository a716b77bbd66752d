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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mosweep.core.errors import UserError
from mosweep.core.results import Queued, SweepResult
from mosweep.core.types import Resources, Stage, Trial, load_work
from mosweep.sweep import Launch, Sweep, find_sweep

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
        "sync": _sync,
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
    parser.add_argument("overrides", nargs="*", help="the overrides of the sweep, as after mosweep -m")
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted, since a sweep's command has it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_intermixed_args(list(arguments))
    from mosweep.app import planned
    from mosweep.plan import make_plan
    from mosweep.reports.plan import plan_data, plan_text
    from mosweep.run import store_of

    trials, config = planned(args.overrides)
    plan = make_plan(trials, store_of(config))
    if args.json:
        _print_json(plan_data(plan))
    else:
        print(plan_text(plan))
    return 0


def _run(arguments: Sequence[str]) -> int:
    parser = _parser("run", "Go on with a sweep: what succeeded is kept, the rest runs.")
    parser.add_argument("--workers", type=int, help="run here, with so many processes at a time, wherever the sweep ran before")
    parser.add_argument("--no-wait", action="store_true", help="with Slurm: hand in what is missing and return")
    args = parser.parse_args(arguments)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    sweep = find_sweep(args.sweep)
    trials, launch = _frozen(sweep)
    from mosweep.plan import make_plan
    from mosweep.reports.summary import print_outcome, summary_data
    from mosweep.run import launch as run_plan
    from mosweep.run import launcher_of, link_and_record

    described = {"local": {"workers": args.workers}} if args.workers else launch.design.get("launcher") or {"local": {}}
    if "slurm" in described:
        described = {"slurm": {**described["slurm"], "wait": not args.no_wait}}
    launcher = launcher_of(described)
    store = launch.store
    plan = make_plan(trials, store)
    if plan.to_run:
        launcher.check(plan)
    sweep.note_launch(launch.file)
    if run_plan(plan, store, sweep, launcher, quiet=args.json).detached:
        return 0
    result = link_and_record(trials, _tracking(launch.design), store, sweep, plan.records)
    if args.json:
        _print_json(summary_data(result))
    else:
        print_outcome(result, os.path.relpath(sweep.folder))
    return 0 if all(trial.status == "succeeded" for trial in result.trials) else 1


def _cancel(arguments: Sequence[str]) -> int:
    parser = _parser(
        "cancel", "End what a sweep has running or waiting, here or in Slurm. What is done stays; mosweep run goes on with it."
    )
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
    sweep.journal.append_all(
        {"event": "cancelled", "key": key, "label": stage.label, "job": jobs.get(key), "error": "cancelled by mosweep cancel"}
        for key, stage in open_ones.items()
    )
    if args.json:
        _print_json({"stages": len(open_ones), "jobs": sorted(jobs.values()), "processes": drivers})
    elif open_ones:
        print(f"cancelled: {len(open_ones)} stages, among them {len(jobs)} jobs in Slurm; mosweep run goes on with them")
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
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and any(start_time(pid) for pid in ended):
        time.sleep(0.1)
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


def _tracking(design: Mapping[str, Any]) -> Any:
    from mosweep.config import Tracking

    return Tracking(**design.get("tracking", {}))


# -- projections -------------------------------------------------------------------------------------------------------


def _sync(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mosweep sync", description="Project sweeps into MLflow again; disk is the truth.")
    parser.add_argument("sweeps", nargs="*", help="folders or names of sweeps; by default all under multirun/ and outputs/")
    parser.add_argument("--uri", help="MLflow's tracking URI; by default the sweep's own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    from mosweep.recorders.mlflow import project
    from mosweep.run import tracking_uri

    rows = []
    for sweep in [find_sweep(place) for place in args.sweeps] or _all_sweeps():
        result = sweep.result()
        done = project(result, args.uri or tracking_uri(_tracking(result.design).uri))
        rows.append({"sweep": os.path.relpath(sweep.folder), **asdict(done)})
    if args.json:
        _print_json(rows)
    else:
        for row in rows:
            print("{sweep}: {created} runs created, {updated} updated, {unchanged} unchanged, {failed} failed".format(**row))
    return 1 if any(row["failed"] for row in rows) else 0


def _all_sweeps() -> list[Sweep]:
    found = sorted(path.parent.absolute() for root in ("multirun", "outputs") for path in Path(root).glob("**/experiment.yaml"))
    if not found:
        raise UserError("there is no sweep under multirun/ or outputs/")
    return [Sweep(folder) for folder in found]


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
