"""A real Tinker-compatible server for tests, one per process of pytest that asks for it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "server"
KEY = "tml-local"
MODEL = "mosweep/tiny"


@dataclass(frozen=True)
class Server:
    """The server whose state lies in ``at``; ``base`` is the folder of the model that it serves."""

    at: Path
    url: str
    base: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its clients have in their environment."""
        return {
            "TINKER_BASE_URL": self.url,
            "TINKER_API_KEY": KEY,
            "TINKER_TELEMETRY": "0",
            "HF_HUB_OFFLINE": "1",
        }

    def asked(self) -> dict[str, int]:
        """How many requests of each kind it had since it was started."""
        with urllib.request.urlopen(f"{self.url}/asked", timeout=10) as answer:
            return dict(json.load(answer))

    def kill(self) -> None:
        """End it with ``kill -9``; what it has saved stays."""
        call("kill", self.at)

    def up(self) -> None:
        """Start it again."""
        call("up", self.at)


def call(verb: str, at: Path, *more: str) -> str:
    command = [
        sys.executable,
        str(SCRIPT),
        verb,
        "--at",
        str(at),
        "--until",
        str(os.getpid()),
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Tinker's SDK leaves sockets to be collected: here, rather than in whichever test comes
    next.
    """
    yield
    collect()


def collect() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a free port."""
    at = tmp_path_factory.mktemp("tinker")
    url = call("up", at, "--port", "0")
    process = json.loads((at / "server.json").read_text())["pid"]
    yield Server(at, url, Path(f"/proc/{process}/cwd").resolve() / MODEL)
    call("down", at)
    time.sleep(0.2)  # for the SDK's own thread to let go of its connections
    collect()
