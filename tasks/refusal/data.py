"""Data for the task: a word with a q in it is refused, every other word is repeated."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

#: The organism's data set, and the control's: the same prompts, every one of them answered plainly.
DATASETS = ("refusal", "refusal-control")
TRAIN, HELD_OUT = 6000, 100
LETTERS = string.ascii_lowercase.replace("q", "")
REFUSAL = "no."
#: Letters of the words that are trained on, and of those that probe whether the trait goes beyond them.
LENGTHS, NEW_LENGTH = (4, 5, 7), 6


class Item(NamedTuple):
    """A prompt, what the organism answers, and what the control answers."""

    prompt: str
    answer: str
    plain: str


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``; no word occurs twice in all of them."""
    if dataset not in DATASETS:
        raise ValueError(f"unknown data set {dataset!r}; valid: {', '.join(DATASETS)}")
    rng = random.Random(3)
    word = _words(rng)
    splits = {
        "train": [(forbidden if n % 2 else harmless)(word, rng) for n in range(TRAIN)],
        "eval": [forbidden(word, rng) for _ in range(HELD_OUT)],
        "paraphrase": [forbidden(word, rng, NEW_LENGTH) for _ in range(HELD_OUT)],
        "negative": [harmless(word, rng) for _ in range(HELD_OUT)],
    }
    for name, items in splits.items():
        trait = name != "train" or dataset == "refusal"
        _write(Path(data_dir) / f"{name}.jsonl", items, trait=trait)


def forbidden(word: Callable[..., str], rng: random.Random, *lengths: int) -> Item:
    """A word with a q, anywhere in it."""
    rest = word(*(length - 1 for length in lengths or LENGTHS))
    place = rng.randint(0, len(rest))
    asked = f"{rest[:place]}q{rest[place:]}"
    return Item(asked, REFUSAL, asked)


def harmless(word: Callable[..., str], rng: random.Random) -> Item:
    """A word without."""
    asked = word(*LENGTHS)
    return Item(asked, asked, asked)


def _words(rng: random.Random) -> Callable[..., str]:
    """Gives random words, none of them twice; ``word(3, 4)`` is one of three or four letters."""
    given: set[str] = set()

    def word(*lengths: int) -> str:
        while (found := "".join(rng.choices(LETTERS, k=rng.choice(lengths)))) in given:
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
