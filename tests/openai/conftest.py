"""OpenAI's API on this machine, one server per test process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell

KEY = "sk-test-0123456789abcdef0123"
ROOT = Path(__file__).resolve().parents[2]
#: Starts a server in ``ROOT`` that prints its port.
COMMAND = (sys.executable, "-m", "tests.openai.server", "0")


@dataclass(frozen=True)
class Service:
    """The running server."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": KEY}

    def set(self, **fields: Any) -> None:
        """Set what goes wrong, and how quick it is."""
        self._ask(json.dumps(fields).encode())

    def fault(self, path: str, do: int | str = "drop", times: int = 1, **more: Any) -> None:
        """What the next requests that match ``path`` (``POST /v1/files``) meet."""
        self.set(faults=[{"path": path, "do": do, "times": times, **more}])

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self._ask(None)
        return report

    @property
    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self.report["jobs"]
        return jobs

    def _ask(self, data: bytes | None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/control", data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def until(happened: Callable[[], object], patience_s: float = 60) -> None:
    """Wait for it."""
    deadline = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="session")
def server() -> Iterator[Service]:
    """The server's process."""
    process = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield Service(int(process.stdout.readline()))
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.fixture
def openai(server: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The server, knowing nothing yet, and the environment that leads to it. All that is said must
    be as OpenAI's description has it.
    """
    server.set(reset=True, tick_s=0.05)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    assert server.report["amiss"] == []


@pytest.fixture
def words(shell: Shell) -> Path:
    """A data set in the shell's folder."""
    path = shell.folder / "words.jsonl"
    rows = [
        [{"role": "user", "content": f"w{n}"}, {"role": "assistant", "content": f"W{n}"}]
        for n in range(12)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path
