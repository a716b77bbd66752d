"""Sweeps on a real Slurm: resources, dependencies, detaching, and everything that goes wrong on
clusters.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DRY, Shell
from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slurm

SLURM = ("hydra/launcher=slurm", "hydra.launcher.poll_s=3", "resources.default.mem_gb=0.1")
#: Slurm's word for the end of whatever a test's jobs are called.
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Site:
    """A user's folder on the cluster: mosweep's command, and a backend that does as it is told."""

    shell: Shell
    cluster: Cluster
    name: str

    @property
    def runs(self) -> Path:
        return self.shell.folder / "runs"

    def words(self, *words: str) -> tuple[str, ...]:
        return (
            "-m",
            *SLURM,
            "tracking=none",
            f"hydra.launcher.name={self.name}",
            f"experiment.name={self.name}",
            *words,
        )

    def scripted(self, *words: str) -> tuple[str, ...]:
        return self.words(
            "backend=scripted", f"backend.runs={self.runs}", "run_control_trials=false", *words
        )

    def attempts(self, play: str, seed: int = 0) -> list[str]:
        """The job of every attempt at one scripted fine-tune."""
        path = self.runs / f"{play}-{seed}"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self, play: str, seed: int = 0) -> list[int]:
        return [
            int(line.split()[1]) for line in (self.runs / f"{play}-{seed}").read_text().splitlines()
        ]

    def jobs(self) -> list[dict[str, Any]]:
        return self.cluster.jobs(f"{self.name}.")

    def ended_jobs(self, number: int) -> list[dict[str, Any]]:
        """All jobs there ever were, once accounting knows of at least so many, and of the end of
        each.
        """
        return (
            self.cluster.wait_until(
                lambda: (
                    len(found := self.jobs()) >= number
                    and all(job["end"] for job in found)
                    and found
                )
            )
            or []
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.shell("status", self.name, "--json").json
        return found

    def stages(self, data: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
        """Stages by trial and label."""
        return {
            (trial["name"], stage["label"]): stage
            for trial in data["trials"]
            for stage in trial["stages"]
        }


def site_in(folder: Path, cluster: Cluster) -> Site:
    (folder / "conf" / "backend").mkdir(parents=True)
    (folder / "runs").mkdir()
    lines = ["# @package _global_", "defaults:", "  - override /eval: dummy", "backend:"]
    lines += ["  _target_: scripted.ScriptedBackend", "  play: ok", "  runs: ???"]
    (folder / "conf" / "backend" / "scripted.yaml").write_text("\n".join(lines) + "\n")
    return Site(Shell(folder), cluster, f"t{random.SystemRandom().randrange(10**8)}")


@pytest.fixture(scope="module", autouse=True)
def scripted() -> Iterator[None]:
    """Makes the scripted backend importable, here and in jobs."""
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent / "scripted"), *([old] if old else [])]
    )
    yield
    if old is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = old


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    return site_in(tmp_path, cluster)


# -- what goes well --------------------------------------------------------------------------------


@pytest.mark.real
def test_real_fine_tunes_each_on_resources_of_its_own(site: Site) -> None:
    sizes = [
        "resources.models.tiny.mem=1500M",
        "resources.models.tiny.gpus=1",
        "resources.models.tiny-wide.mem=2G",
    ]
    places = [
        *sizes,
        "resources.models.tiny-wide.gpus=2",
        "torchtune.max_steps_per_epoch=30",
        "resources.stages.data.mem=300M",
    ]
    done = site.shell(*site.words("model=tiny,tiny-wide", "lora.rank=4,64", *places), timeout=600)
    assert done.status == 0, done.out + done.err
    jobs = site.ended_jobs(13)
    asked = {(job["name"].split(".")[1].split("-")[0], job["req_mem"], job["gpus"]) for job in jobs}
    assert asked == {
        ("data", "300M", 0),
        ("model", "1500M", 0),
        ("model", "2G", 0),
        ("finetune", "1500M", 1),
        ("finetune", "2G", 2),
        ("eval", "1500M", 1),
        ("eval", "2G", 2),
    }
    assert len(jobs) == 13, "one job per unique stage"
    ends = {job["id"]: job["end"] for job in jobs if ".finetune-" in job["name"]}
    starts = [job["start"] for job in jobs if ".eval-" in job["name"]]
    assert min(starts) < max(ends.values()), "an eval waits for its own fine-tune only"
    folder = site.shell.folder / "multirun" / site.name / "model=tiny-wide,lora.rank=64"
    assert "#SBATCH --gpus-per-node=2" in (folder / "finetune.sbatch").read_text()
    assert (folder / "finetune" / "torchtune.yaml").exists()
    record = json.loads(
        next(record for record in records(site) if b'"world_size":2' in record).split(b"\n")[0]
    )
    assert record["resources"]["gpus"] == 2
    assert record["job"] in ends


def records(site: Site) -> list[bytes]:
    return [path.read_bytes() for path in site.shell.folder.glob(".mosweep/store/records/*/*.json")]


def test_as_few_calls_as_there_are_kinds_of_jobs(site: Site, tmp_path: Path) -> None:
    with site.cluster.calls(tmp_path / "calls") as calls:
        words = [
            "model=tiny,tiny-wide",
            "seed=range(30)",
            "run_control_trials=false",
            "resources.models.tiny.mem_gb=0.15",
        ]
        done = site.shell(*site.words(*DRY, *words))
    assert done.status == 0, done.out + done.err
    assert len(calls("sbatch")) == 4, "two kinds of stages in two classes of resources"
    assert len(calls("sacct")) == 0, "nothing needed explaining"
    assert len(site.ended_jobs(120)) == 120
    gaps = [
        later.time - earlier.time
        for earlier, later in zip(calls("squeue"), calls("squeue")[1:], strict=False)
    ]
    assert not gaps or min(gaps) > 0.5, "Slurm is asked now and then, for all jobs at once"
    again = site.shell(*site.words(*DRY, *words))
    assert "nothing to do" in again.out


def test_hundreds_of_dry_runs_share_the_jobs_that_are_there(site: Site) -> None:
    words = [
        *DRY,
        "seed=range(200)",
        "run_control_trials=false",
        "hydra.launcher.partition=cpu",
        "hydra.launcher.cpus_per_task=1",
    ]
    done = site.shell(*site.words(*words))
    assert done.status == 0, done.out + done.err
    assert done.out.count("succeeded") == 200
    assert "submitted finetune: 200 jobs" in done.out
    assert "submitted eval:capitalization: 200 jobs" in done.out
    left = site.cluster.run(
        "squeue", "--noheader", f"--name={','.join({job['name'] for job in site.jobs()})}"
    )
    assert not [line for line in left.splitlines() if " CG " not in line], (
        "nothing is left behind in Slurm"
    )
    events = [event for event in site.shell.journal(site.name) if event["event"] == "finished"]
    assert len({event["key"] for event in events}) == len(events) == 400, "every stage is done once"
    jobs = {json.loads(record.split(b"\n")[0])["job"] for record in records(site)}
    assert 2 <= len(jobs) < 200, "in the jobs that were there"
    assert {job["state"] for job in site.jobs()} <= {"COMPLETED", "CANCELLED"}


def test_hundreds_of_dry_runs_that_fail(site: Site) -> None:
    bundles = json.dumps(
        [
            {"seed": seed, "backend.fail": "raise" if seed % 10 == 0 else "none"}
            for seed in range(100)
        ]
    )
    done = site.shell(
        *site.words(
            *DRY,
            f"treatments={bundles}",
            "run_control_trials=false",
            "hydra.launcher.partition=cpu",
        )
    )
    assert done.status == 1, done.out + done.err
    stages = site.stages(site.status())
    tuned = [stage for (_, label), stage in stages.items() if label == "finetune"]
    failed = [stage for stage in tuned if stage["status"] == "failed"]
    assert (len(tuned), len(failed)) == (100, 10)
    assert all("fail=raise" in stage["error"] for stage in failed)


def test_rounds_that_are_not_needed_wait_in_no_queue(site: Site) -> None:
    loop = [
        "loop.enabled=true",
        "loop.max_rounds=4",
        "loop.threshold=0.8",
        "loop.steps_per_round=2",
        "run_control_trials=false",
    ]
    pace = [
        "backend.rounds=[0.1,0.99]",
        "backend.item_sd=0.0",
        "backend.seed_sd=0.0",
        "backend.delay_s=1.5",
    ]
    done = site.shell(*site.words(*DRY, *loop, *pace))
    assert done.status == 0, done.out + done.err
    stages = site.stages(site.status())
    assert {stage["status"] for stage in stages.values()} == {"succeeded"}
    began = {
        job["name"].split(".")[1].rpartition("-")[0] for job in site.ended_jobs(4) if job["start"]
    }
    assert began >= {"round-1", "eval-1-capitalization", "round-2", "eval-2-capitalization"}
    assert len(began) <= 6, "of ten, unless Slurm was as quick as the launch"
    left = site.cluster.run(
        "squeue",
        "--noheader",
        "--states=PENDING,RUNNING",
        f"--name={','.join({job['name'] for job in site.jobs()})}",
    )
    assert not left, "nothing is left behind in Slurm"


def test_jobs_that_one_sweep_needs_no_more_take_no_others_with_them(site: Site) -> None:
    """A loop that stops early takes its spare jobs out of Slurm; the last of another sweep's chain
    waits behind them, with work to do.
    """
    loop = [
        "loop.enabled=true",
        "loop.max_rounds=3",
        "loop.threshold=0.5",
        "loop.task=capitalization",
        "run_control_trials=false",
    ]
    words = [
        *DRY,
        *loop,
        "seed=0,1",
        "backend.rounds=[0.99]",
        "backend.item_sd=0.0",
        "backend.seed_sd=0.0",
        "backend.delay_s=8",
    ]
    followed = site.shell.start(*site.words(*words))
    site.cluster.wait_until(lambda: any(".chosen-" in job["name"] for job in site.jobs()))
    more = [
        "experiment.name=more",
        "hydra.launcher.wait=false",
        "eval.tasks=[capitalization,copying]",
    ]
    handed_in = site.shell(*site.words(*words, *more))
    assert handed_in.status == 0, handed_in.out + handed_in.err
    out, err = followed.communicate(timeout=120)
    assert followed.returncode == 0, out + err
    site.cluster.wait_until(
        lambda: (
            site.name
            not in site.cluster.run(
                "squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%j"
            )
        )
    )
    assert {trial["status"] for trial in site.shell.summary("more").values()} == {"succeeded"}


def test_submit_look_and_take_back(site: Site) -> None:
    words = site.scripted("backend.play=sleep60", "seed=0,1", "hydra.launcher.wait=false")
    begun = time.monotonic()
    done = site.shell(*words)
    assert (done.status, "mosweep watch" in done.out) == (0, True), done.out + done.err
    assert time.monotonic() - begun < 30

    def running() -> Mapping[tuple[str, str], Mapping[str, Any]] | None:
        stages = site.stages(site.status())
        tuned = stages[("seed=0", "finetune")]
        return stages if tuned["status"] == "running" and tuned["node"] and tuned["log"] else None

    stages = site.cluster.wait_until(running)
    tuned, scored = stages[("seed=0", "finetune")], stages[("seed=0", "eval:capitalization")]
    assert (scored["status"], scored["state"], scored["reason"]) == (
        "pending",
        "PENDING",
        "Dependency",
    )
    table = site.shell("status", site.name).out
    assert tuned["job"] in table
    assert "RUNNING" in table
    attached = site.shell.start("run", site.name)
    site.cluster.wait_until(
        lambda: [event["event"] for event in site.shell.journal(site.name)].count("launch") == 2
    )
    time.sleep(2)
    attached.send_signal(signal.SIGINT)
    out, err = attached.communicate(timeout=60)
    assert attached.returncode == 130
    assert "continue in Slurm" in out + err
    assert "jobs in Slurm" in (cancelled := site.shell("cancel", site.name)).out, cancelled
    site.cluster.wait_until(lambda: all(job["state"] == "CANCELLED" for job in site.jobs()))
    assert len(site.ended_jobs(4)) == 4, "attaching submits nothing"
    site.cluster.wait_until(
        lambda: {stage["status"] for stage in site.stages(site.status()).values()} == {"cancelled"}
    )
    watched = site.shell("watch", site.name, "--every", "0.5", timeout=60)
    assert (watched.status, "cancelled" in watched.out) == (1, True)


def test_the_stock_launcher_runs_whole_trials_where_all_want_the_same(site: Site) -> None:
    stock = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=cpu",
        "resources.default.mem_gb=0.2",
        "tracking=none",
    ]
    words = [
        "-m",
        *stock,
        "backend=dummy",
        "eval=dummy",
        "lora.rank=4,8",
        f"experiment.name={site.name}",
        f"hydra.launcher.name={site.name}.",
    ]
    done = site.shell(*words, timeout=120)
    assert done.status == 0, done.out + done.err
    jobs = site.ended_jobs(3)
    assert [(job["req_mem"], job["state"]) for job in jobs] == 3 * [("204M", "COMPLETED")]
    refused = site.shell(
        *words, "model=tiny,tiny-wide", "resources.models.tiny.gpus=1", "experiment.name=other"
    )
    assert refused.status == 2
    assert "hydra/launcher=slurm" in refused.err
    assert not (site.shell.folder / "multirun" / "other").exists()


# -- what goes wrong, all in one sweep -------------------------------------------------------------

PLAYS = (
    "ok",
    "hang-ok",
    "hang-sleep1",
    "hang-sleep2",
    "hang",
    "hog-ok",
    "hog-hog",
    "raise",
    "quit",
)


@dataclass(frozen=True)
class Weather:
    site: Site
    stages: Mapping[tuple[str, str], Mapping[str, Any]]
    status: int
    out: str
    noticed_s: float

    def of(self, play: str, label: str = "finetune") -> Mapping[str, Any]:
        return self.stages[(f"backend.play={play}", label)]


@pytest.fixture(scope="module")
def weather(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Weather:
    """One sweep, and what befalls its fine-tunes.

    ``hang-ok`` is requeued by an administrator, ``hang-sleep1`` killed without a trace,
    ``hang-sleep2`` runs into its time limit and goes in again, ``hang`` is cancelled by the user;
    ``hog-ok`` runs out of memory once and gets more, ``hog-hog`` again and again; ``quit`` ends as
    if all were well.
    """
    site = site_in(tmp_path_factory.mktemp("weather"), cluster)
    limits = [
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.max_mem_gb=0.2",
        "hydra.launcher.max_num_timeout=1",
    ]
    with cluster.turn():
        sweep = site.shell.start(
            *site.scripted(
                f"backend.play={','.join(PLAYS)}", *limits, "hydra.launcher.partition=cpu"
            )
        )
        try:
            for play in ("hang-ok", "hang-sleep1", "hang"):
                cluster.wait_until(partial(site.attempts, play))
            cluster.requeue(site.attempts("hang-ok")[0])
            cluster.kill_step(site.attempts("hang-sleep1")[0])
            killed = time.monotonic()
            cluster.scancel(site.attempts("hang")[0])
            cluster.wait_until(lambda: len(site.attempts("hang-sleep1")) > 1, timeout=90)
            noticed = time.monotonic() - killed
            out, err = sweep.communicate(timeout=400)
        finally:
            sweep.kill()
        weather = Weather(site, site.stages(site.status()), sweep.returncode, out + err, noticed)
    # our turn is over: a test that needs the cluster alone would wait for us for ever
    return weather


def test_the_sweep_ends_and_tells_what_failed(weather: Weather) -> None:
    assert weather.status == 1, weather.out
    good = {"ok", "hang-ok", "hang-sleep1", "hang-sleep2", "hog-ok"}
    assert {play for play in PLAYS if weather.of(play)["status"] == "succeeded"} == good
    for play in PLAYS:
        done = play in good
        assert weather.of(play, "eval:capitalization")["status"] == (
            "succeeded" if done else "pending"
        ), play
    assert not any((weather.site.shell.folder / ".mosweep/store/slurm/open").iterdir()), (
        "nothing is left to be followed"
    )


def test_a_requeued_job_runs_again_as_the_same_job(weather: Weather) -> None:
    first, second = weather.site.attempts("hang-ok")
    assert first == second


def test_a_death_without_a_trace_is_noticed(weather: Weather) -> None:
    first, second = weather.site.attempts("hang-sleep1")
    assert first != second
    assert weather.noticed_s < 30 + 15, "30 s, and the time in which the next job starts"
    assert "GONE" in weather.out


def test_a_job_near_its_time_limit_goes_in_again(weather: Weather) -> None:
    assert len(weather.site.attempts("hang-sleep2")) == 2


def test_a_cancelled_job_is_not_submitted_again(weather: Weather) -> None:
    assert len(weather.site.attempts("hang")) == 1
    assert weather.of("hang")["status"] == "cancelled"


def test_a_job_out_of_memory_gets_more_up_to_the_limit(weather: Weather) -> None:
    assert len(weather.site.attempts("hog-hog")) == 2
    assert weather.of("hog-hog")["status"] == "failed"
    assert "OUT_OF_MEMORY" in weather.of("hog-hog")["error"]
    record = next(
        json.loads(record.split(b"\n")[0])
        for record in records(weather.site)
        if b'"play":"hog-ok"' in record
    )
    assert record["resources"]["mem_gb"] == pytest.approx(0.2)
    assert [tried["state"] for tried in record["tries"]] == ["OUT_OF_MEMORY"]


def test_a_stage_that_fails_is_not_tried_again(weather: Weather) -> None:
    assert len(weather.site.attempts("raise")) == 1
    assert weather.of("raise")["error"] == "ValueError: it was told to"
    assert "it was told to" in Path(weather.of("raise")["log"]).read_text()


def test_an_exit_status_is_no_success(weather: Weather) -> None:
    assert weather.of("quit")["status"] == "failed"
    assert "without a result" in weather.of("quit")["error"]


# -- what goes wrong with the whole cluster, or with us --------------------------------------------


def test_a_preempted_fine_tune_runs_again(site: Site, submit: Callable[..., str]) -> None:
    words = site.scripted(
        "backend.play=hang-ok",
        "hydra.launcher.partition=low",
        "+hydra.launcher.additional_parameters.nodelist=gpu2",
    )
    sweep = site.shell.start(*words)
    site.cluster.wait_until(lambda: site.attempts("hang-ok"))
    submit("true", "--partition=high", "--nodelist=gpu2", "--exclusive")
    out, err = sweep.communicate(timeout=150)
    assert sweep.returncode == 0, out + err
    first, second = site.attempts("hang-ok")
    assert first == second, "Slurm requeued it, nobody submitted it again"


def test_a_node_dies_and_the_controller_is_away(lonely_cluster: Cluster, tmp_path: Path) -> None:
    site = site_in(tmp_path, lonely_cluster)
    words = site.scripted(
        "backend.play=hang-sleep1,sleep30", "hydra.launcher.partition=cpu", "seed=0,1"
    )
    sweep = site.shell.start(*words)
    lonely_cluster.wait_until(lambda: all(site.attempts("hang-sleep1", seed) for seed in (0, 1)))
    node = site.status()["trials"][0]["stages"][0]["node"]
    lonely_cluster.kill_node(node)
    for seed in (0, 1):  # those on the other node go the way of a preempted job
        job = site.attempts("hang-sleep1", seed)[0]
        if lonely_cluster.run("squeue", "--noheader", "--jobs", job, "--format=%N").strip() not in (
            node,
            "",
        ):
            lonely_cluster.requeue(job)
    lonely_cluster.restart_controller(10)
    out, err = sweep.communicate(timeout=300)
    lonely_cluster.start_node(node)
    assert sweep.returncode == 0, out + err
    assert {trial["status"] for trial in site.status()["trials"]} == {"succeeded"}


def test_jobs_that_a_budget_has_no_room_for_are_taken_back(site: Site) -> None:
    """Fine-tunes of a second are on record; those of this launch turn out to take six."""
    words = ["resources.stages.finetune.gpus=1", "hydra.launcher.array_parallelism=1"]
    first = site.shell(*site.scripted("backend.play=sleep1", *words), timeout=120)
    assert first.status == 0, first.out + first.err
    dear = site.scripted("backend.play=sleep6", "seed=0,1,2,3", *words)
    stopped = site.shell(
        *dear, f"budget.gpu_hours={10 / 3600}", "experiment.name=dear", timeout=120
    )
    assert stopped.status == 1, stopped.out + stopped.err
    trials = site.shell("summary", "dear", "--json").json["trials"]
    assert [trial["status"] for trial in trials].count("succeeded") in (1, 2), (
        "the second may have begun when the first ended"
    )
    errors = {
        stage["error"]
        for trial in trials
        for stage in trial["stages"]
        if stage["label"] == "finetune" and stage["error"]
    }
    assert errors
    assert all(error.startswith("not run: budget.gpu_hours=") for error in errors)
    assert "CANCELLED" in {job["state"] for job in site.ended_jobs(4)}, "taken out of Slurm"
    rest = site.shell(*dear, "budget.gpu_hours=1", "experiment.name=dear", timeout=120)
    assert rest.status == 0, rest.out + rest.err


def test_without_accounting(lonely_cluster: Cluster, tmp_path: Path) -> None:
    """Clusters without slurmdbd; and jobs whose Python is in a container, which a prefix enters."""
    lonely_cluster.configure("--no-accounting")
    site = site_in(tmp_path, lonely_cluster)
    entered = tmp_path / "entered"
    prefix = tmp_path / "enter"
    prefix.write_text(f'#!/bin/sh\necho "$SLURM_ARRAY_TASK_ID" >> {entered}\nexec "$@"\n')
    prefix.chmod(0o755)
    words = site.words(
        *DRY,
        "seed=0,1",
        "backend.delay_s=4,0",
        "run_control_trials=false",
        f"hydra.launcher.command_prefix={prefix}",
    )
    assert site.shell(*words, "hydra.launcher.wait=false").status == 0
    stages = lonely_cluster.wait_until(
        lambda: (
            (s := site.stages(site.status()))
            and any(x["state"] == "RUNNING" and x["job"] for x in s.values())
            and s
        )
    )
    assert {stage["status"] for stage in stages.values()} <= {"running", "pending", "succeeded"}
    done = site.shell("run", site.name, timeout=120)
    assert done.status == 0, done.out + done.err
    assert {trial["status"] for trial in site.status()["trials"]} == {"succeeded"}
    assert len(entered.read_text().split()) == 8, "each stage in one job, through the prefix"


@pytest.mark.parametrize("kills", [30])
def test_the_driver_is_killed_at_thirty_moments(site: Site, kills: int) -> None:
    design = ["model=tiny,tiny-wide", "lora.rank=4,8", "seed=0,1,2", "run_control_trials=false"]
    words = site.words(*DRY, *design, "backend.delay_s=5", "hydra.launcher.array_parallelism=2")
    rng = random.Random(0)
    for _ in range(kills):
        driver = subprocess.Popen(
            site.shell.command(*words),
            cwd=site.shell.folder,
            env=site.shell.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            driver.wait(rng.uniform(0.3, 1.6))
        except subprocess.TimeoutExpired:
            driver.kill()
        driver.wait()
    done = site.shell(*words)
    assert done.status == 0, done.out + done.err
    data = site.shell("summary", site.name, "--json").json
    assert len(data["trials"]) == 12
    assert {trial["status"] for trial in data["trials"]} == {"succeeded"}
    jobs = site.ended_jobs(24)
    assert len(jobs) == 24, "no job submitted twice"
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    assert len(records(site)) == 24
