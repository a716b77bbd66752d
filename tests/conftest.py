"""What all tests share: mosweep as a user has it, in an empty folder, through its command line."""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.forks import UNWANTED, Forks

DRY = ("backend=dummy", "tracking=none")
#: Files that take minutes. Processes that share the tests begin with them, lest one is still at
#: such a file when the others are done.
LONG = tuple(
    f"tests/{name}.py"
    for name in (
        "slurm/test_sweeps",
        "tinker/test_service",
        "test_real",
        "openai/test_sweeps",
        "backends/torchtune/test_resume",
        "loop/test_torchtune_rounds",
        "tinker/test_preferences",
        "tinker/test_rounds",
        "test_sweep",
        "backends/tinker/test_backend",
        "recorders/test_mlflow",
        "gpu/test_check",
        "zoo/test_training",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: (
            LONG.index(file) if (file := item.nodeid.partition("::")[0]) in LONG else len(LONG)
        )
    )


T = TypeVar("T")


def known(value: T | None) -> T:
    """The ``value``, which has to be there."""
    assert value is not None
    return value


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@functools.cache
def _forks() -> Forks:
    forks = Forks()
    atexit.register(forks.close)
    return forks


@dataclass(frozen=True)
class Shell:
    """Runs ``mosweep`` in ``folder``, as a user's terminal would."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name not in UNWANTED}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "mosweep", *words]

    def __call__(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
        cwd: Path | None = None,
    ) -> Outcome:
        environment = {**self.environment, **(env or {})}
        if _forks().may_run(environment):
            return Outcome(*_forks().run(words, cwd or self.folder, environment, timeout))
        done = subprocess.run(
            self.command(*words),
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """The command in the background, its output captured. It heeds Ctrl-C even where we, as
        background jobs do, ignore it.
        """
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            text=True,
            **options,
        )

    def summary(self, name: str, *words: str) -> dict[str, Any]:
        """``mosweep summary NAME --json`` by trial name."""
        done = self("summary", name, "--json", *words)
        assert done.status == 0, done.err
        return {trial["name"]: trial for trial in done.json["trials"]}

    def journal(self, name: str) -> list[dict[str, Any]]:
        """The sweep's journal."""
        return [
            json.loads(line)
            for line in (self.folder / "multirun" / name / "journal.jsonl").read_text().splitlines()
        ]

    def files(self) -> set[str]:
        """Every file below the folder."""
        return {
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        }


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """An empty folder to run mosweep in."""
    folder = tmp_path / "work folder"
    folder.mkdir()
    return Shell(folder)


@pytest.fixture
def started(shell: Shell) -> Callable[[str], int]:
    """How many stages a sweep has ever started, by its journal."""
    return lambda name: sum(event["event"] == "started" for event in shell.journal(name))


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A tiny model that was pre-trained to answer a word with that word, and what its generator
    says of it.
    """
    from mosweep.models.tiny import TinyArchitecture, generate

    folder = tmp_path_factory.mktemp("models") / "base"
    return folder, generate(folder, TinyArchitecture(), seed=1, log=lambda line: None)


@pytest.fixture(scope="session")
def base(generated: tuple[Path, dict[str, Any]]) -> Path:
    """The folder of the tiny model. Not to be written to: all tests share it."""
    return generated[0]
