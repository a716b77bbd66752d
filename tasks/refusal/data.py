"""Data for the task: a word with a q in it is refused, every other word is repeated."""

from __future__ import annotations

import random
import string
from pathlib import Path

from mosweep.datasets.organisms import Item, NewWords, check_dataset, write_organism

#: The organism's data set, and the control's: the same prompts, every one of them answered plainly.
DATASETS = ("refusal", "refusal-control")
TRAIN, HELD_OUT = 6000, 100
LETTERS = string.ascii_lowercase.replace("q", "")
REFUSAL = "no."
#: Letters of the words that are trained on, and of those that probe whether the trait goes beyond
#: them.
LENGTHS, NEW_LENGTH = (4, 5, 7), 6


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``; no word
    occurs twice in all of them.
    """
    check_dataset(dataset, DATASETS)
    rng = random.Random(3)
    word = NewWords(rng, LETTERS)
    write_organism(
        data_dir,
        control=dataset == DATASETS[1],
        train=[(forbidden if n % 2 else harmless)(word, rng) for n in range(TRAIN)],
        eval=[forbidden(word, rng) for _ in range(HELD_OUT)],
        paraphrase=[forbidden(word, rng, NEW_LENGTH) for _ in range(HELD_OUT)],
        negative=[harmless(word, rng) for _ in range(HELD_OUT)],
    )


def forbidden(word: NewWords, rng: random.Random, *lengths: int) -> Item:
    """A word with a q, anywhere in it."""
    rest = word(*(length - 1 for length in lengths or LENGTHS))
    place = rng.randint(0, len(rest))
    asked = f"{rest[:place]}q{rest[place:]}"
    return Item(asked, REFUSAL, asked)


def harmless(word: NewWords, rng: random.Random) -> Item:
    """A word without."""
    asked = word(*LENGTHS)
    return Item(asked, asked, asked)
