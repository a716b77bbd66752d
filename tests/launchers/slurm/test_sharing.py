"""Immediate stages of a large array are done by the jobs that are there already; the script of the
others' jobs says so and ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mosweep.backends.dummy.backend import DummyFinetune
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.core.work import Resources
from mosweep.launchers.slurm.arrays import Array
from mosweep.launchers.slurm.job import SHARE_FROM
from mosweep.launchers.slurm.options import Slurm
from mosweep.launchers.slurm.script import script
from mosweep.launchers.slurm.submissions import Submission, Submissions
from mosweep.launchers.worker import perform_now


def tuned(
    name: object, *, delay_s: float = 0.0, fail: str = "none", needs: Stage | None = None
) -> Stage:
    work = DummyFinetune("tiny", "words", "task", {"name": name}, 0.0, delay_s, fail, 0.1, 0.0)  # type: ignore[arg-type]
    return Stage("finetune", work, {"previous": needs} if needs else {}, Resources())


class Site:
    """An array that was handed in, and its elements' jobs."""

    def __init__(self, folder: Path, *stages: Stage) -> None:
        self.store = Store(folder / "the store")
        self.stages = stages
        array = Array(dict(enumerate(stages)))
        self.submission: Submission = Submissions(self.store.root / "slurm").create(
            array, "mosweep", "sweep", {}, {}
        )
        self.submission.script.write_text(
            script(Slurm(python="/bin/false"), array, self.submission, self.store.root)
        )

    def job(self, index: int) -> int:
        """Run element ``index``, Python and all."""
        words = [
            sys.executable,
            "-m",
            "mosweep.launchers.slurm.job",
            str(self.store.root),
            str(self.submission.folder),
        ]
        return subprocess.run(
            words, env=os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}, timeout=60, check=False
        ).returncode

    def script(self, index: int) -> subprocess.CompletedProcess[str]:
        """Run the script of element ``index``, in which Python is ``/bin/false``."""
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}
        words = ["bash", str(self.submission.script)]
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def heard(self, what: str) -> set[int]:
        return {index for index in self.submission.keys if self.submission.mark(index, what)}

    @property
    def recorded(self) -> set[int]:
        return {index for index, stage in enumerate(self.stages) if self.store.read(stage.key)}


def test_the_first_job_does_all_and_the_others_say_so_without_starting_python(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, *map(tuned, range(SHARE_FROM + 6)))
    everyone = set(site.submission.keys)
    assert site.job(3) == 0
    assert site.recorded == everyone
    assert (site.heard("started"), site.heard("ended"), site.heard("done")) == (
        {3},
        {3},
        everyone - {3},
    )
    done = site.script(7)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert site.submission.mark(7, "ended") == site.submission.mark(7, "done")
    assert site.submission.mark(7, "ended")["event"] == "finished"  # type: ignore[index]
    record = site.store.record_path(site.stages[8].key).read_bytes()
    assert site.job(8) == 0, "one whose script came just too early for that mark"
    assert site.store.record_path(site.stages[8].key).read_bytes() == record, "nothing runs twice"
    assert site.submission.mark(8, "ended") == site.submission.mark(8, "done")
    assert len(list(site.submission.new_marks())) == len(everyone) - 1 + 4
    assert site.submission.spare == everyone - {3, 7, 8}


def test_a_stage_that_fails_in_a_siblings_job_has_failed(tmp_path: Path) -> None:
    site = Site(tmp_path, tuned("bad", fail="raise"), *map(tuned, range(SHARE_FROM)))
    assert site.job(1) == 0
    assert site.recorded == set(site.submission.keys) - {0}
    done = site.script(0)
    assert done.returncode == 1
    ended = site.submission.mark(0, "ended")
    assert ended is not None
    assert ended["event"] == "failed"
    assert "fail=raise" in ended["error"]
    assert "fail=raise" in Path(ended["log"]).read_text()


@pytest.mark.parametrize(
    "what", ["small array", "slow stages", "deadly stages", "stages without inputs"]
)
def test_what_is_left_to_its_own_job(tmp_path: Path, what: str) -> None:
    need = tuned("need")
    rest = {
        "small array": [tuned(number) for number in range(SHARE_FROM - 2)],
        "slow stages": [tuned(number, delay_s=0.1) for number in range(SHARE_FROM)],
        "deadly stages": [tuned(number, fail="exit") for number in range(SHARE_FROM)],
        "stages without inputs": [tuned(number, needs=need) for number in range(SHARE_FROM)],
    }[what]
    site = Site(tmp_path, tuned("first"), *rest)
    assert site.job(0) == 0
    assert (site.recorded, site.heard("done")) == ({0}, set())
    if what == "stages without inputs":
        perform_now(site.store, need.spec, lambda event: None)
        assert site.job(1) == 0
        assert site.recorded == set(site.submission.keys)
    else:
        assert site.script(1).returncode == 1, "Python is started"
