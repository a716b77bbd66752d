"""The program of a Slurm job: ``python -m mosweep.launchers.slurm.job STORE SUBMISSION``.

It runs one stage, that of its array element, with the same ``perform`` as a local worker. The
stage's spec is in the submission's folder. The job writes ``<i>.started`` and ``<i>.ended`` there,
and the record into the store. Exit status 0 means that the record exists, so that Slurm's
``afterok`` starts the jobs that depend on it.

Starting a process takes longer than a dry run's stage. In a large array, an element with an
immediate stage therefore continues with immediate stages of its siblings, for up to ``SHARE_S``
seconds, and writes ``<j>.done`` for each. Job *j* then copies this file to ``<j>.ended`` and ends
without starting Python (``slurm.script``). Every stage still runs only once.
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
from mosweep.core.imports import working_directory_last
from mosweep.core.store import Store
from mosweep.core.terminal import write_utf8
from mosweep.core.types import load_work
from mosweep.core.work import Work
from mosweep.launchers.job import await_inputs, has_inputs, run_to_end
from mosweep.launchers.worker import perform, run_immediate

__all__ = ["main"]

#: Seconds that a job may spend on its siblings' immediate stages.
SHARE_S = 5.0
#: Elements of the smallest array in which jobs do this.
SHARE_FROM = 64


def main(store: Store, folder: Path) -> int:
    """Run the element's stage and return the exit status."""
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    if (folder / "void").exists():
        print("this submission was abandoned before it reached Slurm", file=sys.stderr)
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

    event = run_to_end(store, spec, started)
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
        except Exception as error:  # The job's own stage is done.
            print(
                f"mosweep: {type(error).__name__}: {error}; other stages of this array run in "
                "their own jobs",
                file=sys.stderr,
            )
    return 0


def _share(store: Store, folder: Path) -> None:
    """Run other immediate stages of a large array, in random order, as other elements do."""
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
        event = run_immediate(perform(store, spec, lambda event: None, work=work))
        if event["event"] != "busy" and not event.get("elsewhere"):
            _write(
                folder / f"{index}.done",
                {**event, "time": time.time(), "by": os.environ.get("SLURM_ARRAY_TASK_ID")},
            )


def _specs(folder: Path, only: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and spec of the array's elements, or of the element ``only``."""
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
    """Requeue the job, a limited number of times, when Slurm signals the end of its time limit.

    The stage resumes from its last checkpoint. A preemption, a cancellation and a time-out begin
    with SIGTERM and end with SIGKILL. Slurm regards a job that exits on SIGTERM as failed, and does
    not requeue it. So the job ignores SIGTERM.
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
                f"mosweep: {spec['label']} is near its time limit: requeueing",
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
    write_whole(path, json.dumps(data) + "\n")  # The job's script reads one line.


if __name__ == "__main__":
    working_directory_last()
    write_utf8()
    sys.exit(main(Store(Path(sys.argv[1])), Path(sys.argv[2])))
