"""Processes that outlive their starter."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mosweep.backends.torchtune.detached import Detached


def start(command: Sequence[str], folder: Path) -> Detached:
    return Detached.start(command, folder, folder.parent / "log.txt", os.environ)


def ended(process: Detached) -> int:
    deadline = time.monotonic() + 20
    while (code := process.exit_status()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_status_is_known_to_any_process(tmp_path: Path, command: str, status: int) -> None:
    process = start(["sh", "-c", f"echo said; {command}"], tmp_path / "run")
    assert ended(process) == status
    code = (
        "import sys; from pathlib import Path; from mosweep.backends.torchtune.detached import *\n"
        "print(Detached.attach(Path(sys.argv[1])).exit_status())"
    )
    asking = [sys.executable, "-c", code, str(tmp_path / "run")]
    assert subprocess.run(asking, capture_output=True, text=True, check=True).stdout.strip() == str(
        status
    )
    assert "said" in (tmp_path / "log.txt").read_text()


def test_it_goes_on_when_its_starter_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from mosweep.backends.torchtune.detached "
        "import *\n"
        "folder = Path(sys.argv[1])\n"
        "command = ['sh', '-c', f'read line < {folder}/gate; echo $line']\n"
        "Detached.start(command, folder / 'run', folder / 'log.txt', os.environ)"
    )
    os.mkfifo(tmp_path / "gate")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    process = Detached.attach(tmp_path / "run")
    assert process.exit_status() is None
    (tmp_path / "gate").write_text("still here\n")
    assert ended(process) == 0
    assert (tmp_path / "log.txt").read_text() == "still here\n"


def test_cancel_ends_the_whole_tree_even_where_it_is_deaf(tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; sleep 60"
    process = start(["sh", "-c", script], tmp_path / "run")
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    process.cancel(grace_s=0.1)
    assert ended(process) == -1
    assert process.cancelled
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    deadline = time.monotonic() + 5
    # nobody may be there to bury it
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_killed_with_its_shell_is_noticed(tmp_path: Path) -> None:
    process = start(["sleep", "60"], tmp_path / "run")
    os.killpg(process.pid, 9)
    assert ended(process) == -1
    assert not process.cancelled
    process.cancel()  # a no-op by now
    assert not process.cancelled
