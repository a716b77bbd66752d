"""What runs in a Slurm job: ``python -m mosweep.job STORE SUBMISSION``, one stage, the array element that Slurm says we are.

The stage comes as JSON from the submission's folder; the same ``perform`` as in a local worker runs it. The element leaves
``<i>.started`` and ``<i>.ended`` in the submission's folder, and the record in the store. Exit status 0 means that the record is there,
so Slurm's ``afterok`` starts what waits for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mosweep.core.store import Store
from mosweep.worker import perform_now

__all__ = ["main"]

#: How long an input's record may take to be seen on this machine, and how often another owner of the stage is looked at, in seconds.
VISIBLE_S, LOOK_S = 30.0, 2.0


def main(store: Store, folder: Path) -> int:
    """Run the element's stage; the exit status."""
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    if (folder / "void").exists():
        print("this submission was given up before Slurm had it; nothing to do", file=sys.stderr)
        return 1
    begun = time.time()
    spec = _spec(folder, index)
    _heed_signals(spec)
    _await_inputs(store, spec)

    def started(event: dict[str, Any]) -> None:
        _write(folder / f"{index}.started", {**event, "time": begun, "host": os.environ.get("SLURMD_NODENAME", "")})

    while (event := perform_now(store, spec, started))["event"] == "busy":
        time.sleep(LOOK_S)  # another sweep's process is at it: its result will do, or its end makes room
    _write(folder / f"{index}.ended", {**event, "time": time.time()})
    return 0 if event["event"] == "finished" else 1


def _spec(folder: Path, index: int) -> dict[str, Any]:
    mark = f'{{"index":{index},'
    with open(folder / "stages.jsonl", encoding="utf-8") as file:
        for line in file:
            if line.startswith(mark):
                spec: dict[str, Any] = json.loads(line)["spec"]
                return spec
    raise SystemExit(f"{folder}/stages.jsonl has no element {index}")


def _await_inputs(store: Store, spec: dict[str, Any]) -> None:
    """Slurm started us, so the inputs are there; a network file system may show them late."""
    deadline = time.monotonic() + VISIBLE_S
    while time.monotonic() < deadline and not all(store.record_path(key).exists() for key in spec["needs"].values()):
        time.sleep(0.5)


def _heed_signals(spec: dict[str, Any]) -> None:
    """When Slurm announces the end of the time limit, go back into the queue with what was saved so far, a bounded number of times.

    SIGTERM is the first word of a preemption, a cancellation or a time-out, and SIGKILL the last. Who ends at the first has failed, as
    Slurm sees it, and is not requeued; and what gets done in between counts.
    """
    end, allowed = os.environ.get("SLURM_JOB_END_TIME"), int(os.environ.get("MOSWEEP_MAX_TIMEOUTS", "0"))
    margin = float(os.environ.get("MOSWEEP_SIGNAL_DELAY_S", "0")) + 60

    def warned(number: int, frame: object) -> None:
        left = float(end) - time.time() if end else 0.0
        if left > margin:
            print("mosweep: Slurm announces preemption", file=sys.stderr, flush=True)
        elif int(os.environ.get("SLURM_RESTART_COUNT", "0")) < allowed:
            import subprocess

            print(f"mosweep: {spec['label']} is near its time limit: back into the queue", file=sys.stderr, flush=True)
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        else:
            print(f"mosweep: {spec['label']} is near its time limit", file=sys.stderr, flush=True)

    def told(number: int, frame: object) -> None:
        print("mosweep: Slurm will end this job", file=sys.stderr, flush=True)

    signal.signal(signal.SIGUSR2, warned)
    signal.signal(signal.SIGTERM, told)


def _write(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(Store(Path(sys.argv[1])), Path(sys.argv[2])))
