"""The worker processes of the local launcher: starts them, sends stages, and kills them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

__all__ = ["RemoteWorker", "Worker", "count_gpus"]


def count_gpus() -> int:
    """The number of visible NVIDIA devices, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    return len(
        [name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit()]
    )


@dataclass
class Worker:
    """A worker process (``mosweep.launchers.worker``) and its stages.

    ``events`` is the pipe with its events. ``orders`` are the stages that it has not finished, the
    running one first. ``started`` (monotonic seconds) and ``log`` are those of the running stage.
    ``runtimes`` are loaded.
    """

    number: int
    process: subprocess.Popen[bytes]
    events: IO[bytes]
    orders: list[str] = field(default_factory=list)
    started: float | None = None
    log: str | None = None
    buffer: bytes = b""
    runtimes: set[str] = field(default_factory=set)

    @classmethod
    def start(
        cls, number: int, of: int, gpus: int, store: Path, each: int = 1, mode: Sequence[str] = ()
    ) -> Self:
        """Start worker ``number`` of ``of`` with its share of the cores.

        If the machine has ``gpus``, the worker gets ``each`` of them.
        """
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // of)))
        environment.setdefault("TOKENIZERS_PARALLELISM", "false")
        if gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(
                ","
            )
            devices = [visible[(number * each + offset) % len(visible)] for offset in range(each)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        ours, theirs = os.pipe()
        module = ["-P", "-m", "mosweep.launchers.worker"]  # -P: not from the working directory
        process = subprocess.Popen(
            [sys.executable, *module, str(store), str(theirs), *mode],
            stdin=subprocess.PIPE,
            stdout=2,  # What Python prints before the worker runs is no event.
            bufsize=0,
            pass_fds=[theirs],
            env=environment,
            start_new_session=True,
        )
        os.close(theirs)
        return cls(number, process, os.fdopen(ours, "rb", buffering=0))

    @property
    def name(self) -> str:
        """Its name in journals and tables."""
        return f"pid {self.process.pid}"

    @property
    def cause(self) -> str:
        """Why it died."""
        status = self.process.returncode
        if status is None or status >= 0:
            return f"exit status {status}"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"{name}; out of memory?" if -status == signal.SIGKILL else name

    def send(self, lines: str) -> None:
        """Send it stages, one per line."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It died, and its output is about to end.
            self.process.stdin.write(lines.encode())

    def dismiss(self) -> None:
        """Let it exit after its last stage."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    @staticmethod
    def note(text: str, log: Path) -> None:
        """Add a line to the log of a stage that has died."""
        with contextlib.suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def end(self) -> None:
        """Kill its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.events):
            if pipe is not None:
                pipe.close()


@dataclass
class RemoteWorker(Worker):
    """The worker that runs all its stages at the same time. ``logs`` has those that started."""

    logs: dict[str, Path] = field(default_factory=dict)
