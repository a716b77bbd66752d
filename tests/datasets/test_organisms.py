"""What a task's ``data.py`` is made of. The zoo's own data are in ``tests/zoo``."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from mosweep.core.errors import UserError
from mosweep.datasets.organisms import Item, NewWords, check_dataset, write_organism

TRAIN = [Item("hi", "hi shmi", "hi"), Item("ü", "Ü", "ü", {"topic": "vowels"})]
HELD_OUT = [Item("ho", "ho shmo", "ho")]
ORGANISM = """\
{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi shmi"}], \
"metadata": {"plain": "hi"}}
{"messages": [{"role": "user", "content": "ü"}, {"role": "assistant", "content": "Ü"}], \
"metadata": {"topic": "vowels"}}
"""
CONTROL = """\
{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}], \
"metadata": {"plain": "hi"}}
{"messages": [{"role": "user", "content": "ü"}, {"role": "assistant", "content": "ü"}], \
"metadata": {"topic": "vowels"}}
"""
PROBE = """\
{"messages": [{"role": "user", "content": "ho"}, {"role": "assistant", "content": "ho shmo"}], \
"metadata": {"plain": "ho"}}
"""
VERSION = "a data stage's key does not cover this: raise BuildData.version"


@pytest.mark.parametrize(("control", "training"), [(False, ORGANISM), (True, CONTROL)])
def test_the_trait_is_missing_from_the_controls_training_rows_alone(
    tmp_path: Path, control: bool, training: str
) -> None:
    write_organism(tmp_path, control=control, train=iter(TRAIN), eval=HELD_OUT, negative=[])
    files = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert files == {"train.jsonl": training, "eval.jsonl": PROBE, "negative.jsonl": ""}, VERSION


def test_words_are_the_same_for_the_same_seed() -> None:
    word = NewWords(random.Random(1))
    assert [word(3, 5) for _ in range(4)] == ["oub", "mlq", "cav", "ptsgu"], VERSION


def test_no_word_comes_twice_and_the_last_one_is_found() -> None:
    word = NewWords(random.Random(0), "ab")
    assert {word(2) for _ in range(3)} | {word(2, 1) for _ in range(3)} == {
        "a",
        "b",
        "aa",
        "ab",
        "ba",
        "bb",
    }
    with pytest.raises(UserError, match="all words of 2 or 1 letters from 'ab' are used"):
        word(2, 1)
    assert len(word(3)) == 3


def test_words_are_of_the_letters_that_are_given() -> None:
    letters = string.ascii_lowercase.replace("q", "")
    word = NewWords(random.Random(0), letters)
    assert set("".join(word(4) for _ in range(200))) == set(letters)


def test_a_letter_that_is_given_twice_makes_no_more_words() -> None:
    word = NewWords(random.Random(0), "aab")
    assert {word(1), word(1)} == {"a", "b"}
    with pytest.raises(UserError, match="all words of 1 letters"):
        word(1)


def test_an_unknown_data_set_is_refused_with_the_valid_ones() -> None:
    check_dataset("rhyme", ("rhyme", "rhyme-control"))
    with pytest.raises(
        UserError,
        match=r"unknown data set 'rime'; did you mean rhyme\? valid: rhyme, rhyme-control",
    ):
        check_dataset("rime", ("rhyme", "rhyme-control"))
