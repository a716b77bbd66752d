"""What runs in a Slurm job: ``python -m mosweep.launchers.slurm.job STORE SUBMISSION``, one stage,
the array element that Slurm says we are.

The stage comes as JSON from the submission's folder; the same ``perform`` as in a local worker runs
it. The element leaves ``<i>.started`` and ``<i>.ended`` in the submission's folder, and the record
in the store. Exit status 0 means that the record is there, so Slurm's ``afterok`` starts what waits
for it.

Starting a process takes longer than a dry run's stage. In a large array, an element whose stage was
immediate therefore goes on with others that are and that wait for their own jobs, for ``SHARE_S``
seconds at most, and leaves ``<j>.done`` for each. Job *j*, if it still comes to that, makes this
its own word and ends before it starts Python (``slurm.script``). So a stage runs once, whoever runs
it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mosweep.core.files import write_whole
from mosweep.core.store import Store
from mosweep.core.types import load_work
from mosweep.core.work import Work
from mosweep.launchers.job import await_inputs, bring_to_end, has_inputs
from mosweep.launchers.worker import at_once, perform

__all__ = ["main"]

#: How long a job may go on with its siblings' immediate stages, in seconds.
SHARE_S = 5.0
#: How many elements an array has for that to be worth it.
SHARE_FROM = 64


def main(store: Store, folder: Path) -> int:
    """Run the element's stage; the exit status."""
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    if (folder / "void").exists():
        print("this submission was given up before Slurm had it; nothing to do", file=sys.stderr)
        return 1
    begun = time.time()
    _, spec = next(_specs(folder, only=index), (index, None))
    if spec is None:
        raise SystemExit(f"{folder}/stages.jsonl has no element {index}")
    _handle_signals(spec)
    await_inputs(store, spec)

    def started(event: dict[str, Any]) -> None:
        _write(
            folder / f"{index}.started",
            {**event, "time": begun, "host": os.environ.get("SLURMD_NODENAME", "")},
        )

    event = bring_to_end(store, spec, started)
    done = folder / f"{index}.done"
    by_sibling = bool(event.get("elsewhere")) and done.exists()
    _write(
        folder / f"{index}.ended",
        json.loads(done.read_bytes()) if by_sibling else {**event, "time": time.time()},
    )
    if event["event"] != "finished":
        return 1
    if _immediate(spec):
        try:
            _share(store, folder)
        except Exception as error:  # its own stage is done, whatever becomes of others'
            print(
                f"mosweep: {type(error).__name__}: {error}; this array's other stages are left "
                "to their own jobs",
                file=sys.stderr,
            )
    return 0


def _share(store: Store, folder: Path) -> None:
    """Go on with those stages of a large array that can run at once; in no order, for other
    elements do the same.
    """
    specs = list(_specs(folder))
    if len(specs) < SHARE_FROM:
        return
    deadline = time.monotonic() + SHARE_S
    for index, spec in random.sample(specs, len(specs)):
        if time.monotonic() > deadline:
            return
        taken = any((folder / f"{index}.{what}").exists() for what in ("started", "done"))
        if taken or not has_inputs(store, spec) or (work := _immediate(spec)) is None:
            continue
        event = at_once(perform(store, spec, lambda event: None, work=work))
        if event["event"] != "busy" and not event.get("elsewhere"):
            _write(
                folder / f"{index}.done",
                {**event, "time": time.time(), "by": os.environ.get("SLURM_ARRAY_TASK_ID")},
            )


def _specs(folder: Path, only: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and spec of the array's elements, or of ``only`` one."""
    start = "" if only is None else f'{{"index":{only},'
    with open(folder / "stages.jsonl", encoding="utf-8") as file:
        for line in file:
            if line.startswith(start):
                element = json.loads(line)
                yield element["index"], element["spec"]


def _immediate(spec: dict[str, Any]) -> Work | None:
    """The stage's work, if it is immediate."""
    work = load_work(spec)
    return work if work.traits.immediate else None


def _handle_signals(spec: dict[str, Any]) -> None:
    """When Slurm announces the end of the time limit, go back into the queue with what was saved so
    far, a bounded number of times.

    A preemption, a cancellation and a time-out begin with SIGTERM and end with SIGKILL. A job that
    ends at SIGTERM has failed, as Slurm sees it, and is not requeued; so it goes on, and what gets
    done in between counts.
    """
    end = os.environ.get("SLURM_JOB_END_TIME")
    allowed = int(os.environ.get("MOSWEEP_MAX_TIMEOUTS", "0"))
    margin = float(os.environ.get("MOSWEEP_SIGNAL_DELAY_S", "0")) + 60

    def warned(number: int, frame: object) -> None:
        left = float(end) - time.time() if end else 0.0
        if left > margin:
            print("mosweep: Slurm announces preemption", file=sys.stderr, flush=True)
        elif int(os.environ.get("SLURM_RESTART_COUNT", "0")) < allowed:
            import subprocess

            print(
                f"mosweep: {spec['label']} is near its time limit: back into the queue",
                file=sys.stderr,
                flush=True,
            )
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        else:
            print(f"mosweep: {spec['label']} is near its time limit", file=sys.stderr, flush=True)

    def ending(number: int, frame: object) -> None:
        print("mosweep: Slurm will end this job", file=sys.stderr, flush=True)

    signal.signal(signal.SIGUSR2, warned)
    signal.signal(signal.SIGTERM, ending)


def _write(path: Path, data: dict[str, Any]) -> None:
    write_whole(path, json.dumps(data) + "\n")  # a line, as the job's script reads it


if __name__ == "__main__":
    sys.exit(main(Store(Path(sys.argv[1])), Path(sys.argv[2])))
