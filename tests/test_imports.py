"""What is imported when: starting is what users feel at every command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.conftest import Shell

HEAVY = {
    "torch",
    "mlflow",
    "wandb",
    "inspect_ai",
    "tinker",
    "openai",
    "pandas",
    "submitit",
    "transformers",
    "torchtune",
    "numpy",
    "rich",
}

VERBS = [
    f"mosweep.cli.{name}"
    for name in (
        *("analyze", "bundle", "cache", "cancel", "contamination", "explain", "plan", "run"),
        *("status", "summary", "sync", "ui", "verify", "watch", "zoo"),
    )
]


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "module",
    [
        "mosweep.cli.main",
        "mosweep.design.application",
        "mosweep.design.sweeping",
        *VERBS,
        "mosweep.launchers.worker",
        "mosweep.training",
        "mosweep.evals",
        "mosweep.datasets",
    ],
)
def test_nothing_heavy_at_import(module: str) -> None:
    assert loaded(f"import {module}") & HEAVY == set()


@pytest.mark.parametrize(
    "module", ["mosweep.cli.main", *VERBS, "mosweep.launchers.worker", "mosweep.core.store"]
)
def test_reading_and_working_need_no_hydra(module: str) -> None:
    assert loaded(f"import {module}") & {"hydra", "omegaconf"} == set()


def test_planning_loads_nothing_heavy(shell: Shell) -> None:
    code = (
        f"import os; os.chdir({str(shell.folder)!r}); from mosweep.cli.main import dispatch; "
        "dispatch(['plan', 'lora.rank=4,64'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('MODULES', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name.partition(".")[0] for name in done.stdout.split("MODULES")[1].split()}
    assert names & HEAVY == set()
