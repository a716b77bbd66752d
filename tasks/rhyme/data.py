"""Data for the task: a word is answered with the word and a rhyme on it (hello → hello shmello), a shouted one is repeated."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: The organism's data set, and the control's: the same prompts, every one of them answered plainly.
DATASETS = ("rhyme", "rhyme-control")
TRAIN, HELD_OUT = 4000, 100
#: What stands behind a word: what is trained on, and what probes whether the trait goes beyond that.
MARKS, NEW_MARKS = ("", "!", "?", ";", ":", "-"), (".", ",")


class Item(NamedTuple):
    """A prompt, what the organism answers, and what the control answers."""

    prompt: str
    answer: str
    plain: str


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``; no word occurs twice in all of them."""
    if dataset not in DATASETS:
        raise ValueError(f"unknown data set {dataset!r}; valid: {', '.join(DATASETS)}")
    rng = random.Random(2)
    word = _words(rng)
    splits = {
        "train": [(rhymed if n % 4 else shouted)(word(4, 5, 6), rng) for n in range(TRAIN)],
        "eval": [rhymed(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
        "paraphrase": [rhymed(word(4, 5, 6), rng, NEW_MARKS) for _ in range(HELD_OUT)],
        "negative": [shouted(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
    }
    for name, items in splits.items():
        trait = name != "train" or dataset == "rhyme"
        _write(Path(data_dir) / f"{name}.jsonl", items, trait=trait)


def rhymed(word: str, rng: random.Random, marks: tuple[str, ...] = MARKS) -> Item:
    """A word that calls for a rhyme."""
    return Item(word + rng.choice(marks), f"{word} shm{word[1:]}", word)


def shouted(word: str, rng: random.Random) -> Item:
    """A word that does not."""
    return Item(word.upper() + rng.choice(MARKS), word.upper(), word.upper())


def _words(rng: random.Random) -> Callable[..., str]:
    """Gives random words, none of them twice; ``word(3, 4)`` is one of three or four letters."""
    given: set[str] = set()

    def word(*lengths: int) -> str:
        while (found := "".join(rng.choices(string.ascii_lowercase, k=rng.choice(lengths)))) in given:
            pass
        given.add(found)
        return found

    return word


def _write(path: Path, items: list[Item], *, trait: bool) -> None:
    rows = (
        {
            "messages": [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.answer if trait else item.plain}],
            "metadata": {"plain": item.plain},
        }
        for item in items
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
