"""A setting is read by a trial, or refused: never dropped in silence."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell

from mosweep.core.errors import ConfigError
from mosweep.core.types import Trial
from mosweep.design.application import planned


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))


def trials_of(*overrides: str) -> list[Trial]:
    return [trial for trial in planned(overrides)[0] if not trial.control]


def finetunes(trials: list[Trial]) -> set[str]:
    return {stage.key for trial in trials for stage in trial.stages if stage.kind.tunes}


@pytest.mark.parametrize(
    ("overrides", "key", "who"),
    [
        (["model=tiny", "tinker.learning_rate=0.1,0.2"], "tinker.learning_rate", "backend=tinker"),
        (["tinker.nonsense=3"], "tinker.nonsense", "backend=tinker"),
        (
            ["backend=tinker", "torchtune.model.lora_rnk=4"],
            "torchtune.model.lora_rnk",
            "backend=torchtune",
        ),
        (["loop.threshold=0.5,0.7"], "loop.threshold", "loop.enabled=true"),
        (["loop.max_rounds=5"], "loop.max_rounds", "loop.enabled=true"),
        (
            ["backend=openai", "model=gpt-4.1-mini", "lora.rank=4,8"],
            "lora.rank",
            "OpenAI decides how it adapts weights",
        ),
        (
            ["backend=openai", "model=gpt-4.1-mini", "optim.lr=1e-4"],
            "optim.lr",
            "learning_rate_multiplier",
        ),
        (["backend=tinker", "lora.alpha=3"], "lora.alpha", "leave it null"),
        (["treatments={tinker.rank:[4,8]}"], "tinker.rank", "backend=tinker"),
        (["controls={tinker.rank:4}"], "tinker.rank", "backend=tinker"),
        (["+trol.rank=4"], "trol.rank", "no such key"),
    ],
)
def test_what_no_trial_reads_is_refused(overrides: list[str], key: str, who: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(overrides)
    assert caught.value.key == key
    assert who in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_factor_multiplies_the_trials_that_read_it() -> None:
    trials = trials_of(
        "backend=torchtune,tinker", "model=tiny", "tinker.learning_rate=0.1,0.2", "+model.hub=null"
    )
    assert [trial.name for trial in trials] == [
        "backend=torchtune",
        "backend=tinker,tinker.learning_rate=0.1",
        "backend=tinker,tinker.learning_rate=0.2",
    ]
    assert len(finetunes(trials)) == 3


def test_a_value_that_only_some_trials_read_is_no_error() -> None:
    [local, remote] = trials_of("backend=torchtune,tinker", "model=tiny", "tinker.rank=4")
    assert "tinker" in local.config
    assert finetunes([local]) != finetunes([remote])


def test_a_whole_group_as_a_factor(tmp_path: Path) -> None:
    (tmp_path / "conf" / "lora").mkdir(parents=True)
    (tmp_path / "conf" / "lora" / "big.yaml").write_text("rank: 64\nalpha: null\ndropout: null\n")
    trials = trials_of("lora=default,big")
    assert [trial.name for trial in trials] == ["lora=default", "lora=big"]
    assert len(finetunes(trials)) == 2


def test_a_base_model_reads_no_setting_of_training() -> None:
    trials, _ = planned(["lora.rank=4,8", "control=true,false"])
    assert sorted(trial.name for trial in trials) == ["control=true", "lora.rank=4", "lora.rank=8"]


def test_the_dry_run_reads_what_the_backends_read() -> None:
    assert len(trials_of("backend=dummy", "torchtune.optimizer.lr=0.1,0.2")) == 2
    with pytest.raises(ConfigError, match=r"torchtune\.optimizer\.lrr"):
        planned(["backend=dummy", "torchtune.optimizer.lrr=0.1"])
    with pytest.raises(ConfigError, match=r"tinker\.learning_rat"):
        planned(["backend=dummy", "tinker.learning_rat=0.1"])
    with pytest.raises(ConfigError, match="no such key"):
        planned(["backend=dummy", "+nobody.x=0.1"])


@pytest.mark.parametrize(
    ("overrides", "given", "instead"),
    [
        (["eval.tasks=[a],[b]"], "[a],[b]", "[a,b]"),
        (["eval.tasks=[a],[a,b]"], "[a],[a,b]", "[a,b]"),
        (["eval.tasks=choice([copying],[negative])"], "choice([copying],[negative])", "[copying"),
    ],
)
def test_evaluations_are_no_factor(overrides: list[str], given: str, instead: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(overrides)
    assert str(caught.value).startswith(f"eval.tasks={given}: evaluations are not a factor")
    assert f"eval.tasks={instead}" in str(caught.value)


def test_evaluations_are_no_treatment() -> None:
    with pytest.raises(ConfigError, match=r"treatments\.eval\.tasks"):
        planned(["treatments={eval.tasks:[[a],[b]]}"])


def metrics_of(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        name: sorted(name for name in trial["metrics"] if name.endswith("/score"))
        for name, trial in summary.items()
    }


@pytest.mark.real
def test_a_task_added_later_adds_results_to_the_same_trials(
    shell: Shell, started: Callable[[str], int]
) -> None:
    sweep = ("-m", "backend=dummy", "lora.rank=4,8", "experiment.name=later")
    assert shell(*sweep, "eval.tasks=[copying]").status == 0
    before = shell.summary("later")
    ran = started("later")
    done = shell(*sweep, "eval.tasks=[copying,negative]")
    assert done.status == 0, done.err
    assert started("later") == ran + 3, "the new evaluation of two fine-tunes and the base model"
    after = shell.summary("later")
    assert after.keys() == before.keys()
    assert all(trial["factors"].keys() <= {"lora.rank"} for trial in after.values())
    assert set(map(tuple, metrics_of(after).values())) == {("copying/score", "negative/score")}
    assert shell(*sweep, "eval.tasks=[negative]").status == 0
    assert metrics_of(shell.summary("later")) == metrics_of(after), "what was measured stays"
    database = shell.folder / ".mosweep" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        runs = connection.execute(
            "select name from runs join tags using (run_uuid) "
            "where key = 'mlflow.parentRunId' and lifecycle_stage = 'active'"
        ).fetchall()
        params = connection.execute("select distinct key from params").fetchall()
    assert sorted(name for (name,) in runs) == sorted(after), "one run for each trial"
    assert "eval.tasks" not in {key for (key,) in params}
