"""The command line: a verb, or else the Hydra application. The only place that turns errors into
exit statuses.

Exit status: 0 all trials succeeded · 1 some trial failed · 2 the user's mistake, nothing was
started · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mosweep import __version__
from mosweep.core.errors import MissingExtra, MosweepError, UserError

__all__ = ["VERBS", "dispatch", "main", "run_verb"]

VERBS = {
    "plan": "what a command would run: trials, cached stages, stages to run (takes the sweep's "
    "overrides)",
    "status": "where a sweep stands, trial by trial and stage by stage",
    "progress": "the same as status",
    "watch": "a live table of a sweep, from any shell that sees its folder",
    "run": "go on with a sweep: what succeeded is kept, the rest runs",
    "summary": "a sweep's trials with what was measured",
    "cancel": "end what a sweep has running or waiting, here, on a cluster or at a provider",
    "explain": "why a stage of a trial is cached, or what differs from the nearest one that is",
    "contamination": "which evaluation items were in the training data, and the scores "
    "without them",
    "analyze": "a sweep as a report: a page for the browser, Markdown, plots, tables",
    "bundle": "a sweep as one archive, with everything that its numbers rest on",
    "verify": "check a bundle, anywhere: every digest, key and mean in it is derived again",
    "cache": "what is in the store: list, show, stats, size, verify, clear, gc, export, import",
    "zoo": "model organisms to start from: list, show NAME",
    "sync": "project sweeps into MLflow or W&B again",
    "ui": "open MLflow's user interface on this machine",
    "doctor": "what is installed, which backends would work here and why not",
}

#: Another name for a verb.
_SAME = {"progress": "status"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``mosweep`` and ``python -m mosweep``; exits with the status."""
    if (here := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.append(here)  # modules of the user's own, behind all that is installed
    sys.exit(dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def dispatch(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        if arguments[:1] == ["--version"]:
            print(f"mosweep {__version__}")
            return 0
        if arguments[:1] and arguments[0] in VERBS:
            return run_verb(arguments[0], arguments[1:])
        if (
            arguments[:1]
            and not arguments[0].startswith("-")
            and "=" not in arguments[0]
            and not arguments[0].startswith(("+", "~"))
        ):
            from mosweep.core.errors import choices

            raise UserError(
                f"{arguments[0]}: neither a verb nor an override (key=value); "
                f"{choices(arguments[0], VERBS)}"
            )
        if {"--help", "-h"} & set(arguments):
            print_verbs()
        return _guarded(arguments)
    except (UserError, MissingExtra) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"mosweep: {error}", file=sys.stderr)
        return 2
    except MosweepError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"mosweep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmosweep: interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Run ``mosweep VERB arguments``, which is in the module of that name; the exit status."""
    name = _SAME.get(verb, verb)
    function: Callable[[Sequence[str]], int] = getattr(import_module(f"mosweep.cli.{name}"), name)
    return function(arguments)


def _guarded(arguments: list[str]) -> int:
    from mosweep.design.application import hydra_main

    run: Callable[[Sequence[str]], int] = hydra_main
    return run(arguments)


def print_verbs() -> None:
    """The verbs, above Hydra's own help."""
    print("mosweep VERB …          one of the verbs below; mosweep VERB --help tells more")
    print(
        "mosweep OVERRIDES …     one trial; mosweep -m OVERRIDES … a sweep: model=a,b "
        "lora.rank=4,64\n"
    )
    for verb, text in VERBS.items():
        print(f"  {verb:<13} {text}")
    print()
