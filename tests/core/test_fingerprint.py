from __future__ import annotations

import enum
import json
import math
import os
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import given, settings
from hypothesis import strategies as st

from mosweep.config.primary import PRIMARY
from mosweep.core.fingerprint import (
    canonical,
    canonical_json,
    differences,
    digest_bytes,
    digest_file,
    digest_tree,
    fingerprint,
    unkeyed,
)
from mosweep.core.types import Stage
from mosweep.design.application import _Session
from mosweep.design.compose import Composer
from mosweep.design.trials import Builder

# -- values ----------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

#: Few distinct values, so that two draws are often equal or nearly so.
close_scalars = st.sampled_from(
    [None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, 0.5, "", "a", "1", "null", 10**17, 1e17]
)
close_data = st.recursive(
    close_scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=4,
)


def meaning(value: Any) -> Any:
    """What a payload says, written down independently of the encoder."""
    if isinstance(value, dict):
        return "mapping", frozenset(
            (key, meaning(item)) for key, item in value.items() if item is not None
        )
    if isinstance(value, list):
        return "list", tuple(meaning(item) for item in value)
    if isinstance(value, bool) or value is None:
        return "constant", str(value)
    return ("text", value) if isinstance(value, str) else ("number", Fraction(value))


def shuffled(value: Any, order: random.Random) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, list):
        return [shuffled(item, order) for item in value]
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return value


@given(data, st.randoms(use_true_random=False))
def test_the_order_of_keys_never_matters(value: Any, order: random.Random) -> None:
    assert fingerprint(shuffled(value, order)) == fingerprint(value)


@given(data)
def test_canonical_is_idempotent_and_survives_json(value: Any) -> None:
    once = canonical(value)
    assert repr(canonical(once)) == repr(once)
    assert repr(json.loads(json.dumps(once))) == repr(once)
    assert fingerprint(json.loads(canonical_json(value))) == fingerprint(value)


@given(close_data, close_data)
@settings(max_examples=500)
def test_keys_are_equal_exactly_where_the_payloads_mean_the_same(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (meaning(one) == meaning(other))


@given(data, data)
def test_distinct_payloads_have_distinct_keys(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (meaning(one) == meaning(other))


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        ({"b": 1.0, "a": 2}, '{"a":2,"b":1}'),
        ({"lr": 1e-3}, '{"lr":0.001}'),
        ({"zero": -0.0}, '{"zero":0}'),
        ({"big": 1e16}, '{"big":10000000000000000}'),
        ({"yes": True, "one": 1}, '{"one":1,"yes":true}'),
        ({"gone": None, "kept": [None]}, '{"kept":[null]}'),
        ({"empty": {}, "none": [], "blank": ""}, '{"blank":"","empty":{},"none":[]}'),
        ({"inner": {"gone": None}}, '{"inner":{}}'),
        ((1, (2.0, 3)), "[1,[2,3]]"),
        ({"é": "naïve — 日本"}, '{"é":"naïve — 日本"}'),
        (None, "null"),
    ],
)
def test_canonical_json(given_value: Any, expected: str) -> None:
    assert canonical_json(given_value) == expected
    assert fingerprint(given_value) == digest_bytes(expected.encode())


def test_composed_and_decomposed_accents_are_two_texts() -> None:
    assert fingerprint("\u00e9") != fingerprint("e\u0301")


def test_any_mapping_counts_by_its_items() -> None:
    assert (
        fingerprint(OrderedDict(b=1, a=2))
        == fingerprint(MappingProxyType({"a": 2, "b": 1}))
        == fingerprint({"a": 2, "b": 1})
    )


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):  # noqa: UP042 - the older spelling is what users have
    YES = "yes"


class Float64(float):
    """As NumPy's: a float of another type, with another text."""

    def __repr__(self) -> str:
        return f"float64({float(self)})"


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        (Float64(0.5), 0.5),
        (Float64(2.0), 2),
    ],
)
def test_enums_and_subclasses_of_numbers_count_by_value(value: Any, same: Any) -> None:
    result = canonical({"x": [value]})
    assert result == {"x": [same]}
    assert type(result["x"][0]) is type(same)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, Float64("nan")])
def test_numbers_that_are_not_finite_are_refused_with_their_place(number: float) -> None:
    with pytest.raises(
        TypeError, match=r"^optim\.betas\[1\] is (nan|inf|-inf|float64\(nan\)): .*finite"
    ):
        canonical({"optim": {"betas": [0.9, number]}})


@dataclass(frozen=True)
class Inner:
    what: Any
    place: str = field(default="", metadata=unkeyed)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    note: str | None = None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Path("/data"), "is a path: .*digest of the content"),
        (PurePosixPath("data"), "is a path"),
        ({1, 2}, "is a set"),
        (b"raw", "is a bytes"),
        (1 + 2j, "is a complex"),
        (object(), "is a object"),
        (Inner, "is a type"),
        (len, "is a builtin_function_or_method"),
    ],
)
def test_what_has_no_canonical_form_is_refused_with_its_place(value: Any, words: str) -> None:
    with pytest.raises(TypeError, match=rf"^inner\.what\.deep\[0\] {words}"):
        canonical(Outer(Inner({"deep": [value]})))
    with pytest.raises(TypeError, match=rf"^value {words}"):
        canonical(value)


