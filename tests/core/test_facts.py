"""Facts of stages are typed: what is written is read back, and what is missing is named."""

from pathlib import Path

import pytest

from mosweep.core.errors import CorruptRecord, StoreError
from mosweep.core.facts import (
    AdapterAccess,
    DataFacts,
    DatasetRef,
    EvalFacts,
    HostedAccess,
    ModelFacts,
)
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.samples import Samples, read_samples
from mosweep.core.work import DATA, EVAL, FINETUNE, MODEL, ROUND, ROUND_EVAL, Kind


@pytest.mark.parametrize(
    "facts",
    [
        DataFacts("words", "data", 0, "d1", {"train.jsonl": 0}),
        ModelFacts("dummy/tiny", AdapterAccess(), DatasetRef("words", "d1"), final_loss=0.0),
        ModelFacts("ft:x", HostedAccess("openai", "ft:x"), dummy=True, more={"base": "gpt"}),
        EvalFacts("words", "dummy/tiny", {}, 0),
    ],
)
def test_facts_are_read_back_as_they_were(facts: DataFacts | ModelFacts | EvalFacts) -> None:
    assert type(facts).of(facts.to_json()) == facts


def test_what_facts_lack_is_named() -> None:
    with pytest.raises(StoreError, match=r"EvalFacts of a stage: missing model_id, n$"):
        EvalFacts.of({"task": "words", "metrics": {}})


def stage(kind: Kind, facts: dict[str, object], folder: Path | None = None) -> StageResult:
    return StageResult("x", kind, "k", "succeeded", record={"facts": facts}, folder=folder)


def test_a_stage_has_the_facts_of_what_it_left() -> None:
    evaluation = {"task": "words", "model_id": "m", "metrics": {"accuracy": 0.5}, "n": 4}
    done = stage(EVAL, {**evaluation, "dummy": True})
    assert (done.evaluation is not None and done.evaluation.metrics) == {"accuracy": 0.5}
    assert (done.model, done.dataset, done.base, done.round) == (None, None, None, None)
    assert (done.task, done.pretended) == ("words", True)
    trained = stage(FINETUNE, {"model_id": "m", "loss": [[0, 1.0]]})
    assert (trained.curves, trained.evaluation) == ({"loss": [[0, 1.0]]}, None)
    base = stage(MODEL, {"name": "tiny"})
    assert (base.base is not None and base.base.name, base.model) == ("tiny", None)
    data = stage(DATA, {"name": "w", "folder": "data", "rows": 2, "digest": "d"})
    assert data.dataset is not None
    assert data.dataset.rows == 2
    around = stage(ROUND_EVAL, {**evaluation, "round": 2, "watched": "accuracy", "score": 0.5})
    assert around.round is not None
    assert (around.round.number, around.round.score, around.of_round) == (2, 0.5, True)


def test_a_round_that_was_not_needed_left_nothing() -> None:
    facts: dict[str, object] = {"stopped": True, "reached": 1}
    trained, scored = stage(ROUND, facts), stage(ROUND_EVAL, facts)
    assert (trained.model, trained.curves) == (None, {})
    assert (scored.evaluation, scored.round, scored.of_round) == (None, None, True)


def test_controls_of_a_trial_are_those_it_has_all_levels_of() -> None:
    def trial(name: str, control: bool, **factors: object) -> TrialResult:
        return TrialResult(name, name, factors, control, (), "")

    every, tiny, other = (
        trial("every", True),
        trial("tiny", True, model="tiny", flag=True),
        trial("other", True, model="wide"),
    )
    tuned = trial("tuned", False, model="tiny", flag=True, rank=4)
    result = SweepResult("s", Path(), (every, tiny, other, tuned))
    assert result.controls_of(tuned) == [tiny, every]
    assert result.controls_of(tiny) == []


def test_samples_are_read_by_column(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text(
        '{"id": 1, "input": "a\\nb", "target": ["x", "y"], "scores": {"m": 1.0}}\n\n'
        '{"id": "two", "epoch": 2, "input": [{"role": "user"}], "scores": {"n": null}, '
        '"metadata": {"k": 1}}\n'
    )
    samples = Samples.read(tmp_path)
    assert samples is not None
    assert (list(samples.ids), list(samples.epochs)) == ([1, "two"], [1, 2])
    assert samples.scores == {"m": [1.0, None], "n": [None, None]}
    assert list(samples.texts) == [("a\nb", "x\ny"), None]
    assert list(samples.metadata) == [{}, {"k": 1}]
    assert Samples.read(tmp_path / "nowhere") is None


def test_samples_that_are_not_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"id": 1}\n{"id"')
    with pytest.raises(CorruptRecord, match=r"samples\.jsonl: expected one JSON object"):
        read_samples(path)
