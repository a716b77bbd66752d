"""Numbers from the environment are numbers, and levels are known by their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.errors import ConfigError, UserError
from mosweep.core.types import Trial
from mosweep.design.application import planned


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "LR": "1e-3",
        "RANK": "16",
        "HALF": "0.5",
        "VERSION": "1.10",
        "WORD": "fast",
    }.items():
        monkeypatch.setenv(name, text)


def tuned(*overrides: str) -> list[Trial]:
    return [trial for trial in planned(["backend=dummy", *overrides])[0] if not trial.control]


@pytest.mark.parametrize(
    ("override", "written"),
    [
        ("optim.lr=${oc.env:LR}", "optim.lr=0.001"),
        ("optim.lr=${oc.env:NOT_SET,2e-5}", "optim.lr=2e-5"),
        ("lora.rank=${oc.env:RANK}", "lora.rank=16"),
        ("lora.dropout=${oc.env:HALF}", "lora.dropout=0.5"),
        ("optim.lr='${oc.decode:${oc.env:LR}}'", "optim.lr=0.001"),
        ("seed=${oc.env:RANK}", "seed=16"),
        ("seeds=['${oc.env:RANK}']", "seeds=[16]"),
        ("treatments={optim.lr:['${oc.env:LR}']}", "treatments={optim.lr:[0.001]}"),
        ("torchtune.optimizer.weight_decay=${oc.env:HALF}", "torchtune.optimizer.weight_decay=0.5"),
    ],
)
def test_the_same_trial_as_with_the_number(override: str, written: str) -> None:
    (got,), (wanted,) = tuned(override), tuned(written)
    assert (got.id, got.name, dict(got.factors)) == (wanted.id, wanted.name, dict(wanted.factors))


def test_text_stays_text() -> None:
    (trial,) = tuned("model.name=run-${oc.env:VERSION}")
    assert trial.config["model"]["name"] == "run-1.10"


def test_swept_levels_have_their_values() -> None:
    trials = tuned("optim.lr='${oc.env:LR}',0.5", "lora.rank='${oc.env:RANK}',8")
    assert [trial.name for trial in trials] == [
        "optim.lr=0.001,lora.rank=16",
        "optim.lr=0.001,lora.rank=8",
        "optim.lr=0.5,lora.rank=16",
        "optim.lr=0.5,lora.rank=8",
    ]


def test_one_level_in_two_spellings_is_one_trial() -> None:
    assert len(tuned("optim.lr=0.001,'${oc.env:LR}'")) == 1


def test_a_level_that_follows_another() -> None:
    trials = tuned("lora.rank=4,8", "lora.alpha='${lora.rank}',32")
    assert [dict(trial.factors) for trial in trials] == [
        {"lora.rank": rank, "lora.alpha": alpha} for rank in (4, 8) for alpha in (rank, 32)
    ]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr='0.01'", 'optim.lr=0.01: expected a number, not the text "0.01"'),
        ("lora.rank='8'", 'expected a whole number, not the text "8"'),
        ("optim.lr=${oc.env:WORD}", "optim.lr=fast: expected a number"),
        ("optim.lr=${oc.env:NOT_SET}", "NOT_SET"),
    ],
)
def test_what_is_no_number(override: str, words: str) -> None:
    with pytest.raises((ConfigError, UserError)) as caught:
        tuned(override)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sweep_records_values(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    words: dict[str, Any] = {"env": {"LR": "0.01"}}
    done = shell("-m", *DRY, "optim.lr='${oc.env:LR}',0.5", "experiment.name=a", **words)
    assert done.status == 0, done.err
    levels = [t["factors"]["optim.lr"] for t in shell.summary("a").values() if not t["control"]]
    assert levels == [0.01, 0.5]
    assert "oc.env" not in shell("summary", "a").out
    selected = shell("run", "a", "--trials", "optim.lr<0.1")
    assert selected.status == 0, selected.err
    again = shell(*DRY, "optim.lr=${oc.env:LR}", "lora.rank=4", **words)
    assert again.status == 0, again.err
