"""What a sweep shows of metrics that have no value, no error, or another number of items."""

from __future__ import annotations

import pytest
from tests.conftest import Shell

pytestmark = pytest.mark.real

EVAL = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, accuracy, mean, metric, scorer, stderr
from inspect_ai.solver import solver


@metric
def auc():
    return lambda scores: float("nan")


@scorer(metrics=[accuracy(), stderr(), auc()])
def right():
    async def score(state, target):
        return Score(value=float(state.input_text == "a"))
    return score


@scorer(metrics=[mean()])
def length():
    async def score(state, target):
        return Score(value=float("nan") if state.input_text == "c" else 7.0)
    return score


@solver
def nobody():
    async def solve(state, generate):
        state.output = ModelOutput.from_content("none", "x")
        return state
    return solve


@task
def risk():
    return Task(
        dataset=[Sample(input=text) for text in "abcd"], solver=nobody(), scorer=[right(), length()]
    )
"""
SWEEP = ("-m", "model=mock", "control=true", "eval.tasks=[risk]", "tracking=none")


@pytest.fixture
def user(shell: Shell) -> Shell:
    for name, text in {
        "tasks/risk/eval.py": EVAL,
        "conf/model/mock.yaml": "name: mock\ninspect: mockllm/model\n",
    }.items():
        path = shell.folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return shell


def test_an_undefined_metric_is_told_and_an_undefined_primary_metric_is_a_failure(
    user: Shell,
) -> None:
    done = user(*SWEEP, "experiment.name=a")
    assert done.status == 0, done.out + done.err
    assert "undefined: risk/auc in control=true; its value is nan" in done.out
    [row] = [line for line in done.out.splitlines() if line.startswith("control ")]
    assert "0.250 ± 0.250" in row
    assert "7.000 ±" not in row, "that is the error of another scorer"
    assert row.split()[-2:] == ["3/4", "succeeded"]
    [trial] = user.summary("a").values()
    assert trial["metrics"]["risk/accuracy"] == 0.25
    assert trial["stderr"] == {"risk/accuracy": 0.25}
    assert trial["undefined"] == {"risk/auc": "its value is nan"}

    for words in (("experiment.name=b",), ("experiment.name=b",)):
        done = user(*SWEEP, *words, "primary_metric=risk/auc")
        assert done.status == 1, done.out
        assert "the primary metric risk/auc is undefined: its value is nan" in done.out + done.err
    [trial] = user.summary("b").values()
    assert trial["metrics"]["risk/accuracy"] == 0.25, "what was measured is kept"
    assert user("status", "b").out.count("primary metric") == 1