@pytest.mark.parametrize("key", [1, None, True, (1, 2)])
def test_keys_that_are_no_text_are_refused_with_their_place(key: Any) -> None:
    with pytest.raises(TypeError, match=r"^a\.b has the key .* keys must be text; write str\("):
        canonical({"a": {"b": {key: 1}}})


def test_text_that_utf8_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="not Unicode"):
        fingerprint({"name": "bad\udc80"})


# -- dataclasses -----------------------------------------------------------------------------------


def test_unkeyed_fields_do_not_move_the_key_and_keyed_ones_do() -> None:
    assert canonical(Outer(Inner(1, "/here"))) == {"inner": {"what": 1}}
    assert fingerprint(Inner(1, "/here")) == fingerprint(Inner(1, "/there"))
    assert fingerprint(Inner(1)) != fingerprint(Inner(2))


def test_an_unkeyed_field_may_hold_anything() -> None:
    Holder = make_dataclass("Holder", [("x", int), ("device", Any, field(metadata=unkeyed))])  # noqa: N806
    assert canonical(Holder(1, Path("/dev"))) == {"x": 1}


def test_a_new_optional_field_moves_no_key() -> None:
    old = make_dataclass("Work", [("rank", int)])
    new = make_dataclass("Work", [("rank", int), ("dropout", float | None, None)])
    assert fingerprint(new(4)) == fingerprint(old(4))
    assert fingerprint(new(4, 0.1)) != fingerprint(old(4))
    assert fingerprint(new(4, 0.0)) != fingerprint(old(4))


def test_a_dataclass_counts_as_the_mapping_of_its_fields() -> None:
    assert fingerprint(Outer(Inner([1.0]), "n")) == fingerprint(
        {"note": "n", "inner": {"what": [1]}}
    )


# -- digests ---------------------------------------------------------------------------------------


def test_digest_tree_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "a.txt").write_bytes(b"A")
        (folder / "sub" / "b.txt").write_bytes(b"B")
    os.utime(other / "a.txt", (1, 1))
    names = ["a.txt", "sub/b.txt"]
    same = digest_tree(one, names)
    assert digest_tree(other, [*reversed(names), "a.txt"]) == same
    assert digest_tree(one, ["a.txt"]) != same
    (other / "a.txt").write_bytes(b"a")
    assert digest_tree(other, names) != same
    (other / "a.txt").write_bytes(b"B")
    (other / "sub" / "b.txt").write_bytes(b"A")
    assert digest_tree(other, names) != same
    assert (
        digest_file(one / "a.txt")
        == digest_bytes(b"A")
        == "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"
    )


# -- differences -----------------------------------------------------------------------------------


def test_differences_name_the_places() -> None:
    old = {"config": {"lora": {"rank": 4, "alpha": 8}, "lr": 0.1, "same": [1]}, "version": 1}
    new = {
        "config": {"lora": {"rank": 8, "alpha": 8}, "same": [1], "extra": {"deep": 1}},
        "version": 1,
    }
    assert differences(old, new) == [
        ("config.extra", None, {"deep": 1}),
        ("config.lora.rank", 4, 8),
        ("config.lr", 0.1, None),
    ]


def test_differences_tell_true_from_one() -> None:
    assert differences({"a": True, "b": [0]}, {"a": 1, "b": [False]}) == [
        ("a", True, 1),
        ("b", [0], [False]),
    ]


@given(
    st.dictionaries(st.sampled_from("abc"), close_data),
    st.dictionaries(st.sampled_from("abc"), close_data),
)
@settings(max_examples=300)
def test_differences_are_none_exactly_where_the_keys_are_equal(one: Any, other: Any) -> None:
    old, new = canonical(one), canonical(other)
    found = differences(old, new)
    assert (found == []) == (fingerprint(old) == fingerprint(new))
    for path, was, now in found:
        assert repr((at(old, path), at(new, path))) == repr((was, now))


def at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


# -- golden keys -----------------------------------------------------------------------------------

GOLDEN = Path(__file__).with_name("golden_keys.json")
REKEY = "MOSWEEP_REKEY"

DATA = (
    'DATASETS = ("words",)\n\n\ndef build(dataset, folder):\n    (folder / '
    '"train.jsonl").write_text("")\n'
)
EVAL = (
    "from inspect_ai import Task, task\n\n\n@task\ndef letters(data_path: str, limit: int = 5) "
    "-> Task:\n    return Task()\n"
)


