"""``hydra.sweeper.params`` in a file gives the trials that the same words give on the command
line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.conftest import DRY, Shell

from mosweep.core.errors import ConfigError
from mosweep.design.application import planned

SAME: dict[str, tuple[dict[str, Any], list[str]]] = {
    "levels": ({"lora.rank": "4,8,16"}, ["lora.rank=4,8,16"]),
    "a range": ({"seed": "range(0,3)"}, ["seed=range(0,3)"]),
    "choice": ({"model": "choice(tiny,tiny-wide)"}, ["model=tiny,tiny-wide"]),
    "nested": ({"lora": {"rank": "4,8"}}, ["lora.rank=4,8"]),
    "a number": ({"lora.rank": 8, "seed": "0,1"}, ["lora.rank=8", "seed=0,1"]),
    "null and false": (
        {"lora.dropout": None, "run_control_trials": False, "seed": "1,2"},
        ["lora.dropout=null", "run_control_trials=false", "seed=1,2"],
    ),
    "the design's own keys": ({"seeds": 2}, ["seeds=2"]),
    "a new key": (
        {"+torchtune.clip_grad_norm": "1.0,2.0"},
        ["+torchtune.clip_grad_norm=1.0,2.0"],
    ),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(params: Any) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create({"hydra": {"sweeper": {"params": params}}}))
    Path("conf/experiment/grid.yaml").write_text(f"# @package _global_\n{text}")


def ids(*overrides: str) -> list[tuple[str, str]]:
    return [(trial.name, trial.id) for trial in planned(["backend=dummy", *overrides])[0]]


@pytest.mark.parametrize(("params", "words"), SAME.values(), ids=SAME)
def test_the_same_trials(here: Path, params: dict[str, Any], words: list[str]) -> None:
    write(params)
    assert ids("experiment=grid") == ids(*words)


def test_the_command_line_wins(here: Path) -> None:
    write({"lora.rank": "4,8", "seed": "0,1"})
    assert ids("experiment=grid", "lora.rank=16") == ids("seed=0,1", "lora.rank=16")


def test_it_runs(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.folder / "conf" / "experiment").mkdir(parents=True)
    monkeypatch.chdir(shell.folder)
    write({"lora.rank": "4,8", "experiment.name": "mine"})
    done = shell("-m", *DRY, "experiment=grid", "run_control_trials=false")
    assert done.status == 0, done.err
    assert list(shell.summary("mine")) == ["lora.rank=4", "lora.rank=8"]


@pytest.mark.parametrize(
    ("sweeper", "words"),
    [
        ({"params": [4, 8]}, r"hydra\.sweeper\.params=\[4, 8\]: expected a mapping"),
        ({"max_batch_size": 2}, r"hydra\.sweeper\.max_batch_size=2: no such key; valid: params"),
        ({"params": {"lora.rnk": "4,8"}}, "lora.rnk=.*: no such key; did you mean lora.rank"),
        ({"params": {"backend.api_key": "canary"}}, r"backend\.api_key=…: looks like a secret"),
    ],
)
def test_mistakes(here: Path, sweeper: dict[str, Any], words: str) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create({"hydra": {"sweeper": sweeper}}))
    Path("conf/experiment/grid.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigError, match=words):
        ids("experiment=grid")
