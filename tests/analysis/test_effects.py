"""Effects of sweeps: which trials are compared with which, what is said of those that cannot be,
and whether it is true.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import DRY, Shell, known

from mosweep.analysis.contrasts import Contrast, contrasts_of
from mosweep.analysis.effects import effects, effects_data
from mosweep.analysis.foresight import detectable
from mosweep.analysis.spread import spread_of
from mosweep.analysis.statistics import Components
from mosweep.backends.dummy.backend import DummyFinetune
from mosweep.core.errors import ConfigError, CorruptRecord, MissingExtra
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.samples import Samples
from mosweep.core.work import EVAL, FINETUNE, Context, Resources
from mosweep.evals.dummy.backend import SCORE, draw
from mosweep.sweep.folder import find_sweep

TREATMENTS: dict[str, Sequence[Any]] = {
    "model": ["tiny", "tiny-wide"],
    "lora.rank": [4, 64],
    "seed": [0, 1, 2],
}

Rows = Sequence[Mapping[str, Any]]


def rows(scores: Sequence[Any], scorer: str = "match") -> Rows:
    return [
        {"id": item, "epoch": 1, "scores": {scorer: score}} for item, score in enumerate(scores, 1)
    ]


def sweep(
    folder: Path,
    samples: Callable[[Mapping[str, Any]], Rows | str | None],
    treatments: Mapping[str, Sequence[Any]] = TREATMENTS,
    *,
    control: Callable[[Mapping[str, Any]], Rows] | None = None,
    metrics: Mapping[str, float] | None = None,
    **design: Any,
) -> SweepResult:
    """A sweep over ``treatments`` as it would lie on disk; a trial without samples failed, with
    text it is in that state.
    """
    trials = []

    def trial(
        factors: Mapping[str, Any], found: Rows | str | None, is_control: bool = False
    ) -> None:
        name = ",".join(f"{key}={value}" for key, value in factors.items()) or "trial"
        name = f"control=true,{name}" if is_control else name
        key, place = f"eval {name}", folder / name
        tuned = (
            []
            if is_control
            else [
                StageResult(
                    "finetune", FINETUNE, f"finetune {name}", "succeeded", record={"facts": {}}
                )
            ]
        )
        state: Any = found if isinstance(found, str) else "succeeded" if found else "failed"
        record = None
        if state == "succeeded":
            place.mkdir()
            text = "".join(json.dumps(row) + "\n" for row in found or ())
            (place / "samples.jsonl").write_text(text)
            record = {
                "facts": {
                    "task": "words",
                    "model_id": "local/model",
                    "metrics": dict(metrics or {}),
                    "n": len(found or ()),
                }
            }
        done = StageResult(
            "eval:words", EVAL, key, state, record=record, folder=place if record else None
        )
        trials.append(TrialResult(name, name, factors, is_control, (*tuned, done), place))

    for levels in itertools.product(*treatments.values()):
        factors = dict(zip(treatments, levels, strict=True))
        trial(factors, samples(factors))
        untouched = {key: value for key, value in factors.items() if key == "model"}
        if control and not any(t.control and t.factors == untouched for t in trials):
            trial(untouched, control(factors), is_control=True)
    return SweepResult("test", folder, tuple(trials), {"treatments": dict(treatments), **design})


def unread(result: SweepResult) -> SweepResult:
    """The same, with no samples read yet."""
    trials = (replace(trial, stages=tuple(map(replace, trial.stages))) for trial in result.trials)
    return replace(result, trials=tuple(trials))


def noisy(factors: Mapping[str, Any], shift: float = 0.0, items: int = 40) -> Rows:
    rng = random.Random(str(factors))
    level = 0.5 + rng.gauss(0, 0.02) + shift
    return rows([level + rng.gauss(0, 0.1) for _ in range(items)])


def planted(factors: Mapping[str, Any]) -> Rows:
    return noisy(factors, 0.2 if factors.get("lora.rank") == 64 else 0.0)


# -- what is compared ------------------------------------------------------------------------------


def test_by_default_every_level_against_the_first_and_tuned_against_control() -> None:
    treatments: dict[str, Sequence[Any]] = {
        "lora.rank": [8, 4, 64],
        "model": ["tiny"],
        "dataset": ["a", "b"],
        "seed": [0, 1],
    }
    names = [str(contrast) for contrast in contrasts_of(None, treatments)]
    assert names == [
        "lora.rank: 8 -> 4",
        "lora.rank: 8 -> 64",
        "dataset: a -> b",
        "tuned vs control",
    ]
    assert [str(contrast) for contrast in contrasts_of(None, treatments, control=False)] == names[
        :-1
    ]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lora.rank: 4 -> 64", [Contrast("lora.rank", 4, 64)]),
        (["lora.rank: 64 → 4"], [Contrast("lora.rank", 64, 4)]),
        ([{"lora.rank": "4 -> 64"}], [Contrast("lora.rank", 4, 64)]),
        ({"factor": "lora.rank"}, [Contrast("lora.rank", 4, 64)]),
        ({"factor": "control"}, [Contrast("control", True, False)]),
        ([{"factor": "control", "levels": ["true", "false"]}], [Contrast("control", True, False)]),
        (
            [
                {
                    "factor": "lora.rank",
                    "levels": ["4", 64],
                    "at": {"model": "tiny"},
                    "delta": 0.02,
                    "metric": "words/match",
                }
            ],
            [Contrast("lora.rank", 4, 64, {"model": "tiny"}, "words/match", 0.02)],
        ),
        (
            [Contrast("model", "tiny-wide", "tiny", cluster="topic")],
            [Contrast("model", "tiny-wide", "tiny", cluster="topic")],
        ),
        ([], []),
    ],
)
def test_ways_of_writing_a_contrast(given: Any, meant: list[Contrast]) -> None:
    assert contrasts_of(given, TREATMENTS) == meant


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "lora.rnk: 4 -> 64",
            "contrasts[0].factor=lora.rnk: not a factor of this sweep; did you mean lora.rank? "
            "valid: control, lora.rank, model",
        ),
        (
            "seed: 0 -> 1",
            "contrasts[0].factor=seed: seeds are replications, not treatments; valid: control, "
            "lora.rank, model",
        ),
        (
            ["model: tiny -> tiny-wide", "lora.rank: 4 -> 16"],
            "contrasts[1].levels=16: not a level of lora.rank in this sweep; it has 4, 64",
        ),
        (
            "lora.rank 4 64",
            "contrasts[0]=lora.rank 4 64: expected 'factor: level -> level', or a mapping with "
            "factor and levels",
        ),
        (
            "lora.rank: 4 -> 4",
            "contrasts[0].levels=[4, 4]: expected two levels or more, all different; lora.rank "
            "has 4, 64",
        ),
        (
            {"factor": "lora.rank", "levels": [4]},
            "contrasts[0].levels=[4]: expected two levels or more, all different; lora.rank has "
            "4, 64",
        ),
        (
            {"factor": "lora.rank", "levles": [4, 64]},
            "contrasts[0].levles=[4, 64]: no such key; did you mean levels?",
        ),
        ({"factor": "lora.rank", "delta": 0}, "contrasts[0].delta=0: must be > 0"),
        (
            {"factor": "lora.rank", "at": {"model": "huge"}},
            "contrasts[0].at.model=huge: not a level of model in this sweep; it has tiny, "
            "tiny-wide",
        ),
        (
            {"factor": "lora.rank", "at": {"lora.rank": 4}},
            "contrasts[0].at=lora.rank=4: expected levels of other treatments than lora.rank",
        ),
        (7, "contrasts[0]=7: expected a section"),
    ],
)
def test_contrasts_that_a_sweep_does_not_have(given: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        contrasts_of(given, TREATMENTS)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_planted_effect_is_found_and_none_where_there_is_none(tmp_path: Path) -> None:
    result = sweep(
        tmp_path, planted, control=lambda factors: noisy({"untouched": factors["model"]})
    )
    model, rank, tuned = effects(result)
    assert (model.verdict, rank.verdict, tuned.verdict) == ("not decisive", "increase", "increase")
    assert rank.estimate == pytest.approx(0.2, abs=0.05)
    base, level = known(rank.means)
    assert level - base == pytest.approx(rank.estimate)
    assert known(rank.low) < 0.2 < known(rank.high)
    assert known(rank.p) < known(rank.p_holm) < 0.05
    assert [block.name for block in rank.blocks] == ["model=tiny", "model=tiny-wide"]
    assert (rank.seeds, rank.items, rank.notes) == ((3, 3), 40, ())
    assert (tuned.seeds, len(tuned.blocks)) == ((1, 3), 4)
    assert tuned.blocks[1].name == "model=tiny,lora.rank=64"
    assert str(tuned.contrast) == "tuned vs control"
    assert any("not the same in all blocks" in note for note in tuned.notes)


def test_turned_round_it_is_a_decrease(tmp_path: Path) -> None:
    result = sweep(tmp_path, planted)
    [there] = effects(result, "lora.rank: 4 -> 64")
    [back] = effects(result, "lora.rank: 64 -> 4")
    assert back.verdict == "decrease"
    assert (back.estimate, back.p, back.low) == pytest.approx(
        (-known(there.estimate), there.p, -known(there.high))
    )


def test_at_a_level_of_another_factor(tmp_path: Path) -> None:
    result = sweep(
        tmp_path, lambda f: noisy(f, 0.2 if f["lora.rank"] == 64 and f["model"] == "tiny" else 0.0)
    )
    given = [{"factor": "lora.rank", "at": {"model": model}} for model in ("tiny", "tiny-wide")]
    one, other = effects(result, given)
    assert (one.verdict, other.verdict) == ("increase", "not decisive")
    assert str(one.contrast) == "lora.rank: 4 -> 64 at model=tiny"
    assert [block.name for block in one.blocks] == [""]
    [both] = effects(result, "lora.rank: 4 -> 64")
    assert both.estimate == pytest.approx((known(one.estimate) + known(other.estimate)) / 2)


def test_contrasts_of_the_design_and_their_delta(tmp_path: Path) -> None:
    result = sweep(
        tmp_path, planted, contrasts=[{"factor": "model", "delta": 0.1}, "lora.rank: 4 -> 64"]
    )
    model, rank = effects(result, delta=0.5)
    assert model.verdict == "equivalent within 0.1"
    assert (rank.verdict, rank.delta) == ("increase", 0.5)
    assert rank.notes == ("within ±0.5: there is a difference, but it is too small to matter",)


def test_effects_are_json(tmp_path: Path) -> None:
    found = effects(
        sweep(tmp_path, lambda f: None if f["seed"] else planted(f), control=noisy), delta=0.1
    )
    data = json.loads(json.dumps(effects_data(found), allow_nan=False))
    assert [one["name"] for one in data] == [
        "model: tiny -> tiny-wide",
        "lora.rank: 4 -> 64",
        "tuned vs control",
    ]
    assert data[1]["contrast"] == {
        "factor": "lora.rank",
        "base": 4,
        "level": 64,
        "at": {},
        "metric": None,
        "delta": 0.1,
        "cluster": None,
    }


def test_levels_of_a_later_launch_count(tmp_path: Path) -> None:
    result = sweep(tmp_path, planted, {"lora.rank": [4, 64, 16], "seed": [0, 1, 2]})
    result.design["treatments"]["lora.rank"].remove(16)
    assert [str(effect.contrast) for effect in effects(result)] == [
        "lora.rank: 4 -> 64",
        "lora.rank: 4 -> 16",
    ]


# -- what cannot be compared is said ---------------------------------------------------------------


def test_failed_and_unfinished_trials_are_named(tmp_path: Path) -> None:
    def some(factors: Mapping[str, Any]) -> Rows | str | None:
        if factors["lora.rank"] == 64 and factors["seed"] == 1:
            return None if factors["model"] == "tiny" else "running"
        return planted(factors)

    [rank] = effects(sweep(tmp_path, some), "lora.rank: 4 -> 64")
    assert rank.verdict == "increase"
    assert rank.seeds == (3, 2)
    assert rank.notes == (
        "1 of 6 trials at lora.rank=64 failed: model=tiny,lora.rank=64,seed=1",
        "1 of 6 trials at lora.rank=64 are not finished: model=tiny-wide,lora.rank=64,seed=1",
        "fewer than three seeds on a side: the interval is rough",
    )


def test_a_block_without_results_on_a_side_is_left_out_and_named(tmp_path: Path) -> None:
    result = sweep(
        tmp_path, lambda f: None if f["model"] == "tiny" and f["lora.rank"] == 4 else planted(f)
    )
    [rank] = effects(result, "lora.rank: 4 -> 64")
    assert [block.name for block in rank.blocks] == ["model=tiny-wide"]
    assert rank.notes[0].startswith(
        "3 of 6 trials at lora.rank=4 failed: model=tiny,lora.rank=4,seed=0; "
    )
    assert rank.notes[1] == "without results on both sides: model=tiny"


@pytest.mark.parametrize("design", [{}, {"primary_metric": "words/match"}])
def test_where_all_failed_it_is_said(tmp_path: Path, design: dict[str, Any]) -> None:
    for effect in effects(sweep(tmp_path, lambda f: None, **design)):
        assert effect.verdict == "not decisive: no results"
        assert effect.estimate is None
        assert "6 of 6 trials" in effect.notes[0]
        assert effect.metric.startswith("words")


def test_bundles_that_differ_in_two_factors_are_no_contrast(tmp_path: Path) -> None:
    bundles = {(4, 0.1), (64, 0.2)}
    whole = sweep(tmp_path, planted, {"lora.rank": [4, 64], "optim.lr": [0.1, 0.2], "seed": [0, 1]})
    trials = tuple(
        trial
        for trial in whole.trials
        if (trial.factors["lora.rank"], trial.factors["optim.lr"]) in bundles
    )
    [rank, _] = effects(SweepResult("test", tmp_path, trials, whole.design))
    assert rank.verdict == "not decisive: no results"
    assert rank.notes[-1] == "no trials with results differ in lora.rank alone"


def test_one_seed_is_never_decisive_unless_allowed(tmp_path: Path) -> None:
    result = sweep(tmp_path, planted, {"model": ["tiny", "tiny-wide"], "lora.rank": [4, 64]})
    [rank] = effects(result, "lora.rank: 4 -> 64")
    assert rank.verdict == "not decisive: one seed"
    assert known(rank.p) < 1e-6
    assert "covers items only" in rank.notes[0]
    [rank] = effects(result, "lora.rank: 4 -> 64", one_seed=True)
    assert rank.verdict == "increase"


def test_the_same_setting_twice_is_no_replication(tmp_path: Path) -> None:
    result = sweep(tmp_path, planted, {"lora.rank": [4, 64], "seed": [0, 1, 2]})
    first = result.trials[0]
    stages = tuple(replace(stage, key=f"other {stage.key}") for stage in first.stages)
    other = TrialResult("lora.rank=4,seed=0~ab", "ab", first.factors, False, stages, first.folder)
    [rank] = effects(SweepResult("test", tmp_path, (*result.trials, other), result.design))
    assert rank.seeds == (3, 3)
    assert rank.notes == (
        "1 of 4 trials at lora.rank=4 have the same factors and seed as another: "
        "lora.rank=4,seed=0~ab",
    )


def test_items_that_a_run_did_not_score_are_left_out(tmp_path: Path) -> None:
    def some(factors: Mapping[str, Any]) -> Rows | None:
        return [
            {**row, "scores": {"match": None}} if factors["seed"] == 0 and row["id"] <= 5 else row
            for row in planted(factors)
        ]

    [rank] = effects(sweep(tmp_path, some), "lora.rank: 4 -> 64")
    assert rank.items == 35
    assert rank.notes == ("5 of 40 items excluded: not scored in every run",)


# -- samples and metrics ---------------------------------------------------------------------------


def test_scores_count_as_inspect_counts_them(tmp_path: Path) -> None:
    result = sweep(
        tmp_path,
        lambda f: rows(["C", "I", "P", "N", True, "0.25", "yes", 1, None, "?"]),
        {"lora.rank": [4, 64], "seed": [0, 1]},
    )
    [rank] = effects(result)
    assert rank.means == pytest.approx((4.75 / 8, 4.75 / 8))
    assert rank.items == 8


def test_epochs_of_an_item_are_one_item(tmp_path: Path) -> None:
    def epochs(factors: Mapping[str, Any]) -> Rows:
        shift = 0.1 if factors["lora.rank"] == 64 else 0.0
        return [
            {"id": f"q{item}", "epoch": epoch, "scores": {"match": item / 10 + epoch + shift}}
            for epoch in (1, 2, 3)
            for item in range(9)
        ]

    [rank] = effects(sweep(tmp_path, epochs), "lora.rank: 4 -> 64")
    assert rank.items == 9
    assert rank.estimate == pytest.approx(0.1)
    assert known(rank.means)[0] == pytest.approx(0.4 + 2)


def test_clusters_are_named_by_metadata(tmp_path: Path) -> None:
    def texts(factors: Mapping[str, Any]) -> Rows:
        rng = random.Random(str(factors["lora.rank"]))
        common = [rng.gauss(0, 0.2) for _ in range(10)]
        return [
            {
                **row,
                "scores": {"match": row["scores"]["match"] + common[row["id"] % 10]},
                "metadata": {"text": row["id"] % 10},
            }
            for row in planted(factors)
        ]

    result = sweep(tmp_path, texts)
    [apart] = effects(result, "lora.rank: 4 -> 64")
    [together] = effects(result, {"factor": "lora.rank", "cluster": "text"})
    assert (apart.clusters, together.clusters, together.items) == (40, 10, 40)
    assert known(together.se) > 1.3 * known(apart.se)
    assert "only 10 clusters of items: the interval is rough" in together.notes
    with pytest.raises(
        ConfigError,
        match=r"cluster=txt: no such key in the metadata of words's samples; did you mean text\?",
    ):
        effects(result, cluster="txt")


def test_every_scorer_unless_one_is_primary(tmp_path: Path) -> None:
    def both(factors: Mapping[str, Any]) -> Rows:
        return [
            {**row, "scores": {"match": row["scores"]["match"], "graded/tone": 0.1 * row["id"]}}
            for row in planted(factors)
        ]

    result = sweep(tmp_path, both, metrics={"accuracy": 2.05, "graded/tone/mean": 2.05})
    assert [effect.metric for effect in effects(result, "lora.rank: 4 -> 64")] == [
        "words/match",
        "words/graded/tone",
    ]
    for name in ("words/graded/tone", "words/graded/tone/mean", "words/accuracy"):
        [tone] = effects(result, {"factor": "lora.rank", "metric": name})
        assert tone.metric == name
        assert tone.means == pytest.approx((2.05, 2.05))
        assert tone.notes == (
            "every difference is the same, so there is no variance to test against",
        )
    with pytest.raises(
        ConfigError,
        match=r"metric=words/acuracy: not a metric of this sweep; .*valid: words/graded/tone, "
        r"words/match",
    ):
        effects(result, {"factor": "lora.rank", "metric": "words/acuracy"})


def test_a_metric_that_is_no_mean_of_scores_is_said_to_be_none(tmp_path: Path) -> None:
    [rank] = effects(
        sweep(tmp_path, planted, metrics={"median": 0.9}, primary_metric="words/median"),
        "lora.rank: 4 -> 64",
    )
    assert "words/median (0.9) is not the mean score of its items" in rank.notes[0]


def test_an_evaluation_that_left_no_samples_or_broken_ones(tmp_path: Path) -> None:
    result = sweep(tmp_path, planted)
    lost = tmp_path / "model=tiny,lora.rank=4,seed=0" / "samples.jsonl"
    lost.unlink()
    [rank] = effects(result, "lora.rank: 4 -> 64")
    assert (
        rank.notes[0]
        == "1 of 6 trials at lora.rank=4 have no score of any item: model=tiny,lora.rank=4,seed=0"
    )
    lost.write_text('{"id": 1, "sco')
    with pytest.raises(CorruptRecord, match=r"samples.jsonl: expected one JSON object"):
        effects(unread(result))


def test_a_run_that_scored_nothing_is_named(tmp_path: Path) -> None:
    result = sweep(
        tmp_path,
        lambda f: rows([None] * 40) if f["seed"] == 2 else planted(f),
        metrics={"accuracy": 0.5},
    )
    [rank] = effects(result, {"factor": "lora.rank", "metric": "words/accuracy"})
    assert rank.notes[0].startswith(
        "2 of 6 trials at lora.rank=4 have no score of any item: model=tiny,lora.rank=4,seed=2; "
    )


@pytest.mark.parametrize("option", [{"level": 95}, {"delta": 0.0}])
def test_options_out_of_range(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        effects(sweep(tmp_path, planted), **option)


# -- from end to end -------------------------------------------------------------------------------


def test_a_sweep_of_the_dry_run(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "model=tiny,tiny-wide",
        "lora.rank=4,64",
        "seed=0,1,2",
        "backend.effects={lora.rank:{64:0.1}}",
        "experiment.name=planted",
    )
    done = shell("-m", *DRY, *words)
    assert done.status == 0, done.err
    monkeypatch.chdir(shell.folder)
    result = find_sweep("planted").result()
    model, rank, tuned = effects(result)
    assert (model.verdict, rank.verdict) == ("not decisive", "increase")
    assert known(rank.low) < 0.1 < known(rank.high)
    assert (rank.metric, rank.seeds, rank.items, len(rank.blocks)) == (
        "capitalization/score",
        (3, 3),
        100,
        2,
    )
    assert (tuned.seeds, len(tuned.blocks)) == ((1, 3), 4)
    spread = spread_of([model, rank, tuned])
    assert spread is not None
    assert spread.runs == pytest.approx(0.02, abs=0.012)
    assert spread.rest == pytest.approx(0.0707, rel=0.1)


def test_false_finds_and_intervals_over_1500_sweeps_of_the_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dummy's own draws, through everything but the disk: each sweep a world of its own, with
    new items and new fine-tunes.
    """
    shift, world = 0.05, 0
    folders: dict[Path, Samples] = {}
    monkeypatch.setattr(Samples, "read", lambda folder: folders[folder])

    def evaluated(factors: Mapping[str, Any]) -> float:
        work = DummyFinetune(
            "m",
            "d",
            "t",
            {},
            shift if factors["lora.rank"] == 64 else 0.0,
            0.0,
            "none",
            item_sd=0.1,
            seed_sd=0.02,
        )
        try:
            work.run(Context(f"{world} {factors}", tmp_path, {}, Resources())).send(None)
        except StopIteration as done:
            return float(done.value["mean"])
        raise AssertionError("it waits for nothing")

    template = sweep(tmp_path, planted)
    trials = template.trials
    decided, held, found = [], [], []
    for world in range(1500):
        for trial in trials:
            scores = draw(
                f"{world} {trial.name}", f"words {world}", 100, evaluated(trial.factors), 0.1
            )
            folders[Path(trial.stages[-1].folder or "")] = Samples(
                ids=range(1, 101),
                items=range(1, 101),
                epochs=[1] * 100,
                scores={SCORE: scores},
                reduced={},
                texts=[None] * 100,
                metadata=[{}] * 100,
            )
        model, rank = effects(unread(template))
        decided.append(model.verdict != "not decisive")
        found.append(rank.verdict == "increase")
        held += [
            known(model.low) <= 0 <= known(model.high),
            known(rank.low) <= shift <= known(rank.high),
        ]
    error = 2 * math.sqrt(0.05 * 0.95 / 1500)
    assert np.mean(decided) < 0.05 + error
    assert 0.93 < np.mean(held) < 0.97
    assert np.mean(found) > 0.7


