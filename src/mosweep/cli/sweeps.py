"""``mosweep list``: the sweeps under ``multirun/``."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mosweep.cli.options import print_json
from mosweep.sweep.folder import Sweep, sweep_folders

__all__ = ["sweeps"]


def sweeps(arguments: Sequence[str]) -> int:
    """List the sweeps, latest first."""
    parser = argparse.ArgumentParser(
        prog="mosweep list", description="List the sweeps under multirun/, latest first."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    found = sorted(
        (_described(folder) for folder in sweep_folders()), key=lambda row: -row["launched"]
    )
    if args.json:
        print_json(found)
    elif not found:
        print("no sweep under multirun/ yet; mosweep -m OVERRIDES runs one")
    else:
        print(_table(found))
    return 0


def _described(folder: Path) -> dict[str, Any]:
    """Name, time of the last launch (seconds since 1970), trials by status, and folder."""
    sweep = Sweep(folder.absolute())
    result = sweep.result()
    times = [float(event["time"]) for event in sweep.journal.read("launch")]
    return {
        "name": folder.relative_to("multirun").as_posix(),
        "launched": max(times, default=folder.stat().st_mtime),
        "trials": len(result.trials),
        "status": dict(Counter(trial.status for trial in result.trials)),
        "folder": str(folder),
    }


def _table(found: Sequence[dict[str, Any]]) -> str:
    from mosweep.core.table import format_table

    rows = [
        [
            row["name"],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["launched"])),
            row["trials"],
            ", ".join(f"{count} {status}" for status, count in row["status"].items()),
        ]
        for row in found
    ]
    return format_table(["sweep", "last launch", "trials", "state"], rows)
