from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from mosweep.core.errors import ConfigError
from mosweep.core.types import Trial
from mosweep.core.work import FINETUNE
from mosweep.design.application import planned
from mosweep.design.factors import design_overrides
from mosweep.design.trials import trial_name

# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factors", "name"),
    [
        ({}, "trial"),
        ({"model": "tiny", "lora.rank": 4}, "model=tiny,lora.rank=4"),
        ({"lora.rank": 4, "model": "tiny"}, "lora.rank=4,model=tiny"),
        ({"optim.lr": 1e-05, "x": 0.5}, "optim.lr=1e-05,x=0.5"),
        ({"control": True, "x": None}, "control=true,x=null"),
        ({"eval.tasks": ["a", "b"]}, "eval.tasks=[_a___b_]"),
        ({"dataset.path": "/data/my file.jsonl"}, "dataset.path=_data_my_file.jsonl"),
        ({"model": "../../etc"}, "model=.._.._etc"),
        ({"x": "naïve"}, "x=naïve"),
    ],
)
def test_trial_names(factors: dict[str, Any], name: str) -> None:
    assert trial_name(factors) == name


levels = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.text(), max_size=3)
)


@given(
    st.dictionaries(
        st.sampled_from(["model", "lora.rank", "torchtune.optimizer._component_", "seed"]), levels
    )
)
def test_a_trial_name_is_a_folder_name(factors: dict[str, Any]) -> None:
    name = trial_name(factors)
    assert 0 < len(name.encode()) <= 180
    assert not set("/\\\0\n\r\t *?\"'<>|$`;&!()") & set(name)
    assert name not in (".", "..")
    assert name == trial_name(factors)


def test_long_names_are_cut_and_kept_apart() -> None:
    one, other = ({"dataset.path": "x" * 300 + end} for end in "ab")
    assert len(trial_name(one).encode()) <= 180
    assert trial_name(one) != trial_name(other)
    assert trial_name(one).startswith("dataset.path=xxx")
    assert len(trial_name({"x": "é" * 200}).encode()) <= 180


# -- designs ---------------------------------------------------------------------------------------

CROSSED = (
    [
        ["task=letters", "model=a", "lora.rank=4"],
        ["task=letters", "model=a", "lora.rank=64"],
        ["task=letters", "model=b", "lora.rank=4"],
        ["task=letters", "model=b", "lora.rank=64"],
    ],
    ["model", "lora.rank"],
)


def test_no_design_is_one_trial() -> None:
    assert design_overrides(None, None, None) == ([[]], [])
    assert design_overrides({}, {}, None) == ([[]], [])


def test_treatments_are_crossed_and_controls_held() -> None:
    assert (
        design_overrides({"task": "letters"}, {"model": ["a", "b"], "lora.rank": [4, 64]}, None)
        == CROSSED
    )


