"""What is read from a log of Inspect: every metric with its own scorer, n and error."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import StageError
from mosweep.core.facts import EvalFacts
from mosweep.core.samples import Samples
from mosweep.evals.base import EvalResults
from mosweep.evals.inspect.backend import InspectEvalBackend

#: Inspect warns of its own deprecations, and leaves streams to the garbage collector.
_NOISE = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Unclosed <MemoryObject:ResourceWarning"
)
pytestmark = [pytest.mark.real, _NOISE]

HEAD = """
import random
from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, accuracy, mean, metric, scorer, stderr
from inspect_ai.solver import solver

@solver
def nobody():
    async def solve(state, generate):
        state.output = ModelOutput.from_content("none", "yes")
        return state
    return solve


def items(*more):
    return [Sample(input=f"question {n}", target="yes") for n in [*range(6), *more]]


SAME = {"dataset": items(), "solver": nobody()}


def number(text):
    return int(text.split()[-1])


@metric
def undefined():
    return lambda scores: float("nan")


@metric
def n():
    return lambda scores: 42.0


@metric
def largest():
    return lambda scores: max(one.as_float() for one in scores)


@scorer(metrics=[accuracy(), stderr()])
def even():
    async def score(state, target):
        return Score(value=float(number(state.input_text) % 2 == 0))
    return score


@scorer(metrics=[mean(), largest()])
def length():
    async def score(state, target):
        return Score(value=float(number(state.input_text)))
    return score


@scorer(metrics=[accuracy(), undefined(), n()])
def odd():
    async def score(state, target):
        return Score(value=float(number(state.input_text) % 2))
    return score


@scorer(metrics=[undefined()])
def nothing():
    async def score(state, target):
        return Score(value=1.0)
    return score


@scorer(metrics={"good": [mean(), stderr()], "sure": [mean()]})
def several():
    async def score(state, target):
        item = number(state.input_text)
        return Score(value={"good": float(item > 2), "sure": float("nan") if item < 2 else item})
    return score


@scorer(metrics=[mean()])
def by_epoch():
    async def score(state, target):
        return Score(value=float(state.epoch == number(state.input_text) % 2 + 1))
    return score


