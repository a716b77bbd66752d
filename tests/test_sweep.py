"""Sweeps with the dummy backend: what runs, what is cached, what is written where, what fails
alone.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import DRY, Shell

from mosweep.core.journal import Journal
from mosweep.sweep.folder import Sweep

GRID = ("model=tiny,tiny-wide", "lora.rank=4,64")


def test_sweep_summary_and_files(shell: Shell, started: Callable[[str], int]) -> None:
    done = shell("-m", *DRY, *GRID, "experiment.name=grid")
    assert done.status == 0, done.err
    assert "dummy: the dummy backend made these numbers up" in done.out
    trials = shell.summary("grid")
    tuned = {name: trial for name, trial in trials.items() if not trial["control"]}
    assert set(tuned) == {
        f"model={model},lora.rank={rank}" for model in ("tiny", "tiny-wide") for rank in (4, 64)
    }
    assert len(trials) == 6
    trial = tuned["model=tiny-wide,lora.rank=64"]
    assert trial["factors"] == {"model": "tiny-wide", "lora.rank": 64}
    assert trial["status"] == "succeeded"
    assert [stage["kind"] for stage in trial["stages"]] == ["finetune", "eval"]
    assert 0.2 < trial["metrics"]["capitalization/score"] < 0.8
    assert started("grid") == 10
    folder = shell.folder / "multirun" / "grid"
    config = yaml.safe_load((folder / "model=tiny-wide,lora.rank=64" / "config.yaml").read_text())
    assert (config["model"]["name"], config["lora"]["rank"]) == ("tiny-wide", 64)
    samples = (
        (folder / "model=tiny-wide,lora.rank=64" / "eval:capitalization" / "samples.jsonl")
        .read_text()
        .splitlines()
    )
    assert len(samples) == 100
    mean = sum(json.loads(line)["scores"]["score"] for line in samples) / 100
    assert mean == pytest.approx(trial["metrics"]["capitalization/score"])
    design = yaml.safe_load((folder / "experiment.yaml").read_text())
    assert design["treatments"] == {"model": ["tiny", "tiny-wide"], "lora.rank": [4, 64]}


def test_same_command_again_runs_nothing(shell: Shell, started: Callable[[str], int]) -> None:
    first = shell("-m", *DRY, *GRID, "experiment.name=grid")
    before = shell.files()
    again = shell("-m", *DRY, *GRID, "experiment.name=grid")
    assert again.status == 0
    assert "nothing to do" in again.out
    assert started("grid") == 10
    assert shell.files() == before
    assert [line for line in again.out.splitlines() if "±" in line] == [
        line for line in first.out.splitlines() if "±" in line
    ]
    assert all(
        stage["cached"] for trial in shell.summary("grid").values() for stage in trial["stages"]
    )


def test_a_level_more_runs_only_what_is_new(shell: Shell, started: Callable[[str], int]) -> None:
    shell("-m", *DRY, *GRID, "experiment.name=grid")
    done = shell("-m", *DRY, "model=tiny,tiny-wide", "lora.rank=4,16,64", "experiment.name=grid")
    assert done.status == 0
    new = [event for event in shell.journal("grid") if event["event"] == "started"][10:]
    assert sorted(event["label"] for event in new) == ["eval:capitalization"] * 2 + ["finetune"] * 2
    assert {event["trial"] for event in new} == {
        "model=tiny,lora.rank=16",
        "model=tiny-wide,lora.rank=16",
    }


def test_another_evaluation_runs_evaluations_only(
    shell: Shell, started: Callable[[str], int]
) -> None:
    shell("-m", *DRY, *GRID, "experiment.name=grid")
    done = shell("-m", *DRY, *GRID, "eval.tasks=[capitalization,other]", "experiment.name=grid")
    assert done.status == 0
    new = [event for event in shell.journal("grid") if event["event"] == "started"][10:]
    assert [event["label"] for event in new] == ["eval:other"] * 6


def test_without_m_it_is_one_trial(shell: Shell) -> None:
    done = shell(*DRY, "lora.rank=16")
    assert done.status == 0, done.err
    assert not (shell.folder / "multirun").exists()
    [folder] = {path.parent for path in (shell.folder / "outputs").glob("*/*/experiment.yaml")}
    assert (folder / ".hydra" / "overrides.yaml").exists()
    trials = shell.summary(str(folder))
    assert [trial["control"] for trial in trials.values()] == [False]


def test_unnamed_sweep_goes_where_hydra_puts_it(shell: Shell) -> None:
    shell("-m", *DRY, "lora.rank=4")
    assert len(list((shell.folder / "multirun").glob("????-??-??/??-??-??/experiment.yaml"))) == 1


def test_another_setting_of_the_same_name_gets_its_own_folder(shell: Shell) -> None:
    (shell.folder / "conf" / "optim").mkdir(parents=True)
    (shell.folder / "conf" / "optim" / "fast.yaml").write_text("lr: 0.2\n")
    for more in ([], ["optim.lr=0.1"], ["optim=fast"]):
        done = shell("-m", *DRY, "lora.rank=4,64", *more, "experiment.name=grid")
        assert done.status == 0
    trials = shell.summary("grid")
    assert len(trials) == 7
    assert "lora.rank=4,optim.lr=0.1" in trials, "what differs from the trials before is a factor"
    assert sum(name.startswith("lora.rank=4~") for name in trials) == 1, (
        "a group's choice is not told from its values"
    )


@pytest.mark.parametrize(
    ("how", "why"), [("raise", "fail=raise"), ("exit", "exit status 3"), ("oom", "SIGKILL")]
)
def test_one_failing_trial_costs_one_trial(
    shell: Shell, started: Callable[[str], int], how: str, why: str
) -> None:
    bundles = [{"seed": seed} for seed in range(11)] + [{"seed": 11, "backend.fail": how}]
    done = shell(
        "-m",
        *DRY,
        f"treatments={json.dumps(bundles)}",
        "run_control_trials=false",
        "experiment.name=twelve",
    )
    assert done.status == 1
    trials = shell.summary("twelve")
    failed = [trial for trial in trials.values() if trial["status"] == "failed"]
    assert [trial["name"] for trial in failed] == [f"seed=11,backend.fail={how}"]
    assert sum(trial["status"] == "succeeded" for trial in trials.values()) == 11
    stage = failed[0]["stages"][0]
    assert why in stage["error"]
    assert os.path.exists(stage["log"])
    log = Path(stage["log"]).read_text()
    assert why in log
    assert stage["log"] in done.out
    assert failed[0]["metrics"] == {}
    assert failed[0]["stages"][1]["status"] == "pending"
    before = started("twelve")
    again = shell(
        "-m",
        *DRY,
        f"treatments={json.dumps(bundles)}",
        "run_control_trials=false",
        "experiment.name=twelve",
    )
    assert again.status == 1
    assert started("twelve") == before + 1


def test_a_stage_over_its_time_is_ended(shell: Shell) -> None:
    done = shell(
        "-m",
        *DRY,
        "backend.fail=none,hang",
        "resources.default.time_min=0.02",
        "experiment.name=slow",
    )
    assert done.status == 1
    trials = shell.summary("slow")
    assert trials["backend.fail=none"]["status"] == "succeeded"
    assert "time limit" in trials["backend.fail=hang"]["stages"][0]["error"]


def test_what_waits_behind_a_stage_over_its_time_still_runs(shell: Shell) -> None:
    words = (
        "-m",
        *DRY,
        "backend.fail=hang,none",
        "seed=0,1",
        "resources.default.time_min=0.01",
        "hydra.launcher.workers=1",
    )
    done = shell(*words, "run_control_trials=false", "experiment.name=queue", timeout=60)
    assert done.status == 1
    trials = shell.summary("queue")
    assert {name: trial["status"] for name, trial in trials.items()} == {
        f"backend.fail={how},seed={seed}": status
        for how, status in (("hang", "failed"), ("none", "succeeded"))
        for seed in (0, 1)
    }


@pytest.mark.parametrize("whole", [True, False])
def test_the_journal_is_read_once(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    for ranks in ("4", "8,16", "4"):
        shell(
            "-m", *DRY, f"lora.rank={ranks}", "run_control_trials=false", "experiment.name=thrice"
        )
    folder = shell.folder / "multirun" / "thrice"
    *_, last = launches = [event for event in shell.journal("thrice") if event["event"] == "launch"]
    (folder / "launches" / "0000.json").write_text(
        json.dumps({"store": "s", "design": {"name": "lost"}, "trials": [], "stages": {}})
    )
    if not whole:
        next((shell.folder / ".mosweep/store/records").glob("*/*.json")).unlink()
    reads, read = [], Journal.read

    def counted(journal: Journal, *kind: str) -> Any:
        reads.append(kind)
        return read(journal, *kind)

    monkeypatch.setattr(Journal, "read", counted)
    result = Sweep(folder).result()
    assert len(reads) == 1
    assert result.name == "lost", "a launch that the journal does not know is the oldest"
    stages = [stage for trial in result.trials for stage in trial.stages]
    assert [trial.name for trial in result.trials] == ["lora.rank=8", "lora.rank=16", "trial"]
    assert sum(stage.status == "pending" for stage in stages) == (not whole)
    assert all(
        stage.cached == (stage.record["finished"] < last["time"])
        for stage in stages
        if stage.record
    )
    assert [launch.file for launch in Sweep(folder).launches] == [
        "0000.json",
        launches[1]["file"],
        last["file"],
    ]


def test_an_evaluation_named_by_a_path(shell: Shell) -> None:
    done = shell(
        "-m",
        *DRY,
        "lora.rank=4",
        "eval.tasks=['lib/mine.py@letters','./lib']",
        "experiment.name=path",
    )
    assert done.status == 0, done.err
    folder = shell.folder / "multirun" / "path" / "trial"
    assert (folder / "eval:lib_mine.py@letters" / "samples.jsonl").exists()
    assert (folder / "eval:._lib" / "samples.jsonl").exists()


def test_run_goes_on_from_the_frozen_design(shell: Shell, started: Callable[[str], int]) -> None:
    shell("-m", *DRY, "lora.rank=4,64", "experiment.name=grid")
    (record,) = [
        path
        for path in (shell.folder / ".mosweep/store/records").glob("*/*.json")
        if '"eval"' in path.read_text()
    ][:1]
    record.unlink()
    assert shell("status", "grid").out.count("pending") >= 1
    done = shell("run", "grid", "--json", cwd=shell.folder)
    assert done.status == 0, done.err
    assert {trial["status"] for trial in done.json["trials"]} == {"succeeded"}
    assert started("grid") == 6
    again = shell("run", "grid")
    assert (again.status, started("grid")) == (0, 6)
    assert "nothing to do" in again.out


def test_plan_predicts_and_writes_nothing(shell: Shell) -> None:
    done = shell("plan", *DRY, *GRID, "--json")
    assert done.status == 0, done.err
    assert (done.json["trials"], done.json["stages"]) == (
        6,
        {"total": 10, "cached": 0, "running": 0, "to_run": 10, "maybe": 0},
    )
    assert shell.files() == set()
    shell("-m", *DRY, *GRID)
    assert shell("plan", *DRY, *GRID, "lora.rank=4,16,64", "--json").json["stages"]["to_run"] == 4


def test_explain_names_the_field(shell: Shell) -> None:
    shell("-m", *DRY, "lora.rank=4", "experiment.name=one")
    shell("-m", *DRY, "lora.rank=4", "backend.fail=raise", "experiment.name=two")
    cached = shell("explain", "trial", "--sweep", "one", "--json").json
    assert [stage["cached"] for stage in cached["stages"]] == [True, True]
    missing = shell("explain", "trial", "--sweep", "two", "--json").json
    assert missing["stages"][0]["differences"] == [
        {"field": "config.fail", "there": "none", "here": "raise"}
    ]


def test_effects_are_what_was_planted(shell: Shell) -> None:
    shell(
        "-m",
        *DRY,
        "lora.rank=4,64",
        "seed=range(4)",
        "backend.effects={lora.rank:{64:0.3}}",
        "experiment.name=planted",
    )
    trials = shell.summary("planted").values()
    mean = {
        rank: sum(
            t["metrics"]["capitalization/score"]
            for t in trials
            if t["factors"].get("lora.rank") == rank
        )
        / 4
        for rank in (4, 64)
    }
    assert mean[64] - mean[4] == pytest.approx(0.3, abs=0.05)


def test_interrupted_sweep_exits_130_and_continues(
    shell: Shell, started: Callable[[str], int]
) -> None:
    process = shell.start(
        "-m",
        *DRY,
        "seed=range(12)",
        "backend.delay_s=1",
        "run_control_trials=false",
        "experiment.name=stop",
    )
    journal = shell.folder / "multirun" / "stop" / "journal.jsonl"
    deadline = time.monotonic() + 30
    while not (journal.exists() and '"finished"' in journal.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    finished = {event["key"] for event in shell.journal("stop") if event["event"] == "finished"}
    done = shell(
        "-m",
        *DRY,
        "seed=range(12)",
        "backend.delay_s=1",
        "run_control_trials=false",
        "experiment.name=stop",
    )
    assert done.status == 0
    restarted = [event["key"] for event in shell.journal("stop") if event["event"] == "started"]
    assert all(restarted.count(key) == 1 for key in finished)


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_stock_launchers_give_the_same(shell: Shell, launcher: str) -> None:
    done = shell(
        "-m", *DRY, *GRID, f"hydra/launcher={launcher}", "experiment.name=stock", timeout=200
    )
    assert done.status == 0, done.out + done.err
    stock = shell.summary("stock")
    shell("-m", *DRY, *GRID, "experiment.name=ours", "store.dir=other")
    ours = shell.summary("ours")
    assert {name: trial["metrics"] for name, trial in stock.items()} == {
        name: trial["metrics"] for name, trial in ours.items()
    }
    assert {trial["status"] for trial in stock.values()} == {"succeeded"}


@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_stock_sweeper_gives_the_same_scores(shell: Shell, launcher: str) -> None:
    words = ("-m", *DRY, "lora.rank=4,64", "run_control_trials=false")
    done = shell(
        *words, "hydra/sweeper=basic", f"hydra/launcher={launcher}", "experiment.name=stock"
    )
    assert done.status == 0, done.out + done.err
    shell(*words, "experiment.name=ours", "store.dir=other")

    def scores(name: str) -> list[float]:
        return sorted(
            trial["metrics"]["capitalization/score"] for trial in shell.summary(name).values()
        )

    assert scores("stock") == scores("ours")
    failed = shell(
        "-m",
        *DRY,
        "backend.fail=raise,none",
        "hydra/sweeper=basic",
        f"hydra/launcher={launcher}",
        "experiment.name=failed",
    )
    assert failed.status == 1, failed.out + failed.err
    assert {trial["status"] for trial in shell.summary("failed").values()} >= {"failed"}


def test_a_failing_trial_under_a_stock_launcher(shell: Shell) -> None:
    done = shell(
        "-m", *DRY, "backend.fail=none,raise", "hydra/launcher=joblib", "experiment.name=stock"
    )
    assert done.status == 1, done.out + done.err
    assert {name: trial["status"] for name, trial in shell.summary("stock").items()} == {
        "backend.fail=none": "succeeded",
        "backend.fail=raise": "failed",
        "control=true": "succeeded",
    }


def test_stock_hydra_stays_stock(shell: Shell) -> None:
    config = shell("--cfg", "job", *DRY, "lora.rank=16")
    assert yaml.safe_load(config.out)["lora"]["rank"] == 16
    assert shell("--cfg", "job", "--resolve", *DRY).status == 0
    assert "lora" in shell("--info", "defaults", *DRY).out
    assert "plan" in shell("--help").out
    assert shell("--hydra-help").status == 0
    done = shell("-m", *DRY, "lora.rank=4", "hydra.sweep.dir=elsewhere")
    assert done.status == 0
    assert (shell.folder / "elsewhere" / "experiment.yaml").exists()


def test_the_users_own_configuration_comes_first(shell: Shell) -> None:
    (shell.folder / "conf" / "model").mkdir(parents=True)
    (shell.folder / "conf" / "model" / "mine.yaml").write_text(
        "name: mine\nrecipe: tiny\ngenerate: {dim: 32, layers: 2}\n"
    )
    done = shell("-m", *DRY, "model=mine,tiny", "experiment.name=own")
    assert done.status == 0, done.err
    assert "model=mine" in shell.summary("own")
    assert "mine" in shell("model=nope").err


def test_home_and_store_can_be_elsewhere(shell: Shell, tmp_path: Path) -> None:
    done = shell(
        "-m", *DRY, "lora.rank=4", "experiment.name=a", env={"MOSWEEP_HOME": str(tmp_path / "home")}
    )
    assert done.status == 0
    assert (tmp_path / "home" / "store" / "records").is_dir()
    assert not (shell.folder / ".mosweep").exists()
    shell("-m", *DRY, "lora.rank=4", f"store.dir={tmp_path / 'shared store'}", "experiment.name=b")
    assert (tmp_path / "shared store" / "records").is_dir()
    assert shell.summary("b")["trial"]["status"] == "succeeded"
