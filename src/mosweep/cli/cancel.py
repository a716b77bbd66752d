"""``mosweep cancel``: stop a sweep's running and pending stages."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Collection, Sequence

from mosweep.cli.options import parser_of, print_json
from mosweep.execution.observe import observed
from mosweep.sweep.folder import Sweep, find_sweep

__all__ = ["cancel"]


def cancel(arguments: Sequence[str]) -> int:
    """Stop a sweep's running and pending stages."""
    text = (
        "Stop a sweep's running and pending stages, on this machine, on a cluster and at a "
        "provider. Finished stages are kept; mosweep run resumes the sweep."
    )
    parser = parser_of("cancel", text)
    args = parser.parse_args(arguments)
    sweep = find_sweep(args.sweep)
    result = observed(sweep)
    unfinished = {
        stage.key: stage
        for trial in result.trials
        for stage in trial.stages
        if stage.status in ("running", "pending")
    }
    drivers = _end_drivers(sweep)
    jobs, places = _withdraw_jobs(sweep, unfinished)
    incomplete = {
        stage.key
        for trial in result.trials
        for stage in trial.stages
        if stage.status != "succeeded"
    }
    remote = _cancel_remote(sweep, incomplete)
    sweep.journal.append_all(
        {
            "event": "cancelled",
            "key": key,
            "label": stage.label,
            "job": {**jobs, **remote}.get(key),
            "error": "cancelled by mosweep cancel",
        }
        for key, stage in unfinished.items()
    )
    if args.json:
        print_json(
            {
                "stages": len(unfinished),
                "jobs": sorted([*jobs.values(), *remote.values()]),
                "processes": drivers,
            }
        )
    elif unfinished or remote:
        places["at a provider"] += len(remote)
        where = " and ".join(f"{count} {place}" for place, count in places.items() if count)
        among = f", among them {where}" if where else ""
        print(f"cancelled: {len(unfinished)} stages{among}; resume with mosweep run")
    else:
        print("nothing to cancel: no stage is running or pending")
    return 0


def _withdraw_jobs(
    sweep: Sweep, unfinished: Collection[str]
) -> tuple[dict[str, str], Counter[str]]:
    """Withdraw queued and running jobs. Returns them by stage, and their number by place."""
    from mosweep.launchers.lookup import launchers_with_jobs

    jobs: dict[str, str] = {}
    places: Counter[str] = Counter()
    for launch in sweep.launches:
        for launcher in launchers_with_jobs(launch.store):
            keys = [key for key in launch.stages if key in unfinished and key not in jobs]
            withdrawn = launcher.withdraw(launch.store, keys)
            jobs |= withdrawn
            places[f"jobs in {launcher.title}"] += len(withdrawn)
    return jobs, places


def _cancel_remote(sweep: Sweep, incomplete: Collection[str]) -> dict[str, str]:
    """Cancel jobs at providers, and return them by stage."""
    from mosweep.execution.launch import cancel_jobs

    return {
        key: job
        for launch in sweep.launches
        for key, job in cancel_jobs(launch, incomplete).items()
    }


def _end_drivers(sweep: Sweep) -> list[int]:
    """Interrupt the processes on this machine that run the sweep, as Ctrl-C would.

    Returns their process ids. A process that ignores the interrupt is terminated, then killed.
    """
    from mosweep.core.claims import start_time

    interrupted = []
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
            interrupted.append(pid)
    # A driver in the background may ignore Ctrl-C.
    for timeout, stronger_signal in ((10.0, signal.SIGTERM), (5.0, signal.SIGKILL)):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(start_time(pid) for pid in interrupted):
            time.sleep(0.1)
        for pid in interrupted:
            if start_time(pid):
                os.kill(pid, stronger_signal)
    return interrupted
