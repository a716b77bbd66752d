"""What a plan will take: by records of like stages, or unknown; and a budget that refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

SLOW = ("-m", *DRY, "backend.delay_s=0.3", "model=tiny", "hydra.launcher.workers=1")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_nothing_on_record_is_unknown_not_0(shell: Shell) -> None:
    data = shell("plan", *DRY, "lora.rank=4,8", "--json").json
    assert data["cost"]["seconds"] is None
    assert data["cost"]["usd"] is None
    assert "unknown" in shell("plan", *DRY, "lora.rank=4,8").out


def test_a_like_sweep_is_foretold_within_a_factor_of_two(shell: Shell) -> None:
    assert shell(*SLOW, "seed=0,1", "experiment.name=first").status == 0
    cost = shell("plan", *SLOW[1:], "seed=2,3,4", "--json").json["cost"]
    assert shell(*SLOW, "seed=2,3,4", "experiment.name=second").status == 0
    took = sum(
        event["seconds"] for event in shell.journal("second") if event["event"] == "finished"
    )
    assert took / 2 < cost["seconds"]["expected"] < took * 2
    assert cost["seconds"]["low"] <= cost["seconds"]["expected"] <= cost["seconds"]["high"]
    other = shell("plan", *SLOW[1:], "model=tiny-wide", "--json").json["cost"]
    assert other["seconds"] is None, "another model is not similar"


def test_a_budget_below_the_need_refuses_and_nothing_runs(shell: Shell) -> None:
    gpus = "resources.default.gpus=4"
    unknown = shell(*SLOW, "seed=0", gpus, "budget.gpu_hours=5", "experiment.name=u")
    assert unknown.status == 2
    assert "unknown" in unknown.err
    assert shell(*SLOW, "seed=0", gpus, "experiment.name=first").status == 0
    need = shell("plan", *SLOW[1:], "seed=1,2", gpus, "--json").json["cost"]["gpu_hours"]["high"]
    refused = shell(
        *SLOW, "seed=1,2", gpus, f"budget.gpu_hours={need * 0.9}", "experiment.name=second"
    )
    assert refused.status == 2
    assert "nothing was started" in refused.err
    assert not (shell.folder / "multirun" / "second").exists()
    assert (
        shell(
            *SLOW, "seed=1,2", gpus, f"budget.gpu_hours={need * 1.1}", "experiment.name=second"
        ).status
        == 0
    )
    assert (
        shell(*SLOW, "seed=1,2", gpus, "budget.gpu_hours=0", "experiment.name=second").status == 0
    ), "what is done costs nothing"
