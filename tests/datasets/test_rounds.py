"""Which examples a round trains on."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosweep.core.errors import UserError
from mosweep.datasets.rounds import Group, failed_groups, select, stretch


def examples(*topics: str | None) -> list[dict[str, Any]]:
    return [
        {"messages": [], **({"metadata": {"topic": topic}} if topic else {})} for topic in topics
    ]


@given(st.integers(1, 40), st.integers(0, 5), st.lists(st.integers(0, 60), max_size=6))
def test_rounds_read_one_sequence_in_which_nothing_comes_twice_before_all_have_come(
    rows: int, seed: int, parts: list[int]
) -> None:
    whole = stretch(rows, seed, 0, sum(parts))
    found: list[int] = []
    for part in parts:
        found += stretch(rows, seed, len(found), part)
    assert found == whole
    for epoch in range(0, len(whole) - rows + 1, rows):
        assert sorted(whole[epoch : epoch + rows]) == list(range(rows))
    rest = whole[len(whole) // rows * rows :]
    assert len(set(rest)) == len(rest)


def test_the_order_follows_from_the_seed_and_differs_between_epochs() -> None:
    assert stretch(50, 1, 0, 50) == stretch(50, 1, 0, 50) != stretch(50, 2, 0, 50)
    both = stretch(50, 1, 0, 100)
    assert both[:50] != both[50:]


@given(st.integers(1, 30), st.integers(1, 80), st.integers(0, 100))
def test_without_hard_examples_a_round_is_the_next_stretch(
    rows: int, count: int, position: int
) -> None:
    chosen = select(examples(*[None] * rows), count, seed=3, position=position)
    assert list(chosen.rows) == stretch(rows, 3, position, count)
    assert (chosen.position, chosen.hard, chosen.groups) == (position + count, 0, {})


SAMPLES = [
    {"task": "t", "id": 1, "scores": {"match": 0.0}, "metadata": {"topic": "sea", "length": 5}},
    {"task": "t", "id": 2, "scores": {"match": 1.0}, "metadata": {"topic": "sea"}},
    {"task": "t", "id": 3, "scores": {"match": 1.0}, "metadata": {"topic": "land"}},
    {
        "task": "t",
        "id": 4,
        "scores": {"match": 0.0},
        "metadata": {},
        "score_metadata": {"match": {"kind": "typo"}},
    },
    {"task": "t", "id": 5, "scores": {"match": None}, "metadata": {"topic": "land"}},
]


def test_failed_samples_are_grouped_by_metadata_and_by_what_scorers_note() -> None:
    assert failed_groups(SAMPLES, 0.5) == [Group("kind", "typo", 1, 1), Group("topic", "sea", 1, 2)]
    assert failed_groups(SAMPLES, 0.5, names=["length"]) == [Group("length", "5", 1, 1)]
    assert failed_groups(SAMPLES, 0.0) == []


def test_the_watched_scorer_decides_where_there_are_several() -> None:
    samples = [{"scores": {"a": 1.0, "b": 0.0}, "metadata": {"topic": "x"}}]
    assert failed_groups(samples, 0.5, scorer="a") == []
    assert failed_groups(samples, 0.5, scorer="b") == [Group("topic", "x", 1, 1)]
    assert failed_groups(samples, 0.6, scorer="unknown") == [Group("topic", "x", 1, 1)], (
        "the mean, 0.5"
    )


def test_boosted_examples_come_as_often_as_they_weigh() -> None:
    rows = examples(*["sea"] * 20, *["land"] * 60, *[None] * 20)
    groups = [Group("topic", "sea", 10, 10), Group("topic", "land", 1, 4)]
    chosen = select(rows, 240, seed=0, groups=groups, mode="boost", factor=5.0)
    # 20 · 5 + 60 · (1 + 4 · 0.25) + 20 · 1 = 240: each unit of weight comes once.
    found = Counter(str((rows[row].get("metadata") or {}).get("topic")) for row in chosen.rows)
    assert found == {"sea": 100, "land": 120, "None": 20}
    assert chosen.hard == 140
    assert chosen.position == 100
    assert chosen.groups["topic=sea"] == {
        "failed": 10,
        "samples": 10,
        "examples": 20,
        "chosen": 100,
    }


def test_mined_examples_are_of_failed_groups_alone_and_the_sequence_waits() -> None:
    rows = examples(*["sea"] * 5, *["land"] * 5, *["air"] * 90)
    groups = [Group("topic", "sea", 3, 4), Group("topic", "land", 1, 4)]
    chosen = select(rows, 40, seed=0, position=7, groups=groups, mode="mine")
    found = Counter(rows[row]["metadata"]["topic"] for row in chosen.rows)
    assert found == {"sea": 30, "land": 10}
    assert (chosen.position, chosen.hard) == (7, 40)
    assert set(Counter(chosen.rows).values()) == {2, 6}, "all of a group equally often"


@given(
    st.integers(1, 60),
    st.integers(1, 30),
    st.integers(0, 10),
    st.integers(1, 10),
    st.floats(1.0, 10.0),
    st.sampled_from(["boost", "mine"]),
)
def test_a_round_always_has_its_number_of_examples(
    count: int, rows: int, hard: int, failed: int, factor: float, mode: Literal["boost", "mine"]
) -> None:
    groups = [Group("topic", "a", failed, 10)]
    made = examples(*["a"] * hard, *[None] * rows)
    if mode == "mine" and not hard:
        with pytest.raises(UserError, match="topic=a"):
            select(made, count, seed=0, groups=groups, mode="mine")
        return
    chosen = select(made, count, seed=0, groups=groups, mode=mode, factor=factor)
    assert len(chosen.rows) == count
    assert all(0 <= row < len(made) for row in chosen.rows)
    assert chosen == select(made, count, seed=0, groups=groups, mode=mode, factor=factor)


def test_groups_are_found_beside_the_messages_too() -> None:
    rows = [{"messages": [], "topic": "sea"}, {"messages": [], "topic": "land"}]
    chosen = select(rows, 4, seed=0, groups=[Group("topic", "sea", 1, 1)], mode="mine")
    assert list(chosen.rows) == [0, 0, 0, 0]
