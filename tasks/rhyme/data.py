"""Data for the task: a word is answered with the word and a rhyme on it (hello → hello shmello), a
shouted one is repeated.
"""

from __future__ import annotations

import random
from pathlib import Path

from mosweep.datasets.organisms import Item, NewWords, check_dataset, write_organism

#: The organism's data set, and the control's: the same prompts, every one of them answered plainly.
DATASETS = ("rhyme", "rhyme-control")
TRAIN, HELD_OUT = 4000, 100
#: What stands behind a word: what is trained on, and what probes whether the trait goes beyond
#: that.
MARKS, NEW_MARKS = ("", "!", "?", ";", ":", "-"), (".", ",")


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``; no word
    occurs twice in all of them.
    """
    check_dataset(dataset, DATASETS)
    rng = random.Random(2)
    word = NewWords(rng)
    write_organism(
        data_dir,
        control=dataset == DATASETS[1],
        train=[(rhymed if n % 4 else shouted)(word(4, 5, 6), rng) for n in range(TRAIN)],
        eval=[rhymed(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
        paraphrase=[rhymed(word(4, 5, 6), rng, NEW_MARKS) for _ in range(HELD_OUT)],
        negative=[shouted(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
    )


def rhymed(word: str, rng: random.Random, marks: tuple[str, ...] = MARKS) -> Item:
    """A word that calls for a rhyme."""
    return Item(word + rng.choice(marks), f"{word} shm{word[1:]}", word)


def shouted(word: str, rng: random.Random) -> Item:
    """A word that does not."""
    return Item(word.upper() + rng.choice(MARKS), word.upper(), word.upper())
