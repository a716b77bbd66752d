"""The command line: runs a verb, or else the Hydra application.

Only this module turns errors into exit statuses: 0 all trials succeeded · 1 some trial failed ·
2 the user's mistake, nothing was started · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mosweep import __version__
from mosweep.core.errors import MissingExtra, MosweepError, UserError
from mosweep.core.imports import working_directory_last
from mosweep.core.terminal import write_any_text

__all__ = ["VERBS", "dispatch", "main", "run_verb"]

VERBS = {
    "help": "show the verbs; or explain a key, such as lora.rank",
    "list": "list the sweeps: name, last launch, trials, state",
    "plan": "show what a command would run: trials, cached stages, stages to run",
    "status": "show the state of a sweep, by trial and stage",
    "progress": "the same as status",
    "watch": "show a live table of a sweep, from any shell that sees its folder",
    "run": "resume a sweep: keep what succeeded, run the rest",
    "summary": "show a sweep's results, by trial",
    "cancel": "stop a sweep's running and pending stages, here, on a cluster, at a provider",
    "explain": "say why a trial's stages are cached, or how they differ from the nearest ones",
    "contamination": "find evaluation items in the training data; scores without them",
    "analyze": "write a sweep's report: an HTML page, Markdown, plots, tables",
    "bundle": "pack a sweep into one archive, with everything behind its numbers",
    "verify": "check a bundle on any machine: recompute every digest, key and mean",
    "cache": "inspect the store: list, show, stats, size, verify, clear, gc, export, import",
    "zoo": "browse model organisms: list, show NAME",
    "sync": "record sweeps in MLflow or W&B again",
    "ui": "open MLflow's user interface on this machine",
    "doctor": "check what is installed, which backends work here, and how to fix the others",
}

#: Other names of verbs.
_ALIASES = {"help": "reference", "list": "sweeps", "progress": "status"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``mosweep`` and ``python -m mosweep``; exits with the status."""
    working_directory_last()
    write_any_text()
    sys.exit(dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def dispatch(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        if arguments[:1] == ["--version"]:
            print(f"mosweep {__version__}")
            return 0
        if not arguments:
            print_verbs()
            print("mosweep --help shows the configuration groups and all keys.")
            return 0
        if arguments[0] in VERBS:
            return run_verb(arguments[0], arguments[1:])
        if (
            not arguments[0].startswith("-")
            and "=" not in arguments[0]
            and not arguments[0].startswith(("+", "~"))
        ):
            from mosweep.core.errors import choices

            raise UserError(
                f"{arguments[0]}: not a verb, and not an override (key=value); "
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
        print("\nmosweep: interrupted; run the same command to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Run ``mosweep VERB arguments`` and return its exit status.

    A verb is the function of that name in the module of that name.
    """
    name = _ALIASES.get(verb, verb)
    function: Callable[[Sequence[str]], int] = getattr(import_module(f"mosweep.cli.{name}"), name)
    return function(arguments)


def _guarded(arguments: list[str]) -> int:
    from mosweep.design.application import hydra_main

    run: Callable[[Sequence[str]], int] = hydra_main
    return run(arguments)


def print_verbs() -> None:
    """Print the verbs, above Hydra's own help."""
    print("mosweep VERB …          run a verb; see mosweep VERB --help")
    print("mosweep OVERRIDES …     run one trial, such as model=a lora.rank=4")
    print("mosweep -m OVERRIDES …  run a sweep, such as model=a,b lora.rank=4,64\n")
    for verb, text in VERBS.items():
        print(f"  {verb:<13} {text}")
    print()
