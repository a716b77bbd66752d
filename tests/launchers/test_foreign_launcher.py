"""Somebody else's launcher: one Python file and one YAML, in a folder outside the package. Every
verb works with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conftest import DRY, Outcome, Shell

from mosweep.core.store import Store

LAUNCHER = '''
"""Every stage is a process of its own, which goes on when mosweep ends."""

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mosweep.core.checks import Check
from mosweep.core.claims import start_time
from mosweep.core.errors import MosweepError, UserError
from mosweep.launchers.jobs import JobLauncher, JobState, Order
from mosweep.sweep.plan import Plan


@dataclass(frozen=True)
class Processes(JobLauncher):
    kind: ClassVar[str] = "processes"
    title: ClassVar[str] = "processes of their own"

    nice: int = 0
    """How nice the processes are."""
    refuse: str = ""
    """Stages of this label are refused."""

    def check(self, plan: Plan) -> None:
        if any(stage.resources.gpus for stage in plan.to_run):
            raise UserError("hydra/launcher=processes: has no GPUs")

    def submit(self, order: Order) -> str:
        if order.stage.label == self.refuse:
            raise MosweepError("not today")
        with open(order.output, "wb") as output:
            process = subprocess.Popen(
                ["nice", f"-n{self.nice}", *order.command],
                cwd=order.cwd,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return f"{process.pid}-{start_time(process.pid)}"

    def states(self, jobs: Collection[str]) -> Mapping[str, JobState]:
        return {job: JobState("running", node="here") for job in jobs if self._alive(job)}

    def cancel(self, jobs: Collection[str]) -> None:
        for job in filter(self._alive, jobs):
            os.killpg(int(job.partition("-")[0]), signal.SIGKILL)

    @staticmethod
    def _alive(job: str) -> bool:
        pid, _, since = job.partition("-")
        return start_time(int(pid)) == since

    @classmethod
    def checks(cls) -> Sequence[Check]:
        return [Check("processes", True, "a process for every stage")]
'''
WORDS = (*DRY, "hydra/launcher=processes", "lora.rank=4,8")


@pytest.fixture
def mine(shell: Shell) -> Shell:
    (shell.folder / "conf" / "hydra" / "launcher").mkdir(parents=True)
    (shell.folder / "conf" / "hydra" / "launcher" / "processes.yaml").write_text(
        "_target_: own_launcher.Processes\nnice: 0\nrefuse: ''\nmax_jobs: 2\nwait: true\n"
        "poll_s: 0.2\n"
    )
    (shell.folder / "own_launcher.py").write_text(LAUNCHER)
    return shell


def ok(done: Outcome, status: int = 0) -> Outcome:
    assert done.status == status, done.out + done.err
    return done


def statuses(shell: Shell, name: str) -> set[str]:
    return {trial["status"] for trial in shell.summary(name).values()}


def running(shell: Shell, name: str) -> list[dict[str, str]]:
    """The jobs that ``status`` shows."""
    trials = ok(shell("status", name, "--json")).json["trials"]
    return [stage for trial in trials for stage in trial["stages"] if stage["state"]]


def until_running(shell: Shell, name: str) -> list[dict[str, str]]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (shell.folder / "multirun" / name).exists() and (
            jobs := [job for job in running(shell, name) if job["state"] == "running"]
        ):
            return jobs
        time.sleep(0.2)
    raise AssertionError("no job runs")


def test_a_sweep_from_plan_to_report(mine: Shell) -> None:
    planned = ok(mine("plan", *WORDS, "--json")).json
    ok(mine("-m", *WORDS, "experiment.name=a", "hydra.launcher.nice=1"))
    jobs = {event["job"] for event in mine.journal("a") if event["event"] == "queued"}
    assert len(jobs) == planned["stages"]["to_run"] == 5
    ok(mine("-m", *WORDS, "experiment.name=here", "hydra/launcher=local", "store.dir=other"))
    scores = [
        {name: trial["metrics"] for name, trial in mine.summary(sweep).items()}
        for sweep in ("a", "here")
    ]
    assert scores[0] == scores[1]
    frozen = json.loads(next((mine.folder / "multirun/a/launches").glob("*.json")).read_text())
    described = frozen["design"]["launcher"]["processes"]
    assert described["_target_"] == "own_launcher.Processes"
    assert described["nice"] == 1
    ok(mine("watch", "a"))
    ok(mine("analyze", "a"))
    assert "nothing to do" in ok(mine("run", "a")).out
    assert "nothing to cancel" in ok(mine("cancel", "a")).out
    assert re.search(r"ok +processes +a process for every stage", ok(mine("doctor")).out)
    assert "hydra/launcher=nobody: no such choice" in mine("-m", "hydra/launcher=nobody").err


def test_jobs_go_on_alone_and_every_verb_knows_them(mine: Shell) -> None:
    words = (*WORDS, "run_control_trials=false", "backend.delay_s=120", "experiment.name=slow")
    ok(mine("-m", *words, "hydra.launcher.wait=false"))
    jobs = until_running(mine, "slow")
    assert {job["node"] for job in jobs} == {"here"}
    code = (
        "from pathlib import Path; from mosweep.core.store import Store; "
        "from mosweep.launchers.lookup import launchers_with_jobs; "
        "store = Store(Path('.mosweep/store')); "
        "print(*[key for each in launchers_with_jobs(store) for key in each.in_use(store)])"
    )
    held = subprocess.run(
        [sys.executable, "-c", code], cwd=mine.folder, capture_output=True, text=True, check=True
    )
    assert set(held.stdout.split()) >= {job["key"] for job in jobs}
    assert "nothing to remove" in ok(mine("cache", "clear", "--all", "--yes")).out
    driver = mine.start("run", "slow")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not {"started"} & {
        event["event"] for event in mine.journal("slow")
    }:
        time.sleep(0.2)
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "2 jobs of this sweep are in processes of their own" in out
    assert {job["job"] for job in running(mine, "slow")} == {job["job"] for job in jobs}
    done = ok(mine("cancel", "slow")).out
    assert "2 jobs in processes of their own" in done
    assert running(mine, "slow") == []
    for job in jobs:
        with pytest.raises(ProcessLookupError):
            os.killpg(int(job["job"].partition("-")[0]), 0)
    assert statuses(mine, "slow") == {"cancelled"}


def test_a_killed_launch_is_attached_to(mine: Shell) -> None:
    words = (*WORDS, "run_control_trials=false", "backend.delay_s=6", "experiment.name=killed")
    driver = mine.start("-m", *words)
    jobs = until_running(mine, "killed")
    driver.kill()
    driver.communicate()
    ok(mine("run", "killed"))
    assert statuses(mine, "killed") == {"succeeded"}
    queued = [event["key"] for event in mine.journal("killed") if event["event"] == "queued"]
    assert len(queued) == len(set(queued)) == 4, "no job was submitted twice"
    store = Store(mine.folder / ".mosweep" / "store")
    assert not list((store.root / "jobs" / "processes" / "open").iterdir())
    assert jobs


def test_a_job_that_dies_or_is_refused_fails_alone(mine: Shell) -> None:
    done = mine(
        "-m", *DRY, "hydra/launcher=processes", "backend.fail=none,exit", "experiment.name=dies"
    )
    assert done.status == 1
    assert {name: trial["status"] for name, trial in mine.summary("dies").items()} == {
        "backend.fail=none": "succeeded",
        "backend.fail=exit": "failed",
        "control=true": "succeeded",
    }
    errors = [event["error"] for event in mine.journal("dies") if event["event"] == "failed"]
    assert errors == ["its job ended without a result"]
    done = mine("-m", *WORDS, "hydra.launcher.refuse=finetune", "experiment.name=refused")
    assert done.status == 1
    assert "processes of their own refuses the job: not today" in done.out


def test_options_are_checked_before_anything_is_written(mine: Shell) -> None:
    done = mine("-m", *WORDS, "hydra.launcher.nicee=1")
    assert done.status == 2
    assert "did you mean hydra.launcher.nice" in done.err
    done = mine("-m", *WORDS, "resources.default.gpus=1")
    assert done.status == 2
    assert "hydra/launcher=processes: has no GPUs" in done.err
    assert not (mine.folder / "multirun").exists()


def test_under_a_sweeper_of_hydras_own(mine: Shell) -> None:
    ok(mine("-m", *WORDS, "hydra/sweeper=basic", "experiment.name=stock"))
    assert statuses(mine, "stock") == {"succeeded"}


def test_what_is_no_launcher_is_refused(mine: Shell) -> None:
    path = Path("conf/hydra/launcher/processes.yaml")
    (mine.folder / path).write_text("_target_: mosweep.core.store.Attempt\n")
    done = mine("-m", *WORDS)
    assert done.status == 2
    assert "is not a mosweep Launcher" in done.err
