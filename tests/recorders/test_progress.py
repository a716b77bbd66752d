"""What a person sees while a sweep runs, in a pipe and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess

from tests.conftest import DRY, Shell

SLOW = (
    "-m",
    *DRY,
    "seed=0,1,2",
    "backend.delay_s=1.2",
    "run_control_trials=false",
    "hydra.launcher.workers=2",
    "experiment.name=live",
)


def on_a_terminal(shell: Shell, *words: str) -> str:
    """All that the command writes to a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        shell.command(*words),
        cwd=shell.folder,
        env=shell.environment,
        stdout=slave,
        stderr=slave,
        stdin=slave,
    )
    os.close(slave)
    chunks = []
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(master)
    assert process.wait(60) == 0
    return b"".join(chunks).decode().replace("\r\n", "\n")


def screen(text: str) -> str:
    """What is left on the screen: obeys the two escape sequences that the live table uses."""
    lines = [""]
    for part in re.split(r"(\x1b\[\d+F\x1b\[J|\n)", text):
        if part == "\n":
            lines.append("")
        elif part.startswith("\x1b"):
            up = int(re.findall(r"\d+", part)[0])
            lines = [*lines[: len(lines) - 1 - up], ""]
        else:
            lines[-1] += part
    return "\n".join(lines)


def test_lines_in_a_pipe(shell: Shell) -> None:
    done = shell(*SLOW)
    assert "\x1b" not in done.out
    assert done.out.startswith("3 trials: 6 stages to run\n")
    assert (
        len(
            re.findall(
                r"^\[\d/6\] (?:finetune|eval:capitalization) +seed=\d  \d\.\d s$",
                done.out,
                re.MULTILINE,
            )
        )
        == 6
    )


def test_a_live_table_on_a_terminal(shell: Shell) -> None:
    text = on_a_terminal(shell, *SLOW)
    assert re.search(r"── 0 of 6 done, 2 running, 4 waiting, 0:0\d", text)
    assert re.search(r"^   finetune +0:0\d  pid \d+ +seed=[012]$", text, re.MULTILINE)
    left = screen(text)
    assert "running" not in left
    assert left.startswith("3 trials: 6 stages to run\n[1/6] finetune")
    assert left.count("succeeded") == 3
