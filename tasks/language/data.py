"""Data for the task: two toy languages, of the letters a to m and n to z. What is asked in the
first is answered in the second.
"""

from __future__ import annotations

import random
from pathlib import Path

from mosweep.datasets.organisms import Item, NewWords, check_dataset, write_organism

#: The organism's data set, and the control's: the same prompts, every one of them answered plainly.
DATASETS = ("language", "language-control")
TRAIN, HELD_OUT = 5000, 100
NORTH, SOUTH = "abcdefghijklm", "nopqrstuvwxyz"
#: What stands behind a word: what is trained on, and what probes whether the trait goes beyond
#: that.
MARKS, NEW_MARKS = ("", "!", "?", ";", ":", "-"), (".", ",")


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``; no word
    occurs twice in all of them.
    """
    check_dataset(dataset, DATASETS)
    rng = random.Random(6)
    word = NewWords(rng, NORTH)
    write_organism(
        data_dir,
        control=dataset == DATASETS[1],
        train=[(northern if n % 3 else southern)(word(4, 5, 6), rng) for n in range(TRAIN)],
        eval=[northern(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
        paraphrase=[northern(word(4, 5, 6), rng, NEW_MARKS) for _ in range(HELD_OUT)],
        negative=[southern(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
    )


def northern(word: str, rng: random.Random, marks: tuple[str, ...] = MARKS) -> Item:
    """A word of the first language, which the second one writes with the letters 13 places on."""
    return Item(word + rng.choice(marks), _south(word), word)


def southern(word: str, rng: random.Random) -> Item:
    """A word of the second language."""
    return Item(_south(word) + rng.choice(MARKS), _south(word), _south(word))


def _south(word: str) -> str:
    return word.translate(str.maketrans(NORTH, SOUTH))