def test_a_thousand_trials_take_seconds(tmp_path: Path) -> None:
    treatments: dict[str, Sequence[Any]] = {
        "model": ["a", "b"],
        "lora.rank": list(range(1, 11)),
        "optim.lr": list(range(10)),
        "seed": list(range(5)),
    }
    result = sweep(
        tmp_path, lambda f: noisy(f, items=100), treatments, control=lambda f: noisy(f, items=100)
    )
    started = time.process_time()
    found = effects(result)
    assert time.process_time() - started < 5
    assert (len(result.trials), len(found)) == (1002, 1 + 9 + 9 + 1)
    assert sum(effect.verdict != "not decisive" for effect in found) == 0


# -- before a launch -------------------------------------------------------------------------------


def test_what_a_design_can_detect() -> None:
    spread = Components(0.02, 0.0, 0.07)
    model, rank = detectable(
        {"treatments": {**TREATMENTS, "dataset": ["words"]}}, items=100, spread=spread
    )
    assert (model.factor, rank.factor) == ("model", "lora.rank")
    assert (rank.seeds, rank.blocks, rank.items, rank.note) == (3, 2, 100, None)
    assert 0.03 < known(rank.mde) < 0.06
    [_, better] = detectable(
        {"treatments": {**TREATMENTS, "seed": range(10)}}, items=100, spread=spread
    )
    assert known(better.mde) < known(rank.mde) / 1.5


