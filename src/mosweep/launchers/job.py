"""The program of a ``JobLauncher``'s job: ``python -m mosweep.launchers.job STORE FOLDER``.

The stage is ``stage.json`` in the job's folder. The job writes ``started`` and ``ended`` there, and
the record into the store. Exit status 0 means that the record exists.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mosweep.core.files import write_whole
from mosweep.core.imports import working_directory_last
from mosweep.core.store import Store
from mosweep.core.terminal import write_utf8
from mosweep.launchers.worker import Event, perform_now

__all__ = ["await_inputs", "run_to_end", "has_inputs", "main"]

#: Seconds until an input's record must be visible on this machine.
VISIBLE_S = 30.0
#: Seconds between checks of a stage that another process has claimed, at first and at most.
SOON_S = 0.05
LATER_S = 2.0


def main(store: Store, folder: Path) -> int:
    """Run the job's stage and return the exit status."""
    if (folder / "void").exists():
        print("this job was abandoned before it started", file=sys.stderr)
        return 1
    spec = json.loads((folder / "stage.json").read_bytes())
    begun = time.time()

    def started(event: Event) -> None:
        write_whole(folder / "started", json.dumps({**event, "time": begun}))

    await_inputs(store, spec)
    event = run_to_end(store, spec, started)
    write_whole(folder / "ended", json.dumps({**event, "time": time.time()}))
    return 0 if event["event"] == "finished" else 1


def run_to_end(store: Store, spec: Mapping[str, Any], started: Callable[[Event], None]) -> Event:
    """Run the stage. While another process has claimed it, wait for its result."""
    pause = SOON_S
    while (event := perform_now(store, spec, started))["event"] == "busy":
        time.sleep(pause)
        pause = min(2 * pause, LATER_S)
    return event


def await_inputs(store: Store, spec: Mapping[str, Any]) -> None:
    """Wait for the inputs' records. They exist, but a network file system may show them late."""
    deadline = time.monotonic() + VISIBLE_S
    while time.monotonic() < deadline and not has_inputs(store, spec):
        time.sleep(0.5)


def has_inputs(store: Store, spec: Mapping[str, Any]) -> bool:
    """Whether the records of all inputs are visible."""
    return all(store.record_path(key).exists() for key in spec["needs"].values())


if __name__ == "__main__":
    working_directory_last()
    write_utf8()
    sys.exit(main(Store(Path(sys.argv[1])), Path(sys.argv[2])))
