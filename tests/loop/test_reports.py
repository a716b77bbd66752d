"""What reports and projections make of a loop."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import DRY, Shell

from mosweep.analysis.scores import FactoredSweep
from mosweep.core.results import SweepResult
from mosweep.recorders.mlflow.content import Content
from mosweep.reports.summary import summary_text
from mosweep.sweep.folder import find_sweep

LOOP = (
    *DRY,
    "loop.enabled=true",
    "backend.rounds=[0.3,0.7,0.9]",
    "backend.item_sd=0",
    "backend.seed_sd=0",
    "loop.max_rounds=4",
)


def swept(shell: Shell, *words: str) -> SweepResult:
    shell("-m", *LOOP, *words, "experiment.name=loop")
    return find_sweep(str(shell.folder / "multirun" / "loop")).result()


def test_a_projection_has_the_curve_of_the_rounds_and_one_model_per_loop(shell: Shell) -> None:
    result = swept(shell, "loop.threshold=0.7,0.95")
    content = Content(result)
    passed, failed, control = [content.trial_run(trial) for trial in result.trials]
    curve = {
        (metric.name, metric.step): metric.value
        for metric in passed.metrics
        if metric.name.startswith("rounds/")
    }
    assert curve == {
        ("rounds/capitalization/score", 1): 0.3,
        ("rounds/capitalization/score", 2): 0.7,
    }
    assert [model.type for model in passed.outputs] == ["chosen"]
    assert {metric.name: metric.value for metric in passed.metrics}["capitalization/score"] == 0.7
    assert failed.outputs == ()
    assert sorted(metric.step for metric in failed.metrics) == [1, 2, 3, 4]
    assert not [metric for metric in control.metrics if metric.name.startswith("rounds/")]


def test_the_table_says_how_many_rounds_it_took(shell: Shell) -> None:
    text = summary_text(swept(shell, "loop.threshold=0.7,0.95"))
    head, _, *rows = text.splitlines()
    assert head.split() == ["trial", "loop.threshold", "score", "n", "rounds", "status"]
    assert [row.rpartition("  ")[2] for row in rows[:3]] == ["succeeded", "succeeded", "failed"]
    assert "2 of 4" in rows[1]
    assert "4 of 4" in rows[2]
    other = Shell(_other(shell))
    other("-m", "backend=dummy", "tracking=none", "experiment.name=plain")
    plain = find_sweep(str(other.folder / "multirun" / "plain")).result()
    assert "rounds" not in summary_text(plain)


def test_loops_of_two_seeds_are_two_replications(shell: Shell) -> None:
    result = swept(shell, "loop.threshold=0.7", "seed=0,1", "run_control_trials=false")
    sweep = FactoredSweep(result)
    assert len({sweep.run(trial) for trial in result.trials}) == 2


def _other(shell: Shell) -> Path:
    folder = shell.folder / "other"
    folder.mkdir()
    return folder