@task
def mine(seed=None):
"""


def evaluated(folder: Path, body: str, **arguments: Any) -> tuple[EvalResults, EvalFacts, Samples]:
    file = folder / "mine.py"
    file.write_text(f"{HEAD}    {body}\n")
    out = folder / f"out{len(list(folder.glob('out*')))}"

    async def run() -> EvalResults:
        job = await InspectEvalBackend(out).evaluate(
            "mockllm/model", f"{file}@mine", task_args=arguments
        )
        return await job.wait()

    results = asyncio.run(run())
    metrics = {name: value for name, value in results.metrics["mine"].items() if name != "n"}
    facts = EvalFacts(
        task="mine",
        model_id="m",
        metrics=metrics,
        n=int(results.metrics["mine"]["n"]),
        scorers=tuple(results.scorers["mine"]),
    )
    samples = Samples.read(out)
    assert samples is not None
    return results, EvalFacts.of(facts.to_json()), samples


def test_an_error_belongs_to_the_mean_of_its_own_scorer(tmp_path: Path) -> None:
    _, facts, samples = evaluated(tmp_path, "return Task(**SAME, scorer=[even(), length()])")
    assert facts.metrics["accuracy"] == 0.5
    assert facts.stderr_of("accuracy") == facts.metrics["stderr"]
    assert facts.stderr_of("mean") is None, "length has no error"
    assert facts.stderr_of("largest") is None, "it is no mean"
    assert facts.scorer_of("accuracy") == "even"
    assert facts.scorer_of("largest") == "length"
    assert set(samples.scores) == {"even", "length"}


def test_what_was_measured_is_kept_if_another_metric_is_undefined(tmp_path: Path) -> None:
    _, facts, _ = evaluated(tmp_path, "return Task(**SAME, scorer=[odd(), even()])")
    assert facts.metrics["odd/accuracy"] == facts.metrics["even/accuracy"] == 0.5
    assert facts.undefined == {"undefined": "its value is nan"}
    assert (facts.metrics["odd/n"], facts.n) == (42.0, 6), "a metric may be called n"
    assert facts.stderr_of("odd/accuracy") is None
    assert facts.stderr_of("even/accuracy") == facts.metrics["stderr"]


def test_an_evaluation_of_which_nothing_is_defined_fails(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no metric has a value \(undefined\)"):
        evaluated(tmp_path, "return Task(**SAME, scorer=nothing())")


def test_each_score_of_a_scorer_has_its_own_n(tmp_path: Path) -> None:
    _, facts, samples = evaluated(tmp_path, "return Task(**SAME, scorer=several())")
    assert facts.metrics["good/mean"] == 0.5
    assert facts.metrics["sure/mean"] == 3.5, "of the four that have one"
    assert facts.sizes == {4, 6}
    assert facts.stderr_of("good/mean") == facts.metrics["stderr"]
    assert facts.stderr_of("sure/mean") is None
    assert facts.scorer_of("sure/mean") == "several/sure"
    assert "several/sure" in samples.scores


@pytest.mark.parametrize(
    ("reducer", "expected", "items"),
    [
        ("'mean'", {"mean": 0.5}, {"by_epoch": 0.5}),
        ("'max'", {"mean": 1.0}, {"by_epoch": 1.0}),
        ("'at_least_2'", {"mean": 0.0}, {"by_epoch": 0.0}),
        (
            "['max', 'at_least_2']",
            {"by_epoch/max/mean": 1.0, "by_epoch/at_least_2/mean": 0.0},
            {"by_epoch/max": 1.0, "by_epoch/at_least_2": 0.0},
        ),
    ],
)
def test_items_have_the_scores_that_the_tasks_reducer_gives(
    tmp_path: Path, reducer: str, expected: dict[str, float], items: dict[str, float]
) -> None:
    body = f"return Task(**SAME, scorer=by_epoch(), epochs=Epochs(2, {reducer}))"
    _, facts, samples = evaluated(tmp_path, body)
    assert facts.metrics == expected
    assert len(samples) == 12
    for name, value in items.items():
        scores = [score for score in samples.of_items[name] if score is not None]
        assert scores == [value] * 6
    assert {facts.scorer_of(name) for name in expected} == set(items)


def test_items_are_known_by_what_they_are(tmp_path: Path) -> None:
    shuffled = (
        "rows = items(0); random.Random(seed).shuffle(rows); "
        "return Task(dataset=MemoryDataset(rows), solver=nobody(), scorer=even())"
    )
    _, _, one = evaluated(tmp_path, shuffled, seed=1)
    _, _, two = evaluated(tmp_path, shuffled, seed=2)
    assert one.ids == two.ids == [*range(1, 8)]
    assert one.items != two.items
    assert sorted(one.items) == sorted(two.items), "each of two equal items once"
    of = dict(zip(one.items, one.texts, strict=True))
    assert all(of[item] == text for item, text in zip(two.items, two.texts, strict=True))
    named = (
        "rows = [Sample(input=one.input, id=f'q{one.input}') for one in items()]; "
        "return Task(dataset=rows, solver=nobody(), scorer=even())"
    )
    _, _, given = evaluated(tmp_path, named)
    assert list(given.items) == [f"qquestion {n}" for n in range(6)]


def test_a_task_with_a_model_of_its_own_is_refused(tmp_path: Path) -> None:
    body = "return Task(**SAME, scorer=even(), model='mockllm/other')"
    with pytest.raises(
        StageError, match=r"mine: it evaluated mockllm/other instead of mockllm/model; remove"
    ):
        evaluated(tmp_path, body)
