"""Options and output that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosweep.core.terminal import json_line
from mosweep.core.types import Stage, Trial

if TYPE_CHECKING:
    from mosweep.core.store import Store
    from mosweep.sweep.plan import Plan

__all__ = ["add_selection", "parser_of", "print_json", "selected_plan"]


def parser_of(verb: str, text: str, *, sweep: bool = True) -> argparse.ArgumentParser:
    """The parser of ``mosweep VERB``; with ``sweep`` it takes a sweep."""
    parser = argparse.ArgumentParser(prog=f"mosweep {verb}", description=text)
    if sweep:
        parser.add_argument(
            "sweep",
            nargs="?",
            help="the sweep's folder, or its name under multirun/ (default: the latest)",
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def print_json(data: Any) -> None:
    """Print ``data`` as JSON."""
    print(json_line(data, indent=2))


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select stages and trials."""
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
        help="only these trials: a name, a glob, or a condition such as lora.rank>=16; repeatable",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="rerun the selected stages and everything that depends on them; keep the rest",
    )


def selected_plan(
    trials: Sequence[Trial], store: Store, args: argparse.Namespace
) -> tuple[Plan, Mapping[str, Stage]]:
    """The plan of the selected trials and stages, and the stages that ``--force`` reruns by key."""
    from dataclasses import replace

    from mosweep.sweep.plan import make_plan
    from mosweep.sweep.selection import forced, select_stages, select_trials, with_stages

    stages = [name for names in args.stage for name in names.split(",")]
    chosen = select_trials(trials, args.trials)
    rerun = forced(trials, chosen, stages) if args.force else {}
    selected = select_stages(
        chosen, stages, lambda key: key not in rerun and store.read(key) is not None
    )
    plan = make_plan(with_stages(trials, selected, rerun), store)
    kept = {key: record for key, record in plan.records.items() if key not in rerun}
    return replace(plan, records=kept), rerun
