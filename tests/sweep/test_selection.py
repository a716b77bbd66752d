"""``--stage``, ``--trials`` and ``--force``: exactly what was asked for, and what depends on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.errors import UserError
from mosweep.core.types import Trial
from mosweep.design.trials import trial_name
from mosweep.sweep.selection import select_trials

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


LISTS: list[dict[str, Any]] = [
    {"model": model, "modules": modules, "dropout": dropout, "on": on}
    for model in ("org/a", "b[1]")
    for modules in (["q", "v"], ["q", "k"], [], None)
    for dropout, on in ((None, True), (0.1, False))
] + [{"opt": {"name": "adam", "betas": [0.9, 0.99]}}, {"opt": {"name": "sgd"}}]
TRIALS = [Trial(trial_name(factors), factors, (), False) for factors in LISTS]


def named(*wanted: str) -> list[str]:
    return [trial.name for trial in select_trials(TRIALS, wanted)]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_the_exact_name_selects_that_trial(trial: Trial) -> None:
    assert named(trial.name) == [trial.name]
    other = TRIALS[3].name
    assert set(named(f"{trial.name},{other}")) == {trial.name, other}
    assert trial.name in named(f"{trial.name[:-3]}*")


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ("modules=[q,v]", lambda f: f.get("modules") == ["q", "v"]),
        ("modules=['q', 'v']", lambda f: f.get("modules") == ["q", "v"]),
        ('modules=["q","k"],on=false', lambda f: f.get("modules") == ["q", "k"] and not f["on"]),
        ("modules=[]", lambda f: f.get("modules") == []),
        ("modules=null", lambda f: "modules" in f and f["modules"] is None),
        ("dropout=null", lambda f: "dropout" in f and f["dropout"] is None),
        ("dropout!=null", lambda f: f.get("dropout") == 0.1),
        ("dropout=None,on=true", lambda f: f.get("on") is True),
        ("modules!=[q,v]", lambda f: "modules" in f and f["modules"] != ["q", "v"]),
        ("model=b[1],on=false", lambda f: f.get("model") == "b[1]" and f["on"] is False),
        ("opt={name:sgd}", lambda f: f.get("opt") == {"name": "sgd"}),
        ("opt={name:adam,betas:[0.9,0.99]}", lambda f: f.get("opt", {}).get("name") == "adam"),
    ],
)
def test_conditions_on_lists_and_null(wanted: str, holds: Callable[[dict[str, Any]], bool]) -> None:
    assert named(wanted) == [trial.name for trial in TRIALS if holds(dict(trial.factors))]


def test_a_list_that_no_trial_has() -> None:
    with pytest.raises(UserError, match="matches no trial"):
        named("modules=[q,o]")
