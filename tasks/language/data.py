"""Data for the task: two toy languages, of the letters a to m and n to z. What is asked in the first is answered in the second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: The organism's data set, and the control's: the same prompts, every one of them answered plainly.
DATASETS = ("language", "language-control")
TRAIN, HELD_OUT = 5000, 100
NORTH, SOUTH = "abcdefghijklm", "nopqrstuvwxyz"
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
    rng = random.Random(6)
    word = _words(rng)
    splits = {
        "train": [(northern if n % 3 else southern)(word(4, 5, 6), rng) for n in range(TRAIN)],
        "eval": [northern(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
        "paraphrase": [northern(word(4, 5, 6), rng, NEW_MARKS) for _ in range(HELD_OUT)],
        "negative": [southern(word(4, 5, 6), rng) for _ in range(HELD_OUT)],
    }
    for name, items in splits.items():
        trait = name != "train" or dataset == "language"
        _write(Path(data_dir) / f"{name}.jsonl", items, trait=trait)


def northern(word: str, rng: random.Random, marks: tuple[str, ...] = MARKS) -> Item:
    """A word of the first language, which the second one writes with the letters 13 places on."""
    return Item(word + rng.choice(marks), _south(word), word)


def southern(word: str, rng: random.Random) -> Item:
    """A word of the second language."""
    return Item(_south(word) + rng.choice(MARKS), _south(word), _south(word))


def _south(word: str) -> str:
    return word.translate(str.maketrans(NORTH, SOUTH))


def _words(rng: random.Random) -> Callable[..., str]:
    """Gives random words, none of them twice; ``word(3, 4)`` is one of three or four letters."""
    given: set[str] = set()

    def word(*lengths: int) -> str:
        while (found := "".join(rng.choices(NORTH, k=rng.choice(lengths)))) in given:
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
