"""``mosweep cancel``: end what a sweep has running or waiting."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mosweep.cli.options import parser_of, print_json
from mosweep.sweep.folder import Sweep, find_sweep

if TYPE_CHECKING:
    pass
from mosweep.execution.observe import observed

__all__ = ["cancel"]


def cancel(arguments: Sequence[str]) -> int:
    """End what a sweep has running or waiting."""
    text = (
        "End what a sweep has running or waiting, here, on a cluster or at a provider. What is "
        "done stays; mosweep run goes on with it."
    )
    parser = parser_of("cancel", text)
    args = parser.parse_args(arguments)
    from mosweep.launchers.lookup import launchers_with_jobs

    sweep = find_sweep(args.sweep)
    result = observed(sweep)
    open_ones = {
        s.key: s
        for trial in result.trials
        for s in trial.stages
        if s.status in ("running", "pending")
    }
    drivers = _end_drivers(sweep)
    jobs: dict[str, str] = {}
    places: Counter[str] = Counter()
    for launch in sweep.launches:
        for launcher in launchers_with_jobs(launch.store):
            wanted = [key for key in launch.stages if key in open_ones and key not in jobs]
            ended = launcher.withdraw(launch.store, wanted)
            jobs |= ended
            places[f"jobs in {launcher.title}"] += len(ended)
    from mosweep.execution.launch import cancel_jobs

    begun = {
        stage.key
        for trial in result.trials
        for stage in trial.stages
        if stage.status != "succeeded"
    }
    remote = {
        key: job for launch in sweep.launches for key, job in cancel_jobs(launch, begun).items()
    }
    sweep.journal.append_all(
        {
            "event": "cancelled",
            "key": key,
            "label": stage.label,
            "job": {**jobs, **remote}.get(key),
            "error": "cancelled by mosweep cancel",
        }
        for key, stage in open_ones.items()
    )
    if args.json:
        print_json(
            {
                "stages": len(open_ones),
                "jobs": sorted([*jobs.values(), *remote.values()]),
                "processes": drivers,
            }
        )
    elif open_ones or remote:
        places["at a provider"] += len(remote)
        where = " and ".join(f"{count} {place}" for place, count in places.items() if count)
        among = f", among them {where}" if where else ""
        print(f"cancelled: {len(open_ones)} stages{among}; mosweep run goes on with them")
    else:
        print("nothing to cancel: no stage is running or waiting")
    return 0


def _end_drivers(sweep: Sweep) -> list[int]:
    """Interrupt the processes of this machine that are running the sweep, as Ctrl-C would; their
    pids.
    """
    from mosweep.core.claims import start_time

    ended = []
    for event in sweep.journal.read("launch"):
        pid, since = event.get("pid"), event.get("since")
        if (
            event.get("host") == socket.gethostname()
            and pid
            and since
            and start_time(pid) == since
            and pid != os.getpid()
        ):
            os.kill(pid, signal.SIGINT)
            ended.append(pid)
    # a driver in the background may ignore Ctrl-C
    for patience, stronger in ((10.0, signal.SIGTERM), (5.0, signal.SIGKILL)):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(start_time(pid) for pid in ended):
            time.sleep(0.1)
        for pid in ended:
            if start_time(pid):
                os.kill(pid, stronger)
    return ended
