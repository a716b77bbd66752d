"""Recording in W&B: the real one, offline, its own service writing files that are read back
here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mosweep.config.groups import Tracking
from mosweep.core.errors import MissingExtra
from mosweep.core.results import SweepResult
from mosweep.recorders.base import Projection
from mosweep.recorders.wandb import project, run_of

Sweep = Callable[..., SweepResult]

OFFLINE = Tracking(recorder="wandb", mode="offline")
DRY = ("-m", "backend=dummy", "lora.rank=4,64", "experiment.name=dry", "tracking=wandb")


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """W&B's service outlives a test; it keeps its own files out of the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "NETRC"):
            patch.setenv(name, str(tmp_path_factory.mktemp("wandb") / name))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_BASE_URL"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs go: ``wandb`` in mosweep's home."""
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "wandb"


@pytest.fixture
def terminal(shell: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A user's shell: with a home folder of its own, and none of this process's service."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    monkeypatch.setenv("HOME", str(shell.folder / "user"))
    return shell


@dataclass
class Seen:
    """A run as its file tells it."""

    run: Any = None
    exit_code: int | None = None

    def __post_init__(self) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []


def records(file: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def name_of(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def seen(file: Path) -> Seen:
    found = Seen()
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= {
                name_of(item): json.loads(item.value_json) for item in record.run.config.update
            }
        elif kind == "summary":
            found.summary |= {
                name_of(item): json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "history":
            found.history.append(
                {name_of(item): json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def runs(folder: Path) -> dict[str, Seen]:
    """What was written, by the runs' names; of several files the last."""
    found = [
        seen(file)
        for file in sorted(
            folder.glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns
        )
    ]
    return {run.run.display_name: run for run in found}


def test_trial_shows_factors_scores_lineage_and_loss(sweep: Sweep, folder: Path) -> None:
    result = sweep()
    for trial in result.trials:
        factor = trial.factors.get("lora.rank", "null")
        (Path(trial.folder) / "config.yaml").write_text(
            f"model: {{name: tiny}}\nlora: {{rank: {factor}}}\nseed: 0\n"
        )
    assert project(result, OFFLINE) == Projection(created=3)
    found = runs(folder)
    assert set(found) == {trial.name for trial in result.trials}
    tuned = found["model=tiny,lora.rank=64"]
    assert (tuned.run.run_group, tuned.run.job_type, tuned.run.project) == (
        "letters",
        "tuned",
        "mosweep",
    )
    assert list(tuned.run.tags) == ["model=tiny", "lora.rank=64"]
    assert tuned.exit_code == 0
    assert (tuned.config["lora"], tuned.config["model"], tuned.config["seed"]) == (
        {"rank": 64},
        {"name": "tiny"},
        0,
    )
    assert tuned.config["factors"] == {"model": "tiny", "lora.rank": 64}
    scores = {
        "capitalization/accuracy": 0.314,
        "capitalization/stderr": 0.01,
        "reversal/accuracy": 0.414,
        "reversal/stderr": 0.01,
    }
    assert {name: tuned.summary[name] for name in scores} == pytest.approx(scores)
    assert tuned.summary["status"] == "succeeded"
    assert {row["_step"]: row["train/loss"] for row in tuned.history} == pytest.approx(
        {step: 2.0 / (step + 1) for step in range(5)}
    )
    assert [row["train/chosen_reward"] for row in tuned.history] == [step / 8 for step in range(5)]
    control = found["model=tiny,control"]
    assert (control.run.job_type, list(control.run.tags), control.history) == (
        "control",
        ["model=tiny"],
        [],
    )

    trial = result.trials[2]
    lineage = tuned.config["lineage"]
    data, base, tuning = lineage["data"], lineage["model"], lineage["finetune"]
    assert (data["name"], data["digest"], data["rows"]) == ("words", "d1" * 32, 1000)
    assert tuning["needs"] == {"model": base["key"], "data": data["key"]}
    assert lineage["eval:reversal"]["needs"]["model"] == tuning["key"] == trial.stages[2].key
    assert tuning["artifact_digest"] == trial.stages[2].record["artifact_digest"]  # type: ignore[index]


def test_again_nothing_is_written(sweep: Sweep, folder: Path) -> None:
    result = sweep()
    project(result, OFFLINE)
    before = sorted(folder.rglob("*"))
    assert project(result, OFFLINE) == Projection(unchanged=3)
    assert sorted(folder.rglob("*")) == before


def test_recording_again_resumes_the_same_runs(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = sweep()
    project(result, OFFLINE)
    ids = {name: run.run.run_id for name, run in runs(folder).items()}
    assert len(set(ids.values())) == 3
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "other home"))
    assert project(result, OFFLINE).created == 3
    assert {
        name: run.run.run_id for name, run in runs(tmp_path / "other home" / "wandb").items()
    } == ids
    moved = replace(result, folder=tmp_path / "moved")
    assert [run_of(moved, trial).id for trial in moved.trials] == list(
        map(ids.get, (trial.name for trial in moved.trials))
    )
    other = run_of(replace(result, name="other"), result.trials[0])
    assert other.id != ids[other.name]


def test_failures_are_failures_until_they_succeed(sweep: Sweep, folder: Path) -> None:
    project(sweep(fail=(4,)), OFFLINE)
    failed = runs(folder)["model=tiny,lora.rank=4"]
    assert (failed.exit_code, failed.summary["status"], failed.summary["error"]) == (
        1,
        "failed",
        "finetune: out of memory",
    )
    assert project(sweep(), OFFLINE) == Projection(updated=1, unchanged=2)
    run = runs(folder)["model=tiny,lora.rank=4"]
    assert (run.exit_code, run.summary["capitalization/accuracy"]) == (0, 0.254)


def test_trials_that_have_not_ended_wait(sweep: Sweep, folder: Path) -> None:
    result = sweep()
    last = result.trials[-1]
    waiting = replace(
        last, stages=(*last.stages[:-1], replace(last.stages[-1], status="pending", record=None))
    )
    assert project(replace(result, trials=(*result.trials[:-1], waiting)), OFFLINE) == Projection(
        created=2, unchanged=1
    )
    assert project(result, OFFLINE) == Projection(created=1, unchanged=2)


def test_secrets_stay_here(sweep: Sweep, folder: Path) -> None:
    result = sweep(fail=(4,))
    text = (
        "backend: {environment: {HF_TOKEN: hunter2hunter2}}\ntracking: {uri: "
        "'https://me:hunter2@example.org/x'}\n"
    )
    (Path(result.trials[1].folder) / "config.yaml").write_text(text)
    stage = result.trials[1].stages[2]
    told = replace(stage, error="401: sk-hunter2-0123456789abcdef is wrong")
    trial = replace(result.trials[1], stages=(*result.trials[1].stages[:2], told))
    project(replace(result, trials=(trial,)), OFFLINE)
    (run,) = runs(folder).values()
    assert run.config["backend"] == {"environment": {"HF_TOKEN": "(looks like a secret)"}}
    assert not [
        file for file in folder.rglob("*") if file.is_file() and b"hunter2" in file.read_bytes()
    ]


def test_dummies_and_long_names_are_marked_and_cut(sweep: Sweep) -> None:
    result = sweep(dummy=True, models=("m" * 200,))
    run = run_of(result, result.trials[-1])
    assert run.tags[-1] == "dummy"
    assert max(map(len, run.tags)) == 64
    assert len(run.name) == 128


def test_nothing_is_imported_where_nothing_is_to_do(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sweep()
    project(result, OFFLINE)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert project(result, OFFLINE).unchanged == 3
    with pytest.raises(MissingExtra, match=r"pip install 'mosweep\[wandb\]'"):
        project(sweep(shift=0.5), OFFLINE)


def test_modes_come_from_the_environment_too(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = Tracking(recorder="wandb", project="letters", entity="team")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert project(sweep(), tracking) == Projection(unchanged=3)
    assert not folder.exists()
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert project(sweep(), tracking) == Projection(created=3)
    assert {(run.run.entity, run.run.project) for run in runs(folder).values()} == {
        ("team", "letters")
    }


def test_server_that_does_not_answer_costs_no_sweep(terminal: Any) -> None:
    environment = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    code = (
        "from mosweep.cli.main import main; from mosweep.recorders import wandb; "
        "wandb._PATIENCE_S = 1.0; "
    )
    for words, status, told in (
        (DRY, 0, "run `mosweep sync` later"),
        (("sync", "dry"), 1, "mosweep: W&B: "),
    ):
        command, env = (
            [sys.executable, "-c", f"{code}main({list(words)!r})"],
            {**terminal.environment, **environment},
        )
        done = subprocess.run(
            command, cwd=terminal.folder, env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (
            status,
            True,
            False,
        ), done.stderr
    assert len(terminal.summary("dry")) == 3


def test_sweep_of_the_command_line(terminal: Any) -> None:
    canary = {"WANDB_API_KEY": "ca9a41" * 6 + "abcd"}
    done = terminal(*DRY, "tracking.mode=offline", env=canary)
    assert (done.status, "Warning" in done.err) == (0, False), done.err
    found = runs(terminal.folder / ".mosweep" / "wandb")
    assert {run.run.job_type for run in found.values()} == {"control", "tuned"}
    assert found["lora.rank=64"].config["lora"]["rank"] == 64
    assert found["lora.rank=64"].config["lineage"]["finetune"]["model_id"].startswith("dummy/tiny@")
    [done] = terminal("sync", "dry", "--json", env=canary).json
    assert (done["recorder"], done["unchanged"], done["created"]) == ("wandb", 3, 0)
    assert not [
        file
        for file in terminal.folder.rglob("*")
        if file.is_file() and b"ca9a41ca9a41" in file.read_bytes()
    ]


def test_no_key_costs_no_sweep(terminal: Any) -> None:
    done = terminal(*DRY, env={"NETRC": str(terminal.folder / "none")})
    assert done.status == 0
    assert "not recorded in W&B (W&B: No API key configured" in done.err
    assert len(terminal.summary("dry")) == 3
    offline = {"WANDB_MODE": "offline"}
    assert (
        terminal("sync", "dry", env=offline).out
        == "multirun/dry: wandb: 3 runs created, 0 updated, 0 unchanged, 0 failed\n"
    )


def test_missing_library_stops_the_command_before_anything_starts(terminal: Any) -> None:
    code = (
        "import sys; sys.modules['wandb'] = None; from mosweep.cli.main import main; "
        f"main({list(DRY)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=terminal.folder,
        env=terminal.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, terminal.files()) == (2, set())
    assert done.stderr.strip() == (
        "mosweep: tracking=wandb (or give tracking=none) needs wandb: pip install 'mosweep[wandb]'"
    )


@pytest.mark.real
def test_both_at_once(terminal: Any) -> None:
    both = [word.replace("tracking=wandb", "tracking=mlflow+wandb") for word in DRY]
    done = terminal(*both, "tracking.mode=offline")
    assert done.status == 0, done.err
    assert len(runs(terminal.folder / ".mosweep" / "wandb")) == 3
    rows = terminal("sync", "dry", "--json").json
    assert [(row["recorder"], row["unchanged"]) for row in rows] == [("mlflow", 3), ("wandb", 3)]