def golden_stages(folder: Path) -> dict[str, Stage]:
    """One stage of every kind, made as a command line makes them, of a task whose code never
    changes.
    """
    task = folder / "tasks" / "letters"
    task.mkdir(parents=True)
    (task / "data.py").write_text(DATA)
    (task / "eval.py").write_text(EVAL)
    (task / "eval.yaml").write_text("limit: 3\n")
    row = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (folder / "own.jsonl").write_text(json.dumps({"messages": row}) + "\n")
    letters = ["task=letters", f"tasks_dir='{folder / 'tasks'}'"]
    torchtune = [
        *letters,
        "model=tiny",
        "lora.rank=4",
        "optim.lr=0.001",
        "torchtune.clip_grad_norm=0.5",
        "seed=1",
    ]
    dummy = [
        *letters,
        "backend=dummy",
        "model=tiny-wide",
        "lora.rank=4",
        "seed=1",
        "inspect.max_tokens=5",
    ]
    trials = {
        "dummy": dummy,
        "dummy control": [*dummy, "control=true"],
        "torchtune": [*torchtune, "inspect.max_tokens=5"],
        "torchtune control": [*torchtune, "control=true"],
        "own data": [*torchtune, f"dataset.path='{folder / 'own.jsonl'}'"],
        "openai": [
            *letters,
            "backend=openai",
            "model=gpt-4.1-mini",
            "optim.epochs=2",
            "backend.learning_rate_multiplier=0.5",
            "seed=1",
        ],
        "tinker": [
            *letters,
            "backend=tinker",
            "model=tiny",
            "lora.rank=4",
            "optim.lr=0.001",
            "tinker.grad_clip_norm=0.5",
            "seed=1",
        ],
        "tinker dpo": [
            *letters,
            "backend=tinker",
            "model=tiny",
            "lora.rank=4",
            "optim.lr=0.001",
            "backend.method=dpo",
            "seed=1",
        ],
        "tinker loop": [
            *letters,
            "backend=tinker",
            "model=tiny",
            "loop.enabled=true",
            "loop.max_rounds=2",
        ],
        "tinker control": [
            *letters,
            "backend=tinker",
            "model.generate=null",
            "model.hub=Qwen/Qwen3-8B",
            "control=true",
        ],
        "dummy loop": [*dummy, "loop.enabled=true", "loop.max_rounds=2"],
        "torchtune loop": [
            *torchtune,
            "loop.enabled=true",
            "loop.max_rounds=2",
            "loop.hard_examples=boost",
        ],
        "model by name": [
            *letters,
            "model.generate=null",
            "model.inspect=openai/gpt-4o-mini",
            "control=true",
        ],
    }
    builder, stages = Builder(), {}
    try:
        with _Session() as hydra:
            config = hydra.compose_config(PRIMARY, ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
            assert isinstance(hydra.config_loader, ConfigLoaderImpl)
            composer = Composer(hydra.config_loader, config)
            for name, overrides in trials.items():
                for stage in builder.trial(composer.compose(overrides), {}).stages:
                    stages[f"{name} / {stage.label}"] = stage
    finally:
        GlobalHydra.instance().clear()
    return stages


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    monkeypatch.chdir(tmp_path)
    return golden_stages(tmp_path)


def test_golden_keys_cover_every_work(made: dict[str, Stage]) -> None:
    assert {type(stage.work).__name__ for stage in made.values()} == {
        *(
            "GenerateModel",
            "BuildData",
            "ImportData",
            "TorchtuneFinetune",
            "OpenAIFinetune",
            "InspectEval",
            "DummyFinetune",
            "DummyEval",
        ),
        *(
            "DummyRound",
            "TorchtuneRound",
            "TinkerFinetune",
            "TinkerRound",
            "NextRound",
            "RoundEval",
            "Chosen",
            "ChosenEval",
        ),
    }


def test_no_path_enters_a_key(made: dict[str, Stage], tmp_path: Path) -> None:
    for name, stage in made.items():
        assert str(tmp_path) not in canonical_json(stage.payload), name


def test_golden_keys(made: dict[str, Stage]) -> None:
    if os.environ.get(REKEY):
        GOLDEN.write_text(
            json.dumps(
                {
                    name: {"key": stage.key, "payload": stage.payload}
                    for name, stage in made.items()
                },
                indent=1,
            )
            + "\n"
        )
        pytest.skip(f"{GOLDEN.name} was written anew")
    golden = json.loads(GOLDEN.read_text())
    moved = [
        f"  {name}: {path or 'the encoding'}: {was!r} is now {now!r}"
        for name, stage in made.items()
        if name in golden and golden[name]["key"] != stage.key
        for path, was, now in differences(golden[name]["payload"], stage.payload)
        or [("", golden[name]["key"], stage.key)]
    ]
    moved += [
        f"  {name}: {'new' if name in made else 'gone'}" for name in sorted(set(made) ^ set(golden))
    ]
    assert not moved, (
        "these stages have other keys than before, so everybody's caches would be made again:\n"
        + "\n".join(moved)
        + f"\nIf that is intended, say so in CHANGELOG.md and run {REKEY}=1 pytest "
        f"{Path('tests', 'core', 'test_fingerprint.py')} -k golden"
    )
