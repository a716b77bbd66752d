"""``--stage``, ``--trials`` and ``--force``: exactly what was asked for, and what depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DRY, Shell

DESIGN = ("-m", *DRY, "model=tiny,tiny-wide", "lora.rank=4,64", "experiment.name=s")


@pytest.fixture
def sweep(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    assert shell(*DESIGN).status == 0
    return shell


def to_run(shell: Shell, *words: str) -> dict[str, list[str]]:
    """Trials whose stages would run, by kind."""
    found: dict[str, list[str]] = {}
    for job in shell("plan", "s", *words, "--json").json["jobs"]:
        found.setdefault(job["kind"], []).append(job["trial"])
    return found


def test_force_redoes_what_is_selected_and_what_depends_on_it(sweep: Shell) -> None:
    assert to_run(sweep) == {}
    assert {kind: len(trials) for kind, trials in to_run(sweep, "--force").items()} == {
        "finetune": 4,
        "eval": 6,
    }
    assert {
        kind: len(trials) for kind, trials in to_run(sweep, "--force", "--stage", "eval").items()
    } == {"eval": 6}
    one = ["model=tiny,lora.rank=4"]
    assert to_run(sweep, "--force", "--stage", "finetune", "--trials", one[0]) == {
        "finetune": one,
        "eval": one,
    }


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("lora.rank>=16", {"model=tiny,lora.rank=64", "model=tiny-wide,lora.rank=64"}),
        ("model=tiny,lora.rank!=4", {"model=tiny,lora.rank=64"}),
        ("control=true,*", {"control=true,model=tiny", "control=true,model=tiny-wide"}),
        ("model=tiny-wide,lora.rank=4", {"model=tiny-wide,lora.rank=4"}),
    ],
)
def test_trials_by_name_glob_or_condition(sweep: Shell, wanted: str, names: set[str]) -> None:
    assert set(to_run(sweep, "--force", "--trials", wanted)["eval"]) == names


def test_what_was_redone_is_new_and_the_rest_is_as_it_was(sweep: Shell) -> None:
    def records() -> dict[str, Any]:
        return {
            path.name: path.stat().st_mtime_ns
            for path in sweep.folder.glob(".mosweep/store/records/*/*.json")
        }

    before = records()
    assert (
        sweep(
            "run", "s", "--force", "--stage", "finetune", "--trials", "model=tiny,lora.rank=4"
        ).status
        == 0
    )
    after = records()
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in before) == 2


def test_an_eval_without_its_finetune_is_refused(sweep: Shell) -> None:
    refused = sweep("plan", *DRY, "lora.rank=8", "--stage", "eval")
    assert refused.status == 2
    assert "needs its finetune, which has not run yet" in refused.err
    assert sweep("plan", *DRY, "lora.rank=8", "--stage", "finetune").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trials", "nope"), "matches no trial of the sweep"),
        (("--trials", "lora.rank>=many"), "lora.rank is a number"),
        (("--stage", "fine"), "valid: eval, eval:capitalization, finetune"),
    ],
)
def test_a_selection_of_nothing_is_a_mistake(
    sweep: Shell, words: tuple[str, ...], said: str
) -> None:
    for verb in ("plan", "run"):
        refused = sweep(verb, "s", *words)
        assert refused.status == 2
        assert said in refused.err
