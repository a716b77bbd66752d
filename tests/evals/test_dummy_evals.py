"""The pretended evaluation: deterministic, per item, with the noise that was asked for."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import ConfigError
from mosweep.evals import EvalBackend, EvalJob, EvalResults
from mosweep.evals.dummy.backend import DummyEvalBackend, DummyEvalJob


def evaluate(model: str = "m", **options: Any) -> EvalResults:
    async def go() -> EvalResults:
        job = await DummyEvalBackend(**options).evaluate(model, ["a", "b"])
        assert isinstance(job, EvalJob)
        return await job.wait()

    return asyncio.run(go())


def scores(results: EvalResults, task: str = "a") -> list[float]:
    return [row["scores"]["score"] for row in results.samples if row["task"] == task]


def test_it_is_an_eval_backend() -> None:
    assert isinstance(DummyEvalBackend(), EvalBackend)
    with pytest.raises(ConfigError):
        evaluate(items=0)


def test_same_model_same_scores() -> None:
    assert evaluate() == evaluate()
    assert scores(evaluate()) != scores(evaluate("other"))


def test_metrics_are_those_of_the_items() -> None:
    results = evaluate(items=50)
    assert results.metrics["a"]["score"] == pytest.approx(statistics.fmean(scores(results)))
    assert results.metrics["a"]["stderr"] == pytest.approx(
        statistics.stdev(scores(results)) / 50**0.5
    )
    assert results.metrics["a"]["n"] == 50
    assert all(row["metadata"]["dummy"] for row in results.samples)


def test_shift_and_noise_have_the_size_that_was_asked_for() -> None:
    plain, shifted = evaluate(mean=0.4, items=400), evaluate(mean=0.4, shift=0.2, items=400)
    assert shifted.metrics["a"]["score"] - plain.metrics["a"]["score"] == pytest.approx(0.2)
    assert statistics.stdev(scores(plain)) == pytest.approx(0.1, rel=0.15)
    assert set(scores(evaluate(mean=0.4, item_sd=0.0))) == {0.4}
    seeds = [
        evaluate(mean=0.5, item_sd=0.0, seed_sd=0.05, seed=seed).metrics["a"]["score"]
        for seed in range(100)
    ]
    assert statistics.stdev(seeds) == pytest.approx(0.05, rel=0.25)


def test_items_are_as_hard_for_one_model_as_for_another() -> None:
    assert (
        statistics.correlation(scores(evaluate("m", mean=0.5)), scores(evaluate("n", mean=0.5)))
        > 0.3
    )


def test_results_are_saved_summarised_and_loaded(tmp_path: Path) -> None:
    async def roundtrip() -> DummyEvalJob:
        job = await DummyEvalBackend().evaluate("m", "a")
        await job.save(tmp_path / "results.json")
        loaded = await DummyEvalJob.load(tmp_path / "results.json")
        assert await loaded.wait() == await job.wait()
        return loaded

    summary = asyncio.run(roundtrip()).results.summary()
    assert list(summary.columns) == ["model_id", "task", "metric", "value"]
    assert list(summary["metric"]) == ["score", "stderr", "n"]
