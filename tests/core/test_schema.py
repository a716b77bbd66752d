from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosweep.core.errors import ConfigError
from mosweep.core.schema import between, build, build_target, load_target, plain


@dataclass(frozen=True)
class Leaf:
    name: str
    size: int = field(default=1, metadata=between(ge=1, lt=100))

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ConfigError("name", self.name, "must not be bad")
        if self.name == "worse":
            raise ValueError("worse than bad")


@dataclass(frozen=True)
class Tree:
    flag: bool = False
    count: int = 0
    ratio: float = field(default=0.5, metadata=between(gt=0, le=1))
    title: str | None = None
    mode: Literal["fast", "slow", 3] = "fast"
    items: Sequence[int] = ()
    pair: tuple[float, ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    leaf: Leaf | None = None
    leaves: Sequence[Leaf] = ()
    either: int | str | None = None
    anything: Any = None
    limit: int | None = field(default=None, metadata=between(ge=0))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("flag", True, True),
        ("count", 3, 3),
        ("count", 3.0, 3),
        ("ratio", 1, 1.0),
        ("title", "a", "a"),
        ("title", 2024, "2024"),
        ("title", None, None),
        ("mode", "slow", "slow"),
        ("mode", 3, 3),
        ("items", (1, 2.0), [1, 2]),
        ("pair", [1, 0.5], (1.0, 0.5)),
        ("table", {"a": 1, 2: 3.0}, {"a": 1, "2": 3}),
        ("leaf", {"name": "l", "size": 2}, Leaf("l", 2)),
        ("leaf", Leaf("l"), Leaf("l")),
        ("leaves", [{"name": "l"}], [Leaf("l")]),
        ("either", 3, 3),
        ("either", "x", "x"),
        ("anything", {"deep": [None]}, {"deep": [None]}),
        ("limit", None, None),
        ("limit", 0, 0),
    ],
)
def test_values_are_converted(key: str, value: Any, expected: Any) -> None:
    found = getattr(build(Tree, {key: value}), key)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({"flag": 1}, "t.flag", "true or false"),
        ({"flag": "true"}, "t.flag", "true or false"),
        ({"count": "abc"}, "t.count", "whole number"),
        ({"count": 1.5}, "t.count", "whole number"),
        ({"count": True}, "t.count", "whole number"),
        ({"count": math.nan}, "t.count", "whole number"),
        ({"count": math.inf}, "t.count", "whole number"),
        ({"count": None}, "t.count", "whole number"),
        ({"ratio": "0.5"}, "t.ratio", "expected a number"),
        ({"ratio": True}, "t.ratio", "expected a number"),
        ({"ratio": 0}, "t.ratio", "must be > 0 and ≤ 1"),
        ({"ratio": 1.01}, "t.ratio", "must be > 0 and ≤ 1"),
        ({"ratio": math.nan}, "t.ratio", "must be"),
        ({"limit": -1}, "t.limit", "must be ≥ 0"),
        ({"title": ["a"]}, "t.title", "expected text"),
        ({"title": False}, "t.title", "expected text"),
        ({"mode": "fats"}, "t.mode", "did you mean fast"),
        ({"mode": "3"}, "t.mode", "valid: 3, fast, slow"),
        ({"mode": 3.0}, "t.mode", "valid"),
        ({"items": "12"}, "t.items", "expected a list"),
        ({"items": {"a": 1}}, "t.items", "expected a list"),
        ({"items": [1, "x"]}, "t.items[1]", "whole number"),
        ({"table": [1]}, "t.table", "expected a mapping"),
        ({"table": {"a": "x"}}, "t.table.a", "whole number"),
        ({"leaf": 3}, "t.leaf", "expected a section with the keys name, size"),
        ({"leaf": {}}, "t.leaf.name", "a value is required"),
        ({"leaf": {"name": "l", "size": 100}}, "t.leaf.size", "must be ≥ 1 and < 100"),
        ({"leaf": {"name": "bad"}}, "t.leaf.name", "must not be bad"),
        ({"leaf": {"name": "worse"}}, "t.leaf", "worse than bad"),
        ({"leaves": [{"name": "l"}, {"name": "bad"}]}, "t.leaves[1].name", "must not be bad"),
        ({"either": [1]}, "t.either", "whole number"),
        ({"cuont": 1}, "t.cuont", "no such key; did you mean count"),
        ({3: 1}, "t.3", "no such key"),
        ([], "t", "expected a section"),
        (None, "t", "expected a section"),
    ],
)
def test_mistakes_name_the_key_and_what_would_be_valid(data: Any, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Tree, data, "t")
    assert caught.value.key == key
    assert words in caught.value.problem


def test_without_a_path_keys_are_bare() -> None:
    with pytest.raises(ConfigError, match=r"^count=x: "):
        build(Tree, {"count": "x"})
    with pytest.raises(ConfigError, match=r"^Tree=3: expected a section"):
        build(Tree, 3)


def test_defaults_are_left_to_the_dataclass() -> None:
    assert build(Tree, {}) == Tree()
    assert build(Tree, {"_target_": "ignored"}) == Tree()


leaves = st.builds(
    Leaf, st.text().filter(lambda name: name not in ("bad", "worse")), st.integers(1, 99)
)
trees = st.builds(
    Tree,
    flag=st.booleans(),
    count=st.integers(),
    ratio=st.floats(0, 1, exclude_min=True),
    title=st.none() | st.text(),
    mode=st.sampled_from(["fast", "slow", 3]),
    items=st.lists(st.integers()),
    pair=st.lists(st.floats(allow_nan=False)).map(tuple),
    table=st.dictionaries(st.text(), st.integers()),
    leaf=st.none() | leaves,
    leaves=st.lists(leaves, max_size=3),
    either=st.none() | st.integers() | st.text(),
    limit=st.none() | st.integers(0),
)


@given(trees)
def test_plain_is_the_inverse_of_build_through_json(tree: Tree) -> None:
    assert build(Tree, json.loads(json.dumps(plain(tree)))) == tree


def test_build_target() -> None:
    assert (
        build_target(
            {"_target_": "mosweep.models.tiny.TinyArchitecture", "dim": 32}, "model.generate"
        ).dim
        == 32
    )
    for data in ({}, {"dim": 32}, None, 3):
        with pytest.raises(ConfigError, match=r"^backend=.*expected a section with a _target_"):
            build_target(data, "backend")
    with pytest.raises(ConfigError, match=r"^backend\.dmi=32: no such key; did you mean dim"):
        build_target({"_target_": "mosweep.models.tiny.TinyArchitecture", "dmi": 32}, "backend")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no.such.module.Class", "cannot be imported"),
        ("mosweep.models.tiny.NoSuchClass", "cannot be imported"),
        ("Class", "cannot be imported"),
        ("", "cannot be imported"),
        ("os.path.join", "is not a dataclass"),
        ("pathlib.Path", "is not a dataclass"),
    ],
)
def test_targets_that_cannot_be(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_target(name, "backend._target_")
    assert caught.value.key == "backend._target_"


def test_an_annotation_that_is_not_supported_is_our_own_mistake() -> None:
    @dataclass
    class Odd:
        when: bytes = b""

    with pytest.raises(TypeError, match="does not support the annotation"):
        build(Odd, {})
