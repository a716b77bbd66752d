"""What is compared where a design is not one crossing: bundles, and what later launches add to a
sweep.
"""

from __future__ import annotations

import json

import pytest
from tests.conftest import DRY, Shell

from mosweep.analysis.effects import Effect, effects
from mosweep.core.results import SweepResult
from mosweep.sweep.folder import Sweep

TRUTH = "backend.effects={lora.rank:{64:0.2,128:0.3},model:{tiny-wide:0.1}}"
SEEDS = "seed=0,1,2"


def run(shell: Shell, *words: str, status: int = 0) -> None:
    done = shell("-m", *DRY, TRUTH, SEEDS, "experiment.name=s", *words)
    assert done.status == status, done.out + done.err


def result(shell: Shell) -> SweepResult:
    return Sweep(shell.folder / "multirun" / "s").result()


def names(shell: Shell) -> set[str]:
    return {trial.name for trial in result(shell).trials}


def found(shell: Shell) -> dict[str, Effect]:
    return {str(effect.contrast): effect for effect in effects(result(shell))}


def assert_clean(seen: dict[str, Effect]) -> None:
    """Every comparison has its trials, in blocks that have names."""
    for effect in seen.values():
        assert effect.estimate is not None, effect.notes
        assert not [
            note for note in effect.notes if "without results" in note or "same factors" in note
        ]
        assert not [block.name for block in effect.blocks if "None" in block.name]


# -- later launches --------------------------------------------------------------------------------


def test_a_single_level_added_later_is_compared(shell: Shell) -> None:
    run(shell, "lora.rank=4,64")
    run(shell, "lora.rank=128")
    assert {"seed=0,lora.rank=128", "seed=0,lora.rank=4"} < names(shell)
    seen = found(shell)
    assert list(seen) == ["lora.rank: 4 -> 64", "lora.rank: 4 -> 128", "tuned vs control"]
    assert seen["lora.rank: 4 -> 128"].estimate == pytest.approx(0.3, abs=0.08)
    assert_clean(seen)
    launches = set((shell.folder / "multirun/s/launches").iterdir())
    run(shell, "lora.rank=4,64")
    run(shell, "lora.rank=128")
    assert set((shell.folder / "multirun/s/launches").iterdir()) == launches, (
        "the same commands again change nothing"
    )


def test_a_factor_that_comes_up_later_has_a_level_in_the_trials_before(shell: Shell) -> None:
    run(shell, "lora.rank=4,64")
    run(shell, "lora.rank=4,64", "model=tiny-wide")
    assert {"seed=0,lora.rank=4", "seed=0,lora.rank=4,model=tiny-wide"} <= names(shell)
    seen = found(shell)
    assert_clean(seen)
    assert seen["model: tiny -> tiny-wide"].estimate == pytest.approx(0.1, abs=0.06)
    assert [block.name for block in seen["lora.rank: 4 -> 64"].blocks] == [
        "model=tiny",
        "model=tiny-wide",
    ]
    assert seen["tuned vs control"].seeds == (1, 3)
    assert len(names(shell)) == 14


def test_a_swept_factor_added_later_does_not_leave_a_nameless_block(shell: Shell) -> None:
    run(shell, "lora.rank=4,64", "optim.lr=1e-3")
    run(shell, "lora.rank=4,64", "optim.lr=1e-3,1e-2")
    assert len(names(shell)) == 1 + 12, "trials that are there keep their names"
    seen = found(shell)
    assert_clean(seen)
    assert [block.name for block in seen["lora.rank: 4 -> 64"].blocks] == [
        "optim.lr=0.001",
        "optim.lr=0.01",
    ]


def test_a_setting_that_passes_through_may_come_up_later(shell: Shell) -> None:
    run(shell, "lora.rank=4,64")
    run(shell, "lora.rank=4,64", "torchtune.optimizer.eps=1e-7")
    seen = found(shell)
    assert_clean(seen)
    assert [block.name for block in seen["lora.rank: 4 -> 64"].blocks] == [
        f"torchtune.optimizer.eps={at}" for at in ("null", "1e-07")
    ]


# -- bundles ---------------------------------------------------------------------------------------

BUNDLES = [
    {"model": "tiny", "lora.rank": 4},
    {"model": "tiny-wide", "lora.rank": 64},
    {"model": "tiny", "lora.rank": 128},
]


def test_bundles_are_compared_as_wholes(shell: Shell) -> None:
    run(shell, f"treatments={json.dumps(BUNDLES)}")
    seen = found(shell)
    assert list(seen) == [
        "bundle: model=tiny,lora.rank=4 -> model=tiny-wide,lora.rank=64",
        "bundle: model=tiny,lora.rank=4 -> model=tiny,lora.rank=128",
        "tuned vs control",
    ]
    assert_clean(seen)
    assert [effect.estimate for effect in seen.values()][:2] == pytest.approx([0.3, 0.3], abs=0.08)
    assert {effect.seeds for effect in seen.values()} == {(3, 3), (1, 3)}


def test_bundles_by_name_are_compared_as_asked(shell: Shell) -> None:
    named = [
        {"name": name, **bundle}
        for name, bundle in zip(("small", "large", "deep"), BUNDLES, strict=True)
    ]
    (shell.folder / "bundles.json").write_text(json.dumps(named))
    wrong = shell(
        "-m",
        *DRY,
        SEEDS,
        "treatments=@bundles.json",
        "contrasts=['model: tiny -> tiny-wide']",
        "experiment.name=no",
    )
    assert wrong.status == 2
    assert "not a factor of this sweep; valid: bundle, control" in wrong.err
    run(shell, "treatments=@bundles.json", "contrasts=['bundle: large -> deep']")
    seen = found(shell)
    assert list(seen) == ["bundle: large -> deep"]
    assert_clean(seen)
    assert seen["bundle: large -> deep"].estimate == pytest.approx(0.0, abs=0.08)
    done = shell("analyze", "s")
    assert done.status == 0, done.err
    page = (shell.folder / "multirun/s/report/report.md").read_text()
    assert "small (model=tiny, lora.rank=4)" in page
    assert "bundle=large to deep" in page
    assert "(exploratory)" not in page


def test_a_trial_added_to_bundles_is_a_bundle_by_itself(shell: Shell) -> None:
    run(shell, f"treatments={json.dumps(BUNDLES[:2])}")
    run(shell, "model=tiny", "lora.rank=128")
    seen = found(shell)
    assert_clean(seen)
    assert "bundle: model=tiny,lora.rank=4 -> model=tiny,lora.rank=128" in seen
