"""Verbs that show sweeps elsewhere: ``sync``, ``ui``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mosweep.cli.options import print_json
from mosweep.core.errors import UserError
from mosweep.sweep.folder import Sweep, find_sweep

__all__ = ["sync", "tracking_of", "ui"]


def sync(arguments: Sequence[str]) -> int:
    """Project sweeps into MLflow or W&B again."""
    parser = argparse.ArgumentParser(
        prog="mosweep sync",
        description="Project sweeps into MLflow or W&B again; disk is the truth.",
    )
    parser.add_argument(
        "sweeps",
        nargs="*",
        help="folders or names of sweeps; by default all under multirun/ and outputs/",
    )
    parser.add_argument(
        "--to",
        choices=["mlflow", "wandb", "mlflow+wandb"],
        help="by default what the sweep's tracking says, else MLflow",
    )
    parser.add_argument("--uri", help="MLflow's tracking URI; by default the sweep's own")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    from mosweep.execution.launch import tracking_uri
    from mosweep.recorders import mlflow, wandb

    rows = []
    for sweep in [find_sweep(place) for place in args.sweeps] or _all_sweeps():
        result = sweep.result()
        tracking = tracking_of(sweep.launches[-1].design if sweep.launches else {})
        for name in (
            args.to.split("+")
            if args.to
            else ["mlflow"]
            if args.uri
            else tracking.recorders or ["mlflow"]
        ):
            to_wandb = name == "wandb"
            done = (
                wandb.project(result, tracking)
                if to_wandb
                else mlflow.project(result, args.uri or tracking_uri(tracking.uri))
            )
            rows.append({"sweep": os.path.relpath(sweep.folder), "recorder": name, **asdict(done)})
    if args.json:
        print_json(rows)
    else:
        for row in rows:
            print(
                "{sweep}: {recorder}: {created} runs created, {updated} updated, {unchanged} "
                "unchanged, {failed} failed".format(**row)
            )
    return 1 if any(row["failed"] for row in rows) else 0


def _all_sweeps() -> list[Sweep]:
    found = sorted(
        path.parent.absolute()
        for root in ("multirun", "outputs")
        for path in Path(root).glob("**/experiment.yaml")
    )
    if not found:
        raise UserError("there is no sweep under multirun/ or outputs/")
    return [Sweep(folder) for folder in found]


def tracking_of(design: Mapping[str, Any]) -> Any:
    """How a sweep is tracked, by its design."""
    from mosweep.config.groups import Tracking

    return Tracking(**design.get("tracking", {}))


def ui(arguments: Sequence[str]) -> int:
    """Become the server of MLflow's user interface."""
    parser = argparse.ArgumentParser(
        prog="mosweep ui", description="Open MLflow's user interface, on this machine only."
    )
    parser.add_argument(
        "sweep",
        nargs="?",
        help="the sweep to show: its folder, or its name under multirun/; by default the latest",
    )
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument(
        "--uri", help="MLflow's tracking URI; by default the SQLite file in mosweep's home"
    )
    args = parser.parse_args(arguments)
    import importlib.util

    from mosweep.core.errors import MissingExtra
    from mosweep.execution.launch import tracking_uri

    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtra("mlflow", "mlflow", "the user interface")
    uri = tracking_uri(args.uri)
    if (
        uri.startswith("sqlite:///")
        and not Path(uri.removeprefix("sqlite:///")).exists()
        and args.sweep is None
    ):
        raise UserError(
            f"nothing has been recorded yet ({uri.removeprefix('sqlite:///')} is not there); run "
            "a sweep, or mosweep sync"
        )
    print(
        f"MLflow: http://127.0.0.1:{args.port}/{_page(args.sweep, uri)}   (Ctrl-C ends it)",
        flush=True,
    )
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(args.port),
    ]
    os.execve(sys.executable, command, environment)


def _page(place: str | None, uri: str) -> str:
    """Where MLflow shows a sweep's trials, with factors and metrics as columns; the start page
    where there is no sweep.
    """
    from mosweep.recorders.mlflow import project

    if place is None and not list(Path("multirun").glob("**/experiment.yaml")):
        return ""
    return project(find_sweep(place).result(), uri).page