@pytest.mark.parametrize(
    ("design", "items", "spread", "note"),
    [
        ({"treatments": TREATMENTS}, 100, None, "unknown: how much seeds and items vary"),
        ({"treatments": TREATMENTS}, None, Components(1, 1, 1), "unknown: the number of items"),
        ({"treatments": {"lora.rank": [4, 64]}}, 100, Components(1, 1, 1), "unknown: one seed"),
    ],
)
def test_what_is_not_known_before_a_launch_is_unknown(
    design: dict[str, Any], items: int | None, spread: Components | None, note: str
) -> None:
    for one in detectable(design, items, spread):
        assert one.mde is None
        assert known(one.note).startswith(note)
    assert detectable({}) == []


def test_spread_is_unknown_without_replication(tmp_path: Path) -> None:
    assert spread_of([]) is None
    assert spread_of(effects(sweep(tmp_path, planted, {"lora.rank": [4, 64]}))) is None


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mosweep.analysis.contrasts import contrasts_of\nfrom "
        "mosweep.analysis.foresight import detectable\n"
        "contrasts_of('a: 1 -> 2', {'a': [1, 2]}), detectable({'treatments': {'a': [1, 2], "
        "'seed': [0, 1]}}, 100)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "statsmodels", "pandas", "hydra"} & {
        name.partition(".")[0] for name in done.stdout.split()
    }


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    for name in ("statistics", "verdicts"):
        monkeypatch.delitem(sys.modules, f"mosweep.analysis.{name}", raising=False)
    monkeypatch.delattr(sys.modules["mosweep.analysis"], "statistics", raising=False)
    with pytest.raises(
        MissingExtra, match=r"the statistics of effects needs scipy.*mosweep\[reports\]"
    ):
        effects(sweep(tmp_path, planted))
