"""Verbs that look at a sweep: ``status``, ``watch``, ``summary``, ``explain``."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mosweep.cli.options import parser_of, print_json
from mosweep.core.errors import UserError
from mosweep.core.results import Queued, SweepResult
from mosweep.launchers.lookup import launchers_with_jobs
from mosweep.sweep.folder import Sweep, find_sweep

__all__ = ["explain", "observed", "status", "summary", "watch"]


def status(arguments: Sequence[str]) -> int:
    """Where a sweep stands."""
    args = parser_of(
        "status", "Where a sweep stands, trial by trial and stage by stage."
    ).parse_args(arguments)
    result = observed(find_sweep(args.sweep))
    from mosweep.reports.status import status_data, status_text

    if args.json:
        print_json(status_data(result))
    else:
        print(status_text(result))
    return 0


def watch(arguments: Sequence[str]) -> int:
    """A live table of a sweep."""
    parser = parser_of(
        "watch",
        "A live table of a sweep, until all its trials have ended. Watching changes nothing; "
        "Ctrl-C ends it.",
    )
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (default 5)"
    )
    args = parser.parse_args(arguments)
    if args.every <= 0:
        raise UserError(f"--every {args.every}: must be more than 0 seconds")
    sweep = find_sweep(args.sweep)
    from mosweep.reports.status import status_data, status_text

    drawn, last = 0, ""
    while True:
        result = observed(Sweep(sweep.folder))
        ended = all(trial.status in ("succeeded", "failed", "cancelled") for trial in result.trials)
        if args.json:
            print(json.dumps(status_data(result), ensure_ascii=False, default=str), flush=True)
        else:
            width, height = shutil.get_terminal_size()
            text = status_text(result, max(5, height - 8))
            if sys.stdout.isatty():
                lines = [line[: width - 1] for line in text.splitlines()]
                sys.stdout.write(
                    (f"\x1b[{drawn}F\x1b[J" if drawn else "") + "\n".join(lines) + "\n"
                )
                drawn = len(lines)
            elif text != last:
                print(text + "\n", flush=True)
            last = text
            sys.stdout.flush()
        if ended:
            return 0 if all(trial.status == "succeeded" for trial in result.trials) else 1
        time.sleep(args.every)


def summary(arguments: Sequence[str]) -> int:
    """What was measured."""
    args = parser_of(
        "summary", "A sweep's trials with what was measured; failures are listed, never dropped."
    ).parse_args(arguments)
    result = observed(find_sweep(args.sweep))
    from mosweep.reports.summary import failures_text, summary_data, summary_text

    if args.json:
        print_json(summary_data(result))
    else:
        print(summary_text(result))
        failures = failures_text(result)
        print(failures, end="\n" if failures else "")
    return 0


def explain(arguments: Sequence[str]) -> int:
    """Why a stage is cached, or why not."""
    parser = parser_of(
        "explain",
        "Why a trial's stages are cached, or what differs from the nearest result that is there.",
        sweep=False,
    )
    parser.add_argument("trial", help="the trial's name, or its folder")
    parser.add_argument(
        "--sweep",
        help="the sweep's folder or name; by default the latest, or the one the folder is in",
    )
    args = parser.parse_args(arguments)
    place = Path(args.trial)
    sweep = (
        Sweep(place.parent.absolute())
        if (place / "config.yaml").exists() and not args.sweep
        else find_sweep(args.sweep)
    )
    from mosweep.reports.explain import explain_data, explain_text

    data = explain_data(sweep, place.name)
    if args.json:
        print_json(data)
    else:
        print(explain_text(data))
    return 0


def observed(sweep: Sweep) -> SweepResult:
    """What is known of a sweep, with what launchers say of the jobs that they have for it."""
    queued: dict[str, Queued] = {}
    for launch in sweep.launches:
        for launcher in launchers_with_jobs(launch.store, strict=False):
            queued |= launcher.observe(launch.store, launch.stages)
    return sweep.result(queued=queued)
