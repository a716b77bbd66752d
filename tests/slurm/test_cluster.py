"""The cluster the Slurm tests run on: what Slurm itself does and says when jobs end, fail, starve
or lose the ground they run on.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.slurm.conftest import STATE, Cluster

pytestmark = pytest.mark.slurm

WHOLE_NODE = ("--nodelist=gpu1", "--gpus-per-node=4")


def alive(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_it_is_up(cluster: Cluster) -> None:
    assert "down" not in cluster.script("status")
    assert cluster.run("scontrol", "show", "config").count("kill_invalid_depend") == 0


def test_an_array_ends_completed_and_elements_have_gpus_of_their_own(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    array = submit(
        "echo $SLURM_ARRAY_TASK_ID:$CUDA_VISIBLE_DEVICES; sleep 2",
        "--array=0-2",
        "--gpus-per-node=1",
        "--nodelist=gpu1",
        "--job-name=three",
    )
    cluster.wait_until(
        lambda: (
            [job["state"] for job in cluster.jobs("three") if job["id"].startswith(array)]
            == ["COMPLETED"] * 3
        )
    )
    jobs = [job for job in cluster.jobs("three") if job["id"].startswith(array)]
    assert [job["id"] for job in jobs] == [f"{array}_{index}" for index in range(3)]
    for job in jobs:
        assert (
            job["exit_code"],
            job["req_mem"],
            job["gpus"],
            job["nodelist"],
            job["partition"],
        ) == ("0:0", "100M", 1, "gpu1", "gpu")
        assert job["submit"] <= job["start"] <= job["end"]
    printed = [path.read_text().split()[0].split(":") for path in tmp_path.glob("*.out")]
    assert sorted(index for index, _ in printed) == ["0", "1", "2"]
    assert len({gpu for _, gpu in printed}) == 3


def test_each_element_waits_for_its_own_parent(
    cluster: Cluster, submit: Callable[..., str]
) -> None:
    parents = submit("exit $((SLURM_ARRAY_TASK_ID == 1))", "--array=0-2")
    children = submit(
        "true", "--array=0-2", f"--dependency=aftercorr:{parents}", "--kill-on-invalid-dep=yes"
    )
    stuck = submit("true", "--array=0-2", f"--dependency=aftercorr:{parents}")
    cluster.wait_until(lambda: cluster.state(f"{children}_1") == "CANCELLED")
    cluster.wait_until(
        lambda: (
            [cluster.state(f"{array}_{index}") for array in (children, stuck) for index in (0, 2)]
            == ["COMPLETED"] * 4
        )
    )
    assert cluster.queue()[f"{parents}_1"] == ("FAILED", "NonZeroExitCode")
    assert cluster.queue()[f"{children}_1"] == ("CANCELLED", "DependencyNeverSatisfied")
    assert cluster.queue()[f"{stuck}_1"] == ("PENDING", "DependencyNeverSatisfied")
    cluster.wait_until(lambda: cluster.job(f"{children}_1")["state"] == "CANCELLED")
    assert cluster.job(f"{children}_1")["nodelist"] == ""


def test_a_preempted_job_goes_back_into_the_queue(
    cluster: Cluster, submit: Callable[..., str]
) -> None:
    low = submit("sleep 300", "--partition=low", *WHOLE_NODE)
    cluster.wait_until(lambda: cluster.state(low) == "RUNNING")
    high = submit("true", "--partition=high", *WHOLE_NODE)
    cluster.wait_until(lambda: cluster.state(high) == "COMPLETED", timeout=120)
    assert cluster.queue()[low] == ("PENDING", "BeginTime")
    runs = cluster.wait_until(
        lambda: [job["state"] for job in cluster.jobs(every_run=True) if job["id"] == low]
    )
    assert runs[0] == "PREEMPTED"


def test_a_job_over_its_memory_has_failed_and_only_its_output_says_why(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    hog = """python3 -c 'import time; held = bytearray(200 << 20); time.sleep(60)'"""
    job = submit(hog, "--mem=50")
    cluster.wait_until(lambda: cluster.queue()[job] == ("FAILED", "JobLaunchFailure"))
    cluster.wait_until(
        lambda: (cluster.job(job)["state"], cluster.job(job)["exit_code"]) == ("FAILED", "0:9")
    )
    assert "exceeded memory limit" in (tmp_path / f"{job}.out").read_text()


def test_a_requeued_element_runs_again_under_its_number(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    array = submit(
        "echo run ${SLURM_RESTART_COUNT:-0} >> $SLURM_ARRAY_TASK_ID; sleep "
        "$((SLURM_RESTART_COUNT ? 0 : 300))",
        "--array=0-1",
    )
    cluster.wait_until(
        lambda: (tmp_path / "1").exists() and cluster.state(f"{array}_1") == "RUNNING"
    )
    cluster.requeue(f"{array}_1")
    cluster.wait_until(lambda: cluster.queue()[f"{array}_1"] == ("PENDING", "BeginTime"))
    cluster.wait_until(lambda: cluster.state(f"{array}_1") == "COMPLETED", timeout=120)
    assert (tmp_path / "1").read_text() == "run 0\nrun 1\n"
    assert cluster.state(f"{array}_0") == "RUNNING"
    cluster.wait_until(lambda: cluster.job(f"{array}_1")["state"] == "COMPLETED")
    assert [job["state"] for job in cluster.jobs(every_run=True) if job["id"] == f"{array}_1"] == [
        "REQUEUED",
        "COMPLETED",
    ]
    cluster.scancel(f"{array}_0")
    cluster.wait_until(lambda: cluster.state(f"{array}_0") == "CANCELLED")


def test_slurm_does_not_see_a_death_without_a_trace(
    cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit("echo $$ >> pids; sleep 300 & echo $! >> pids; wait")
    path = tmp_path / "pids"

    def pids() -> list[str]:
        return path.read_text().split() if path.exists() else []

    cluster.wait_until(lambda: len(pids()) > 1)
    assert all(alive(pid) for pid in pids())
    cluster.kill_step(job)
    cluster.wait_until(lambda: not any(alive(pid) for pid in pids()))
    assert cluster.state(job) == "RUNNING"


def test_calls_are_recorded(cluster: Cluster, submit: Callable[..., str], tmp_path: Path) -> None:
    with cluster.calls(tmp_path / "calls") as calls:
        job = submit("squeue --me", "--job-name=two words")
        cluster.wait_until(lambda: cluster.state(job) == "COMPLETED")
    before = len(calls())
    cluster.queue()
    assert len(calls()) == before
    (sbatch,) = calls("sbatch")
    assert "--job-name=two words" in sbatch.arguments
    assert ("--me",) in [call.arguments for call in calls("squeue")], "jobs are recorded too"
    assert [call.time for call in calls()] == sorted(call.time for call in calls())


def test_a_lonely_test_is_alone(lonely_cluster: Cluster) -> None:
    with open(STATE / "turn") as turn, pytest.raises(BlockingIOError):
        fcntl.flock(turn, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_jobs_of_a_dead_node_run_elsewhere_and_those_of_a_silent_node_run_twice(
    lonely_cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    def runs(name: str) -> list[list[str]]:
        return (
            [line.split() for line in (tmp_path / name).read_text().splitlines()]
            if (tmp_path / name).exists()
            else []
        )

    dead = submit("echo $SLURMD_NODENAME $$ >> dead; sleep 300", "--partition=cpu")
    silent = submit("echo $SLURMD_NODENAME $$ >> silent; sleep 300", "--partition=gpu")
    lonely_cluster.wait_until(lambda: runs("dead") and runs("silent"))
    lonely_cluster.kill_node(runs("dead")[0][0])
    lonely_cluster.kill_node(runs("silent")[0][0], jobs=False)
    lonely_cluster.wait_until(lambda: len(runs("dead")) == len(runs("silent")) == 2, timeout=120)

    def running(job: str) -> bool:
        return bool(lonely_cluster.job(job)["state"] == "RUNNING")

    for name, job, living in (("dead", dead, 1), ("silent", silent, 2)):
        assert len({node for node, _ in runs(name)}) == 2
        assert len([pid for _, pid in runs(name) if alive(pid)]) == living
        lonely_cluster.wait_until(partial(running, job))
        assert [
            run["state"] for run in lonely_cluster.jobs(every_run=True) if run["id"] == job
        ] == ["NODE_FAIL", "RUNNING"]


def test_jobs_go_on_while_there_is_no_controller(
    lonely_cluster: Cluster, submit: Callable[..., str], tmp_path: Path
) -> None:
    job = submit("touch began; until [ -e go ]; do sleep 0.1; done; touch ended")
    child = submit("true", f"--dependency=afterok:{job}")
    lonely_cluster.wait_until(lambda: (tmp_path / "began").exists())
    lonely_cluster.script("stop", "slurmctld")
    (tmp_path / "go").touch()
    lonely_cluster.wait_until(lambda: (tmp_path / "ended").exists())
    lonely_cluster.script("start", "slurmctld")
    lonely_cluster.wait_until(lambda: lonely_cluster.state(child) == "COMPLETED")
    assert lonely_cluster.state(job) == "COMPLETED"


def test_a_crash_of_the_controller_forgets_the_last_jobs_and_gives_their_numbers_again(
    lonely_cluster: Cluster, submit: Callable[..., str]
) -> None:
    for _ in range(5):  # On a busy machine the state may have been saved just before the crash.
        given = [submit("sleep 60", f"--job-name={name}") for name in ("first", "second")]
        lonely_cluster.restart_controller(crash=True)
        if lonely_cluster.state(given[-1]) == "":
            break
    else:
        pytest.fail("five crashes, and no job was forgotten")
    assert submit("true", "--job-name=third") in given


def test_without_accounting_sacct_says_so(lonely_cluster: Cluster) -> None:
    lonely_cluster.configure("--no-accounting")
    done = subprocess.run(["sacct"], capture_output=True, text=True, check=False)
    assert "disabled" in done.stderr
    assert lonely_cluster.queue() is not None
