"""Extensions from a user's own folder run as Slurm jobs, and their results travel in a bundle."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tests.conftest import Shell
from tests.slurm.conftest import Cluster
from tests.test_edits import NEUTRAL, SWEEP, write_project
from tests.test_extensions import write

pytestmark = pytest.mark.slurm


def test_a_backend_a_stage_and_an_evaluator_of_ones_own(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    write(tmp_path, tmp_path)
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(20)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = f"t{random.SystemRandom().randrange(10**8)}"
    done = shell(
        *("-m", "backend=table", "eval=count", "+patch=none,more", "dataset.path=mine.jsonl"),
        *("optim.max_steps_per_epoch=5", "tracking=none", f"experiment.name={name}"),
        *("hydra/launcher=slurm", f"hydra.launcher.name={name}", "hydra.launcher.poll_s=1"),
        timeout=280,
    )
    assert done.status == 0, done.out + done.err
    found = {trial: each["metrics"] for trial, each in shell.summary(name).items()}
    assert found["patch=none"] == {"capitalization/known": 0.25}
    names = {job["name"].split(".")[1].split("-")[0] for job in cluster.jobs(f"{name}.")}
    assert names == {"data", "finetune", "patch", "eval"}
    packed = shell("bundle", name)
    assert packed.status == 0, packed.err
    [archive] = tmp_path.glob("**/*.tar.gz")
    verified = shell("verify", str(archive))
    assert verified.status == 0, verified.out + verified.err


def test_what_follows_data_that_did_not_change_needs_no_job(
    cluster: Cluster, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    write_project(tmp_path)
    name = f"t{random.SystemRandom().randrange(10**8)}"

    def launch() -> dict[str, dict[str, float]]:
        done = shell(
            *("-m", *SWEEP, "optim.max_steps_per_epoch=5,10", "tracking=none"),
            *(f"experiment.name={name}", "hydra/launcher=slurm", f"hydra.launcher.name={name}"),
            "hydra.launcher.poll_s=1",
            timeout=280,
        )
        assert done.status == 0, done.out + done.err
        return {trial: each["metrics"] for trial, each in shell.summary(name).items()}

    first = launch()
    edit, _ = NEUTRAL["a level that nobody uses"]
    edit(tmp_path, random.Random(1))
    assert launch() == first
    explained = shell("explain", "optim.max_steps_per_epoch=5", "--sweep", name, "--json").json
    found = {stage["kind"]: stage["found"] for stage in explained["stages"]}
    assert found["data"] is None, "it was built again"
    assert None not in (found["finetune"], found["eval"])
