"""``mosweep ui``: open MLflow's user interface on this machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mosweep.core.errors import UserError
from mosweep.sweep.folder import find_sweep, sweep_folders

__all__ = ["ui"]


def ui(arguments: Sequence[str]) -> int:
    """Replace this process with the server of MLflow's user interface."""
    parser = argparse.ArgumentParser(
        prog="mosweep ui", description="Open MLflow's user interface, on this machine only."
    )
    parser.add_argument(
        "sweep",
        nargs="?",
        help="the sweep to show: its folder, or its name under multirun/ (default: the latest)",
    )
    parser.add_argument("--port", type=int, default=5000, help="the server's port (default: 5000)")
    parser.add_argument(
        "--uri", help="MLflow's tracking URI (default: the SQLite file in MOSWEEP_HOME)"
    )
    args = parser.parse_args(arguments)
    from mosweep.core.errors import MissingExtra
    from mosweep.core.imports import installed
    from mosweep.execution.launch import tracking_uri

    if not installed("mlflow"):
        raise MissingExtra("mlflow", "mlflow", "the user interface")
    uri = tracking_uri(args.uri)
    if (
        uri.startswith("sqlite:///")
        and not Path(uri.removeprefix("sqlite:///")).exists()
        and args.sweep is None
    ):
        raise UserError(
            f"nothing is recorded yet ({uri.removeprefix('sqlite:///')} does not exist); run "
            "a sweep, or mosweep sync"
        )
    print(
        f"MLflow: http://127.0.0.1:{args.port}/{_page(args.sweep, uri)}   (stop with Ctrl-C)",
        flush=True,
    )
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # Modules of the working directory are not for MLflow.
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
    """The page that shows a sweep's trials, with factors and metrics as columns.

    Empty, for the start page, if there is no sweep.
    """
    from mosweep.recorders.mlflow import project

    if place is None and not sweep_folders():
        return ""
    return project(find_sweep(place).result(), uri).page
