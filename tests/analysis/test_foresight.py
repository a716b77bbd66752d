"""What a design will be able to tell, before it is launched, by how much like evaluations on record
varied.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.conftest import DRY, Shell

from mosweep.analysis.effects import effects
from mosweep.analysis.power import minimum_effect
from mosweep.analysis.statistics import Components
from mosweep.sweep.folder import Sweep

LIKE = ("backend.item_sd=0.1", "backend.seed_sd=0.05")


def foreseen(shell: Shell, *words: str) -> dict[str, dict[str, Any]]:
    done = shell("plan", *DRY, *LIKE, *words, "--json")
    assert done.status == 0, done.err
    return {one["contrast"]: one for one in done.json["detectable"]}


def test_nothing_on_record_is_unknown_and_says_so(shell: Shell) -> None:
    found = foreseen(shell, "lora.rank=4,64", "seed=0,1,2")
    assert list(found) == ["lora.rank: 4 -> 64", "tuned vs control"]
    assert {one["mde"] for one in found.values()} == {None}
    assert {one["note"] for one in found.values()} == {
        "unknown: no earlier results of several seeds under this evaluation"
    }
    assert found["lora.rank: 4 -> 64"]["seeds"] == 3
    text = shell("plan", *DRY, *LIKE, "lora.rank=4,64", "seed=0,1,2").out
    assert "lora.rank: 4 -> 64" in text
    assert "unknown: no earlier results of several seeds under this evaluation" in text


def test_like_evaluations_tell_what_will_be_found(shell: Shell) -> None:
    first = ("lora.rank=4,16", "seed=range(12)", "experiment.name=first")
    assert shell("-m", *DRY, *LIKE, *first).status == 0
    words = ("model=tiny", "lora.rank=32,64", "optim.lr=1e-4,1e-3", "seed=0,1,2,3")
    found = foreseen(shell, *words)
    level, control = found["lora.rank: 32 -> 64"], found["tuned vs control"]
    assert (level["seeds"], level["blocks"], level["items"], level["note"]) == (4, 2, 100, "")
    assert level["metric"] == "capitalization/score"
    # The dummy's truth: between seeds 0.05, between single scores 0.1, nothing between items.
    truth = Components(0.05, 0.0, 0.1)
    assert level["mde"] == pytest.approx(
        minimum_effect(truth, runs=4, items=100, blocks=2), rel=0.35
    )
    # An untouched model is a single run with noise of its own, which is the items' as far as
    # anybody can tell.
    untouched = Components(0.05, 0.1, 0.1)
    assert control["mde"] == pytest.approx(
        minimum_effect(untouched, runs=4, items=100, blocks=4, fixed=True), rel=0.35
    )
    assert f"{level['mde']:.3f}" in shell("plan", *DRY, *LIKE, *words).out

    assert shell("-m", *DRY, *LIKE, *words, "experiment.name=second").status == 0
    after = {
        str(one.contrast): one
        for one in effects(Sweep(shell.folder / "multirun" / "second").result())
    }
    for name, one in found.items():
        mde = after[name].mde
        assert mde is not None
        assert mde / 2 < one["mde"] < mde * 2, name


def test_what_is_asked_for_is_foreseen(shell: Shell) -> None:
    assert (
        shell("-m", *DRY, *LIKE, "lora.rank=4,16", "seed=0,1,2", "experiment.name=first").status
        == 0
    )
    few = foreseen(shell, "lora.rank=4,64,128", "seed=0", "contrasts=['lora.rank: 64 -> 128']")
    assert list(few) == ["lora.rank: 64 -> 128"]
    assert (
        few["lora.rank: 64 -> 128"]["note"]
        == "unknown: one seed does not show how much fine-tunes vary"
    )
    other = foreseen(shell, "model=tiny-wide", "lora.rank=4,64", "seed=0,1")
    assert other["lora.rank: 4 -> 64"]["mde"] is None, "another model is not alike"
    bundles = (
        'treatments=[{"name": "a", "lora.rank": 4}, {"name": "b", "lora.rank": 64, "optim.lr": '
        "0.1}]"
    )
    assert foreseen(shell, bundles, "seed=0,1,2")["bundle: a -> b"]["mde"] > 0
    wrong = shell("plan", *DRY, "lora.rank=4,64", "contrasts=['lora.rank: 4 -> 5']")
    assert wrong.status == 2
    assert "not a level of lora.rank in this sweep" in wrong.err


def test_a_fixed_side_needs_fewer_runs_for_the_same() -> None:
    spread = Components(0.05, 0.0, 0.0)
    two, one = (minimum_effect(spread, runs=200, items=100, fixed=fixed) for fixed in (False, True))
    assert one == pytest.approx(two / math.sqrt(2), rel=0.02)
