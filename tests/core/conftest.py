"""Real processes that tests talk to line by line, so that nothing waits on a clock."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Process:
    """A Python process running ``code``: it prints lines that we ``hear``, and reads the lines that
    we ``tell`` it.
    """

    def __init__(self, code: str, *arguments: Any) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def hear(self) -> str:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, f"the process ended early, status {self.popen.wait(60)}"
        return line.rstrip("\n")

    def tell(self, line: str = "") -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def rest(self) -> list[str]:
        """What it still prints until it ends well."""
        out, _ = self.popen.communicate(timeout=120)
        assert self.popen.returncode == 0, f"status {self.popen.returncode}: {out}"
        return out.splitlines()

    def status(self) -> int:
        """How it ends, whatever the way."""
        self.popen.communicate(timeout=120)
        return self.popen.returncode

    def kill(self, reap: bool = True) -> None:
        self.popen.kill()
        if reap:
            self.popen.wait(60)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(60)
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Process]]:
    """Starts processes, and ends them with the test."""
    started: list[Process] = []

    def start(code: str, *arguments: Any) -> Process:
        started.append(Process(code, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.close()
