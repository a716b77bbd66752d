"""Runs ``mosweep`` commands in copies of one process that has already imported what they need.

Importing Hydra and mosweep takes most of the time of a short command. A command in a copy is the
same as a new process in all that tests look at: working directory, environment, arguments, output,
exit status and signals. ``tests/test_wheel.py`` and the tests of imports start real processes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What is imported before the first command.
PRELOADED = (
    *("hydra", "hydra.utils", "hydra._internal.hydra", "omegaconf", "yaml"),
    *("mosweep.cli.main", "mosweep.cli.plan", "mosweep.cli.run", "mosweep.cli.summary"),
    *("mosweep.design.application", "mosweep.design.jobs", "mosweep.backends.dummy.backend"),
    *("mosweep.evals.dummy.evaluation", "mosweep.evals.inspect.evaluation"),
    *("mosweep.backends.torchtune.backend", "mosweep.launchers.local"),
    *("hydra_plugins.mosweep.plugin", "asyncio"),
)
#: Variables that Python reads when it starts.
AT_START = ("PYTHON", "LC_", "LANG", "COV_")
#: Variables that tests take away from every command.
UNWANTED = frozenset({"MOSWEEP_HOME", "HYDRA_FULL_ERROR", "PYTHONDONTWRITEBYTECODE"})


class Forks:
    """The process that is copied, for one test process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.environment = dict(os.environ)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore::DeprecationWarning"),
                *("-m", "tests.forks", str(theirs.fileno())),
            ],
            cwd=Path(__file__).resolve().parents[1],
            env={name: value for name, value in os.environ.items() if name != "MOSWEEP_HOME"},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.stream = ours.makefile("rw", encoding="utf-8")
        ours.close()  # ``stream`` keeps it open.

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.stream.close()

    def may_run(self, environment: Mapping[str, str]) -> bool:
        """Whether a command with this environment may run in a copy."""
        changed = {name for name, _ in environment.items() ^ self.environment.items()} - UNWANTED
        return not any(name.startswith(AT_START) for name in changed)

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Status, output and errors of one command. ``TimeoutExpired`` as ``subprocess.run``."""
        with tempfile.TemporaryDirectory() as place:
            order = {
                "words": list(words),
                "folder": str(folder),
                "environment": dict(environment),
                "place": place,
                "timeout": timeout,
            }
            self.stream.write(f"{json.dumps(order)}\n")
            self.stream.flush()
            status = json.loads(self.stream.readline())
            out, err = (Path(place, name).read_bytes() for name in ("out", "err"))
            if status is None:
                raise subprocess.TimeoutExpired(list(words), timeout, out, err)
            return status, _text(out), _text(err)


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n")


def _serve(stream: socket.socket) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.plugins import Plugins

    Plugins.instance()  # Finds the plug-ins, in 0.1 s.
    OverridesParser.create().parse_overrides(["a=1,2", "b.c=[x,{y: 0.5}]", "+d='e f'", "~g"])
    lines = stream.makefile("rw", encoding="utf-8")
    for line in lines:
        order = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            stream.close()
            _become(order)
            return
        lines.write(f"{json.dumps(_ended(child, order['timeout']))}\n")
        lines.flush()
    os._exit(0)


def _ended(child: int, timeout: float) -> int | None:
    """The exit status of ``child``, as ``subprocess`` has it; ``None`` after ``timeout``."""
    handle = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([handle], [], [], timeout)
        if not ready:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status if ready else None
    finally:
        os.close(handle)


def _become(order: Mapping[str, object]) -> None:
    """Turn this copy into the command; it runs when ``_serve`` has returned."""
    for number, name in (
        (0, os.devnull),
        (1, f"{order['place']}/out"),
        (2, f"{order['place']}/err"),
    ):
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    environment = order["environment"]
    assert isinstance(environment, dict)
    os.environ.update(environment)
    words = order["words"]
    assert isinstance(words, list)
    sys.argv = ["mosweep", *words]
    sys.path[0] = os.getcwd()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve(socket.socket(fileno=int(sys.argv[1])))
    from mosweep.cli.main import main

    main()
