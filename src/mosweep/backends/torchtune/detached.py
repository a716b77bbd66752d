"""A process that outlives this one and reports its exit status through files in a folder.

A shell in a separate session runs the command. When the command ends, the shell writes its exit
status to ``exit``, even if the command was killed. ``process.json``
identifies the shell.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from mosweep.core.claims import start_time

__all__ = ["LIFELINE", "Detached"]

#: The file descriptor of the lifeline in the command.
LIFELINE = 3
_EXIT = "exit"
_PROCESS = "process.json"
_CANCELLED = "cancelled"
_SHELL = '"$@"; code=$?; echo $code > "$0.part" && mv "$0.part" "$0"'


@dataclass(frozen=True)
class Detached:
    """A detached command. ``folder`` holds its files.

    ``pid`` is the shell's, which leads the command's process group on ``host``.
    """

    folder: Path
    pid: int
    started: str
    host: str

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        lifeline: int | None = None,
    ) -> Self:
        """Run ``command`` with its output appended to ``log``.

        ``lifeline``: the read end of a pipe, which the command gets as descriptor ``LIFELINE``. The
        pipe closes when this process ends.
        """
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", _SHELL, str(folder.resolve() / _EXIT), *command],
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *([(os.POSIX_SPAWN_DUP2, lifeline, LIFELINE)] if lifeline is not None else []),
            ],
            setsid=True,
        )
        process = cls(folder, pid, start_time(pid) or "", socket.gethostname())
        known = asdict(process) | {"folder": None}
        (folder / _PROCESS).write_text(json.dumps(known) + "\n")
        return process

    @classmethod
    def attach(cls, folder: Path) -> Self:
        """The command that this or another process started in ``folder``."""
        return cls(**json.loads((folder / _PROCESS).read_text()) | {"folder": folder})

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` ended it."""
        return (self.folder / _CANCELLED).exists()

    def exit_status(self) -> int | None:
        """``None`` while it runs, then the exit status as a shell reports it (128 + signal).

        -1 if the shell was killed too, for instance with its process group.
        """
        with contextlib.suppress(FileNotFoundError):
            return int((self.folder / _EXIT).read_text())
        if self._alive():
            return None
        with contextlib.suppress(FileNotFoundError):  # it may have ended between the checks
            return int((self.folder / _EXIT).read_text())
        return -1

    def cancel(self, grace_s: float = 3.0) -> None:
        """Stop the command's process group: SIGTERM, then SIGKILL after ``grace_s`` seconds."""
        if self.exit_status() is not None:
            return
        if self.host != socket.gethostname():
            raise OSError(f"process {self.pid} runs on {self.host} and can only be stopped there")
        (self.folder / _CANCELLED).touch()
        deadline = time.monotonic() + grace_s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
            while time.monotonic() < deadline:
                self._alive()  # reaps the shell if it is our child
                os.killpg(self.pid, 0)
                time.sleep(0.02)
            os.killpg(self.pid, signal.SIGKILL)
        self._alive()

    def _alive(self) -> bool:
        if self.host != socket.gethostname():
            return True  # only its files show that it ended
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return start_time(self.pid) == self.started