@pytest.mark.parametrize(
    ("controls", "treatments"),
    [
        ({"task": "letters"}, {"model": ["a", "b"], "lora": {"rank": [4, 64]}}),
        ('{"task": "letters"}', '{"model": ["a", "b"], "lora.rank": [4, 64]}'),
        ("@controls.json", "@treatments.json"),
        ({"task": "letters"}, '{"model": ["a", "b"], "lora": {"rank": [4, 64]}}'),
    ],
    ids=["nested", "JSON", "files", "mixed"],
)
def test_one_design_in_other_forms(
    controls: Any, treatments: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("controls.json").write_text('{"task": "letters"}')
    Path("treatments.json").write_text(
        '{\n  "model": ["a", "b"],\n  "lora": {"rank": [4, 64]}\n}\n'
    )
    assert design_overrides(controls, treatments, None) == CROSSED


def test_bundles_are_taken_one_by_one() -> None:
    bundles = [{"model": "a", "lora": {"rank": 4}}, {"model": "b", "optim.lr": 0.1}, {}]
    expected = [
        ["seed=1", "model=a", "lora.rank=4"],
        ["seed=1", "model=b", "optim.lr=0.1"],
        ["seed=1"],
    ]
    assert design_overrides({"seed": 1}, bundles, None) == (
        expected,
        ["model", "lora.rank", "optim.lr"],
    )
    assert design_overrides({"seed": 1}, json.dumps(bundles), None) == (
        expected,
        ["model", "lora.rank", "optim.lr"],
    )


def test_a_single_level_needs_no_list() -> None:
    assert design_overrides(None, {"model": "a", "lora.rank": [4, 8]}, None)[0] == [
        ["model=a", "lora.rank=4"],
        ["model=a", "lora.rank=8"],
    ]


def test_levels_may_be_lists_and_mappings() -> None:
    overrides, factors = design_overrides(
        None,
        {"eval.tasks": [["a"], ["a", "b"]], "generate": [{"dim": 32, "deep": {"x": None}}]},
        None,
    )
    assert overrides == [
        ["eval.tasks=[a]", "generate={dim:32,deep:{x:null}}"],
        ["eval.tasks=[a,b]", "generate={dim:32,deep:{x:null}}"],
    ]
    assert factors == ["eval.tasks", "generate"]


@pytest.mark.parametrize("seeds", [[0, 1, 2], 3])
def test_seeds(seeds: Any) -> None:
    assert design_overrides(None, None, seeds) == ([["seed=0"], ["seed=1"], ["seed=2"]], ["seed"])
    crossed = [
        ["model=a", "seed=0"],
        ["model=a", "seed=1"],
        ["model=a", "seed=2"],
        ["model=b", "seed=0"],
        ["model=b", "seed=1"],
        ["model=b", "seed=2"],
    ]
    assert design_overrides(None, {"model": ["a", "b"]}, seeds) == (crossed, ["model", "seed"])
    assert design_overrides(None, [{"model": "a"}, {"model": "b"}], seeds) == (
        crossed,
        ["model", "seed"],
    )


@pytest.mark.parametrize(
    ("controls", "treatments", "seeds", "key", "words"),
    [
        ([1], None, None, "controls", "expected a mapping from factor to level"),
        (3, None, None, "controls", "expected a mapping"),
        ("{not json", None, None, "controls", "is not JSON: .* line 1, column 2"),
        ("[1]", None, None, "controls", "expected a mapping"),
        ("@nosuch.json", None, None, "controls", "cannot be read: No such file"),
        (None, "{}}", None, "treatments", "is not JSON"),
        (None, 3, None, "treatments", "expected a mapping"),
        (None, [], None, "treatments", "at least one bundle"),
        (None, [3], None, r"treatments\[0\]", "expected a mapping"),
        (None, [{}, "@nosuch.json"], None, r"treatments\[1\]", "cannot be read"),
        (None, {"model": []}, None, r"treatments\.model", "at least one level"),
        (None, {"lora": {"rank": []}}, None, r"treatments\.lora\.rank", "at least one level"),
        (None, None, 0, "seeds", "expected a list of whole numbers, or their count"),
        (None, None, -1, "seeds", "expected a list"),
        (None, None, [], "seeds", "expected a list"),
        (None, None, True, "seeds", "expected a list"),
        (None, None, "many", "seeds", "expected a list"),
        (None, None, {"a": 1}, "seeds", "expected a list"),
    ],
)
def test_designs_that_cannot_be(
    controls: Any,
    treatments: Any,
    seeds: Any,
    key: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^{key}=.*{words}"):
        design_overrides(controls, treatments, seeds)


def test_json_that_is_no_utf8_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "design.json").write_bytes(b"\xff\xfe{\0}\0")
    with pytest.raises(ConfigError, match=r"^controls=.*is not"):
        design_overrides(f"@{tmp_path / 'design.json'}", None, None)


names = st.text("abcXYZ_0123456789.-/:=, ()[]{}\\", min_size=1).filter(
    lambda name: name[0] in "abcXYZ"
)
plain_levels = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["true", "NaN", "null", "it's", "a\\", "a\\\n", "\\'", "${x}", "a b", "é"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@given(plain_levels)
def test_a_level_reaches_hydra_as_it_is(level: Any) -> None:
    overrides, _ = design_overrides(None, [{"key": [level]}], None)
    [[text]] = overrides
    parsed = OverridesParser.create().parse_override(text)
    assert parsed.key_or_group == "key"
    assert repr(parsed.value()) == repr([level])


@given(st.floats())
def test_numbers_keep_every_digit(number: float) -> None:
    [[text]] = design_overrides({"x": number}, None, None)[0]
    value = OverridesParser.create().parse_override(text).value()
    assert value == number or (math.isnan(number) and math.isnan(value))  # type: ignore[arg-type]


# -- trials ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(*overrides: str) -> list[Trial]:
    return planned(["backend=dummy", *overrides])[0]


def keys(trials: Sequence[Trial]) -> dict[str, list[str]]:
    return {trial.name: [stage.key for stage in trial.stages] for trial in trials}


def controls_of(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.control]


def test_one_design_written_in_any_way_has_the_same_keys(tmp_path: Path) -> None:
    by_hand = keys(plan("model=tiny,tiny-wide", "lora.rank=4,64", "lora.alpha=8", "seed=0,1"))
    assert len(by_hand) == 2 * 2 * 2 + 2
    assert "model=tiny,lora.rank=4,seed=0" in by_hand
    held, varied = (
        '{"lora.alpha": 8}',
        '{"model": ["tiny", "tiny-wide"], "lora": {"rank": [4, 64]}}',
    )
    (tmp_path / "treatments.json").write_text(varied)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ncontrols: {lora.alpha: 8.0}\ntreatments:\n  model: [tiny, "
        "tiny-wide]\n  lora.rank: [4, 64]\nseeds: [0, 1]\n"
    )
    bundles = [
        {"model": model, "lora.rank": rank} for model in ("tiny", "tiny-wide") for rank in (4, 64)
    ]
    for design in (
        [f"controls={held}", f"treatments={varied}", "seeds=[0,1]"],
        [
            "controls={lora.alpha:8.0}",
            "treatments={model:[tiny,tiny-wide],lora.rank:[4,64]}",
            "seeds=2",
        ],
        ["lora.alpha=8", "treatments=@treatments.json", "seed=0,1"],
        [f"controls={held}", f"treatments={json.dumps(bundles)}", "seeds=2"],
        ["experiment=mine"],
        ["experiment=mine", "seeds=null", "seed=0,1"],
    ):
        assert keys(plan(*design)) == by_hand, design


def test_an_integer_and_its_float_are_one_trial() -> None:
    assert keys(plan("seed=1", "lora.alpha=8")) == keys(plan("seed=1", "lora.alpha=8.0"))
    assert keys(plan("seed=1", "lora.alpha=8")) != keys(plan("seed=1", "lora.alpha=9"))


def test_alpha_follows_the_rank_unless_given() -> None:
    assert keys(plan("lora.rank=4")) == keys(plan("lora.rank=4", "lora.alpha=8"))
    assert keys(plan("lora.rank=4")) != keys(plan("lora.rank=4", "lora.alpha=16"))


def test_every_trial_has_its_factors_and_stages_in_order() -> None:
    trials = [trial for trial in plan("lora.rank=4,64", "eval.tasks=[a,b]") if not trial.control]
    assert [trial.factors for trial in trials] == [{"lora.rank": 4}, {"lora.rank": 64}]
    for trial in trials:
        assert [stage.label for stage in trial.stages] == ["finetune", "eval:a", "eval:b"]
        assert {need.key for stage in trial.stages[1:] for need in stage.needs.values()} == {
            trial.stages[0].key
        }
    assert not {key for trial in trials[:1] for key in keys([trial])[trial.name]} & set(
        keys(trials[1:])[trials[1].name]
    )


def test_there_is_one_control_trial_per_evaluation_of_a_base_model() -> None:
    trials = plan(
        "model=tiny,tiny-wide",
        "task=capitalization,copying",
        "inspect.max_tokens=5,6",
        "lora.rank=4,64",
        "optim.lr=0.1,0.2",
        "seed=0,1",
    )
    controls = controls_of(trials)
    assert len(trials) - len(controls) == 2**6
    assert len(controls) == 2**3
    assert len({trial.id for trial in controls}) == 2**3
    assert {tuple(trial.factors) for trial in controls} == {("model", "task", "inspect.max_tokens")}
    assert {trial.name for trial in controls} == {
        f"control=true,model={model},task={task},inspect.max_tokens={tokens}"
        for model in ("tiny", "tiny-wide")
        for task in ("capitalization", "copying")
        for tokens in (5, 6)
    }
    assert all(stage.kind != FINETUNE for trial in controls for stage in trial.stages)


def test_control_trials_are_per_data_set_and_task_where_the_evaluation_depends_on_them(
    tmp_path: Path,
) -> None:
    for task in ("one", "two"):
        folder = tmp_path / "tasks" / task
        folder.mkdir(parents=True)
        (folder / "eval.py").write_text(
            f"from inspect_ai import task\n\n\n@task\ndef {task}(data_path: str):\n    ...\n"
        )
    for name in ("a", "b"):
        row = [{"role": "user", "content": name}, {"role": "assistant", "content": name}]
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": row}) + "\n")
    trials = plan("eval=inspect", "task=one,two", "dataset.path=a.jsonl,b.jsonl", "lora.rank=1,2,3")
    controls = controls_of(trials)
    assert len(trials) == 2 * 2 * 3 + 4
    assert len({trial.id for trial in controls}) == len(controls) == 4


def test_control_trials_can_be_left_out() -> None:
    assert controls_of(plan("lora.rank=4,64", "run_control_trials=false")) == []
    assert len(controls_of(plan("lora.rank=4,64", "run_control_trials=true"))) == 1


def test_a_control_trial_asked_for_by_hand_is_not_made_again() -> None:
    trials = plan("control=true,false", "lora.rank=4")
    assert [trial.control for trial in trials] == [True, False]
    alone = plan("control=true")
    assert [trial.id for trial in alone] == [trials[0].id]
    assert [stage.label for stage in alone[0].stages] == ["eval:capitalization"]


def test_a_control_trial_is_the_same_whatever_was_swept() -> None:
    [one] = controls_of(plan("lora.rank=4,64"))
    [other] = controls_of(plan("optim.lr=0.1,0.2", "seed=0,1", "torchtune.batch_size=4"))
    assert one.id == other.id


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.rank=0", "lora.rank=0: must be ≥ 1"),
        ("lora.rank=abc", "lora.rank=abc: expected a whole number"),
        ("seed=-1", "seed=-1: must be ≥ 0"),
        ("treatments={lora.rank:[4,abc]}", "lora.rank=abc: expected a whole number"),
        ("treatments={lora.ranc:[4]}", "lora.ranc=4: no such key; did you mean lora.rank"),
        ("seeds=[0,x]", "seed=x: expected a whole number"),
        ("eval.tasks=[a,a]", "names a twice"),
        ("+resources.default.gpu=1", "resources.default.gpu=1: no such key; did you mean gpus"),
    ],
)
def test_mistakes_are_found_before_anything_starts(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(override)
    assert words in str(caught.value)


def test_what_is_written_on_the_command_line_wins_over_the_design() -> None:
    assert list(keys(plan("treatments={lora.rank:[4,64]}", "lora.rank=8")).values()) == list(
        keys(plan("lora.rank=8")).values()
    )


def test_resources_and_places_do_not_move_keys() -> None:
    same = list(keys(plan("lora.rank=4")).values())
    assert (
        list(
            keys(
                plan(
                    "lora.rank=4",
                    "+resources.default.gpus=2",
                    "experiment.name=x",
                    "store.dir=/y",
                    "tracking=none",
                )
            ).values()
        )
        == same
    )
