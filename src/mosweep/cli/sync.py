"""``mosweep sync``: record sweeps in MLflow or W&B again."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict

from mosweep.cli.options import print_json
from mosweep.core.errors import UserError
from mosweep.execution.launch import tracking_of
from mosweep.sweep.folder import Sweep, find_sweep, sweep_folders

__all__ = ["sync"]


def sync(arguments: Sequence[str]) -> int:
    """Record sweeps in MLflow or W&B again."""
    parser = argparse.ArgumentParser(
        prog="mosweep sync",
        description="Record sweeps in MLflow or W&B again, from their folders on disk.",
    )
    parser.add_argument(
        "sweeps",
        nargs="*",
        help="folders or names of sweeps (default: all under multirun/ and outputs/)",
    )
    parser.add_argument(
        "--to",
        choices=["mlflow", "wandb", "mlflow+wandb"],
        help="where to record (default: the sweep's own tracking, else mlflow)",
    )
    parser.add_argument("--uri", help="MLflow's tracking URI (default: the sweep's own)")
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
            counts = (
                wandb.project(result, tracking)
                if name == "wandb"
                else mlflow.project(result, args.uri or tracking_uri(tracking.uri))
            )
            rows.append(
                {"sweep": os.path.relpath(sweep.folder), "recorder": name, **asdict(counts)}
            )
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
    folders = sorted(
        folder.absolute() for root in ("multirun", "outputs") for folder in sweep_folders(root)
    )
    if not folders:
        raise UserError("no sweep under multirun/ or outputs/; run one, or give its folder")
    return [Sweep(folder) for folder in folders]
