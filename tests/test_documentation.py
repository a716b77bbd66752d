"""What the README shows works as shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Shell

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SWEEPS = sorted(set(re.findall(r"(?<![\w/])mosweep (?:-m|plan) [^`\n|]+", README)))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_readme_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


@pytest.mark.parametrize("command", SWEEPS)
def test_sweeps_in_the_readme_can_be_planned(shell: Shell, command: str) -> None:
    (shell.folder / "treatments.json").write_text(
        '{"model": ["tiny", "tiny-wide"], "lora.rank": [4, 64]}'
    )
    words = [word for word in shlex.split(command)[1:] if word not in ("-m", "plan")]
    done = shell("plan", *words)
    assert done.status == (2 if "lora.rnk" in command else 0), done.err


def test_the_ways_of_writing_a_design_are_one_design(shell: Shell) -> None:
    (shell.folder / "treatments.json").write_text(
        '{"model": ["tiny", "tiny-wide"], "lora.rank": [4, 64]}'
    )
    named = ("experiment=rank", "seeds=3", "lora.rank=4,64 seed=0,1,2")
    ways = [command for command in SWEEPS if any(words in command for words in named)]
    assert len(ways) >= 4
    keys = set()
    for command in ways:
        words = [
            word
            for word in shlex.split(command)[1:]
            if word not in ("-m", "plan", "backend=dummy", "primary_metric=null")
        ]
        jobs = shell("plan", *words, "--json").json["jobs"]
        keys.add(frozenset(job["key"] for job in jobs))
    assert len(keys) == 1
    assert len(keys.pop()) == 1 + 2 + 12 + 14


def test_the_error_shown_is_the_error_given(shell: Shell) -> None:
    (shown,) = re.findall(r"^mosweep: lora\.rnk.*$", README, re.MULTILINE)
    assert shell("-m", "lora.rnk=4,64").err.strip() == shown.replace("lora.rnk=4:", "lora.rnk=4:")
