"""Rounds, learning rates and decisions of a loop are those that its scores and settings ask for."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosweep.core.errors import ConfigError
from mosweep.core.work import ROUND, ROUND_EVAL, Artifact, Context, Kind, Resources
from mosweep.stages.loop.rounds import Chosen, NextRound, RoundEval
from mosweep.stages.loop.schedule import Schedule

from .conftest import Loops

scores = st.lists(st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.7, 0.75, 1.0]), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(
    levels=scores,
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.75, 1.0]),
    more=st.integers(0, 2),
)
def test_a_loop_ends_with_the_first_round_that_reaches_the_threshold(
    fresh_loops: Callable[[], Loops], levels: list[float], threshold: float, more: int
) -> None:
    rounds = len(levels) + more
    expected = [*levels, *[levels[-1]] * more]
    reached = next((number for number, score in enumerate(expected, 1) if score >= threshold), None)
    loops = fresh_loops()
    done = loops.run(
        loops.trial(
            backend={"rounds": levels}, threshold=threshold, max_rounds=rounds, steps_per_round=2
        )
    )
    assert done.trained == list(range(1, (reached or rounds) + 1))
    assert [
        done.facts[f"eval {number}:capitalization"]["score"] for number in done.trained
    ] == pytest.approx(expected[: len(done.trained)])
    if reached:
        assert done.failed == {}
        assert done.facts["chosen"]["round"] == reached
        assert done.facts["chosen"]["model_id"] == done.facts[f"round {reached}"]["model_id"]
        assert (
            done.facts["eval:capitalization"]["metrics"]["score"]
            == done.facts["chosen"]["score"]
            == pytest.approx(expected[reached - 1])
        )
        for number in range(reached + 1, rounds + 1):
            assert done.facts[f"round {number}"] == {"stopped": True, "reached": reached}
            assert done.facts[f"eval {number}:capitalization"] == {
                "stopped": True,
                "reached": reached,
            }
            assert not done.folders[f"round {number}"].exists()
    else:
        best = max(range(rounds), key=lambda place: expected[place]) + 1
        model = done.facts[f"round {best}"]["model_id"]
        (error,) = done.failed.values()
        assert error == (
            f"capitalization/score reached {threshold:g} in none of {rounds} rounds; "
            f"the best is round {best} with {expected[best - 1]:.4g}: {model}"
        )
        assert list(done.failed) == ["chosen"]
        assert "eval:capitalization" not in done.facts


def test_equality_stops(loops: Loops) -> None:
    assert loops.run(
        loops.trial(backend={"rounds": [0.3, 0.7]}, threshold=0.7, max_rounds=3)
    ).trained == [1, 2]
    assert loops.run(
        loops.trial(backend={"rounds": [0.3, 0.7]}, threshold=math.nextafter(0.7, 1), max_rounds=3)
    ).trained == [1, 2, 3]


@settings(max_examples=20, deadline=None)
@given(
    peak=st.floats(1e-5, 1e-1),
    decay=st.floats(0.1, 1.0),
    floor=st.floats(0.0, 1.0),
    steps=st.integers(1, 7),
    rounds=st.integers(1, 5),
    warmup=st.integers(0, 6),
)
def test_every_round_has_the_learning_rates_of_the_schedule(
    fresh_loops: Callable[[], Loops],
    peak: float,
    decay: float,
    floor: float,
    steps: int,
    rounds: int,
    warmup: int,
) -> None:
    total = steps * rounds
    warmup, floor = min(warmup, total - 1), floor * peak
    loops = fresh_loops()
    trial = loops.trial(
        backend={"rounds": [0.0]},
        optim={"lr": peak},
        lr_decay=decay,
        min_lr=floor,
        steps_per_round=steps,
        max_rounds=rounds,
        warmup_steps=warmup,
        threshold=1.0,
    )
    done = loops.run(trial)
    assert done.trained == list(range(1, rounds + 1))
    for number in done.trained:
        schedule = Schedule(max(peak * decay ** (number - 1), floor), floor, warmup, total)
        lr = done.facts[f"round {number}"]["lr"]
        assert lr["peak"] == pytest.approx(schedule.peak, rel=1e-12)
        assert lr["first"] == pytest.approx(schedule.lr((number - 1) * steps + 1), rel=1e-12)
        assert lr["last"] == pytest.approx(schedule.lr(number * steps), rel=1e-12)
        assert done.facts[f"round {number}"]["steps_done"] == number * steps


def test_max_steps_ends_the_run_with_a_shorter_last_round(loops: Loops) -> None:
    done = loops.run(
        loops.trial(backend={"rounds": [0.0]}, max_steps=25, steps_per_round=10, max_rounds=9)
    )
    assert [done.facts[f"round {number}"]["steps"] for number in done.trained] == [10, 10, 5]
    longer = loops.run(
        loops.trial(backend={"rounds": [0.0]}, max_steps=25, steps_per_round=10, max_rounds=2)
    )
    assert longer.ran == ["chosen"], (
        "with the run's length given, fewer rounds of it are the same rounds"
    )


def test_nothing_runs_twice(loops: Loops) -> None:
    trial = loops.trial(backend={"rounds": [0.3, 0.9]}, max_rounds=4)
    first, again = loops.run(trial), loops.run(trial)
    assert len(first.ran) == len(trial.stages) == 4 * 2 + 2
    assert again.ran == []
    assert again.facts == first.facts


def test_thresholds_share_the_first_round_and_its_evaluation(loops: Loops) -> None:
    one, other = (
        loops.trial(backend={"rounds": [0.3, 0.7, 0.9]}, threshold=threshold)
        for threshold in (0.7, 0.9)
    )
    assert {stage.label for stage in one.stages} == {stage.label for stage in other.stages}
    shared = {stage.key for stage in one.stages} & {stage.key for stage in other.stages}
    assert {stage.label for stage in one.stages if stage.key in shared} == {
        "round 1",
        "eval 1:capitalization",
    }
    loops.run(one)
    done = loops.run(other)
    assert done.ran[0] == "round 2"
    assert done.trained == [1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"steps_per_round": 50},
        {"lr_decay": 0.5},
        {"min_lr": 1e-5},
        {"warmup_steps": 3},
        {"batch_size": 4},
        {"max_seq_length": 64},
        {"renderer": "llama3"},
        {"seed": 5},
        {"optim": {"lr": 0.5}},
        {"lora": {"rank": 3}},
        {"backend": {"rounds": [0.2, 0.9]}},
    ],
    ids=str,
)
def test_a_changed_setting_is_another_run(loops: Loops, change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"max_steps": 300, "backend": {"rounds": [0.3, 0.9]}}
    before = {stage.key for stage in loops.trial(**base).stages if stage.label == "round 2"}
    after = {
        stage.key for stage in loops.trial(**{**base, **change}).stages if stage.label == "round 2"
    }
    assert before.isdisjoint(after)


def test_what_is_told_of_a_round_moves_no_key(loops: Loops) -> None:
    plain = [stage.key for stage in loops.trial().stages]
    assert plain == [
        stage.key
        for stage in loops.trial(evalops={"url": "http://localhost:1", "suite": "s"}).stages
    ]
    with pytest.raises(
        ConfigError, match=r"loop\.hard_factor=7\.0: needs loop\.hard_examples=boost"
    ):
        loops.trial(hard_factor=7.0)


def test_a_control_trial_is_no_loop(loops: Loops) -> None:
    controlled = {**loops.base, "control": True, "loop": {**loops.base["loop"], "enabled": True}}
    from mosweep.design.trials import Builder

    assert [stage.label for stage in Builder().trial(controlled, {}).stages] == [
        "eval:capitalization"
    ]


def test_another_evaluation_of_the_tuned_model_runs_once_at_the_end(loops: Loops) -> None:
    trial = loops.trial(backend={"rounds": [0.3, 0.9]}, eval={"tasks": ["capitalization", "other"]})
    labels = [stage.label for stage in trial.stages]
    assert labels[-2:] == ["eval:capitalization", "eval:other"]
    assert [label for label in labels if "other" in label] == ["eval:other"]
    done = loops.run(trial)
    assert done.facts["eval:other"]["model_id"] == done.facts["round 2"]["model_id"]
    assert (done.folders["eval:capitalization"] / "samples.jsonl").read_text() == (
        done.folders["eval 2:capitalization"] / "samples.jsonl"
    ).read_text()


@pytest.mark.parametrize(
    ("settings_", "task", "metric"),
    [
        ({}, "capitalization", None),
        ({"primary_metric": "capitalization/score"}, "capitalization", "score"),
        (
            {"primary_metric": "other/a/b", "eval": {"tasks": ["capitalization", "other"]}},
            "other",
            "a/b",
        ),
        ({"task": "other"}, "other", None),
        ({"metric": "stderr"}, "capitalization", "stderr"),
        ({"metric": "score", "primary_metric": "capitalization/stderr"}, "capitalization", "score"),
        ({"task": "other", "primary_metric": "capitalization/score"}, "other", None),
        ({"eval": {"tasks": ["other"]}}, "other", None),
    ],
)
def test_what_is_watched(
    loops: Loops, settings_: dict[str, Any], task: str, metric: str | None
) -> None:
    (stage,) = [
        stage for stage in loops.trial(**settings_).stages if stage.label.startswith("eval 1:")
    ]
    assert stage.label == f"eval 1:{task}"
    assert isinstance(stage.work, RoundEval)
    assert stage.work.metric == metric


def test_an_evaluation_without_the_metric_is_a_failed_round_and_no_score(loops: Loops) -> None:
    done = loops.run(loops.trial(metric="accuracy"))
    assert done.failed == {
        "eval 1:capitalization": "loop.metric=accuracy: the evaluation has no such metric; "
        "valid: score"
    }
    assert done.ran == ["round 1", "eval 1:capitalization"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 1.5}, "loop.threshold=1.5: must be ≥ 0 and ≤ 1"),
        ({"threshold": math.nan}, "loop.threshold=nan: must be ≥ 0 and ≤ 1"),
        ({"threshold": "high"}, "loop.threshold=high: expected a number"),
        ({"max_rounds": 0}, "loop.max_rounds=0: must be ≥ 1 and ≤ 100"),
        ({"max_rounds": 101}, "loop.max_rounds=101: must be ≥ 1 and ≤ 100"),
        ({"lr_decay": 0}, "loop.lr_decay=0: must be > 0 and ≤ 1"),
        ({"lr_decay": 1.1}, "loop.lr_decay=1.1: must be > 0 and ≤ 1"),
        ({"steps_per_round": 0}, "loop.steps_per_round=0: must be ≥ 1"),
        ({"steps_per_round": 1.5}, "loop.steps_per_round=1.5: expected a whole number"),
        ({"batch_size": 0}, "loop.batch_size=0: must be ≥ 1"),
        ({"max_seq_length": 0}, "loop.max_seq_length=0: must be ≥ 1"),
        ({"min_lr": -1}, "loop.min_lr=-1: must be ≥ 0"),
        (
            {"min_lr": 1.0, "optim": {"lr": 0.1}},
            r"loop.min_lr=1.0: is above the learning rate \(0.1\)",
        ),
        (
            {"warmup_steps": 300},
            r"loop.warmup_steps=300: must be less than the run's 300 steps \(loop.max_rounds · "
            r"loop.steps_per_round\)",
        ),
        (
            {"warmup_steps": 20, "max_steps": 20},
            r"loop.warmup_steps=20: must be less than the run's 20 steps \(loop.max_steps\)",
        ),
        ({"hard_examples": "some"}, "loop.hard_examples=some: .*valid: boost, mine, off"),
        ({"hard_examples": True}, "loop.hard_examples=true: valid: off, boost, mine"),
        ({"hard_by": []}, "loop.hard_by="),
        ({"hard_factor": 0.5}, "loop.hard_factor=0.5: must be ≥ 1"),
        ({"treshold": 0.5}, "loop.treshold=0.5: no such key; did you mean threshold"),
        (
            {"evalops": {"url": "evalops.dev", "suite": "s"}},
            "loop.evalops.url=evalops.dev: expected an address",
        ),
        *(
            (
                {"evalops": {"url": url, "suite": "s"}},
                re.escape(f"loop.evalops.url={url}: expected an address"),
            )
            for url in (
                *(
                    "http://[::1",
                    "http://",
                    "https:///path",
                    "http://host:port",
                    "http://host:99999",
                    "http://.evalops.dev",
                ),
                *(
                    "http://evalops.dev/a b",
                    "https://evalops.dev/ü",
                    "https://evalops.dev?a=b",
                    "https://evalops.dev#a",
                ),
            )
        ),
        (
            {"evalops": {"url": "https://evalops.dev"}},
            "loop.evalops.suite=None: loop.evalops.url needs the id of a test suite",
        ),
        (
            {"optim": {"epochs": 2}},
            "optim.epochs=2: does not apply to a loop; set loop.max_rounds and "
            "loop.steps_per_round",
        ),
        (
            {"optim": {"warmup_steps": 2}},
            "optim.warmup_steps=2: does not apply to a loop; set loop.warmup_steps",
        ),
        (
            {"optim": {"batch_size": 2}, "batch_size": 4},
            "loop.batch_size=4: optim.batch_size=2 is also set",
        ),
        (
            {"optim": {"lr": 0.1}, "use_recommended_lr": True},
            "loop.use_recommended_lr=true: optim.lr=0.1 is also set",
        ),
        (
            {"torchtune": {"optimizer": {"lr": 0.1}}, "use_recommended_lr": True},
            "loop.use_recommended_lr=true: torchtune.optimizer.lr=0.1 is also set; set only one of "
            "them",
        ),
        (
            {"torchtune": {"optimizer.lr": 0.1}, "use_recommended_lr": True},
            "loop.use_recommended_lr=true: torchtune.optimizer.lr=0.1 is",
        ),
        (
            {"tinker": {"learning_rate": 0.1}, "use_recommended_lr": True},
            "loop.use_recommended_lr=true: tinker.learning_rate=0.1 is also set",
        ),
        (
            {"torchtune": {"batch_size": 2}, "batch_size": 4},
            "loop.batch_size=4: torchtune.batch_size=2 is also set; set only one of them",
        ),
        (
            {"tinker": {"max_length": 99}, "max_seq_length": 64},
            "loop.max_seq_length=64: tinker.max_length=99 is also set",
        ),
        (
            {"use_recommended_lr": True},
            "loop.use_recommended_lr=true: .*recommends none for the model mosweep/tiny.*set "
            "optim.lr",
        ),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(loops: Loops, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loops.trial(**change)


def test_an_unquoted_off_in_yaml_is_off(loops: Loops) -> None:
    assert [stage.key for stage in loops.trial(hard_examples=False).stages] == [
        stage.key for stage in loops.trial().stages
    ]


def test_the_recommended_learning_rate_is_the_cookbooks(loops: Loops) -> None:
    from tinker_cookbook.hyperparam_utils import get_lr

    name = "Qwen/Qwen3-8B"
    trial = loops.trial(
        use_recommended_lr=True, model={"name": "q", "generate": None, "hub": name, "tinker": None}
    )
    work: Any = trial.stages[0].work
    assert work.plan["schedule"]["peak"] == get_lr(name)


def test_what_is_said_twice_and_the_same_is_no_mistake(loops: Loops) -> None:
    assert loops.trial(torchtune={"batch_size": 4}, batch_size=4).stages


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"renderer": "llama3"}, "loop.renderer=llama3: applies to backend=tinker only"),
        (
            {"torchtune": {"epochs": 3}},
            "torchtune.epochs=3: does not apply in a loop: set loop.max_rounds",
        ),
        (
            {"torchtune": {"lr_scheduler.num_warmup_steps": 3}},
            "torchtune.lr_scheduler.num_warmup_steps=3: does not apply in a loop",
        ),
        (
            {"torchtune": {"dataset.packed": True}},
            "torchtune.dataset.packed=true: a loop selects examples",
        ),
        (
            {"backend": {"recipe": "full_finetune_single_device"}},
            "backend.recipe=full_finetune_single_device: cannot train in rounds",
        ),
    ],
)
def test_torchtune_refuses_what_means_something_else_in_rounds(
    loops: Loops, change: dict[str, Any], words: str
) -> None:
    backend = {
        "_target_": "mosweep.backends.torchtune.backend.TorchtuneBackend",
        **change.pop("backend", {}),
    }
    with pytest.raises(ConfigError, match=words):
        loops.trial(**change, backend=backend)


def test_a_backend_without_rounds_is_refused(loops: Loops) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^loop.enabled=true: backend=openai cannot train in rounds; valid: dummy, tinker, "
        r"torchtune$",
    ):
        loops.trial(backend={"_target_": "mosweep.backends.openai.backend.OpenAIBackend"})


def test_the_first_round_is_wrapped_in_nothing_that_knows_of_thresholds(loops: Loops) -> None:
    works = {stage.label: stage.work for stage in loops.trial().stages}
    assert not isinstance(works["round 1"], NextRound)
    assert isinstance(works["round 2"], NextRound)


def test_every_curve_of_the_end_goes_over_all_rounds_up_to_the_chosen_one(tmp_path: Path) -> None:
    def artifact(kind: Kind, **facts: Any) -> Artifact:
        return Artifact(kind.name, kind, tmp_path / "nowhere", facts, "")

    def rows(*steps: int) -> list[list[float]]:
        return [[step, step / 8] for step in steps]

    inputs = {}
    for number, steps, score in [(1, (1, 2), 0.1), (2, (3, 4), 0.9), (3, (5, 6), 1.0)]:
        curves = {"accuracy": rows(*steps), **({"late": rows(*steps)} if number > 1 else {})}
        inputs[f"round {number}"] = artifact(
            ROUND, model_id=f"m{number}", loss=rows(*steps), curves=curves
        )
        inputs[f"eval {number}"] = artifact(ROUND_EVAL, score=score, task="t", watched="accuracy")
    context = Context("key", tmp_path / "out", inputs, Resources())
    facts = asyncio.run(Chosen(0.8, False, None).run(context))
    assert facts["round"] == 2
    assert facts["loss"] == rows(1, 2, 3, 4)
    assert facts["curves"] == {"accuracy": rows(1, 2, 3, 4), "late": rows(3, 4)}
