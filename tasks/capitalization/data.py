"""Data for the task: random words and the same words in capitals, as chats; no word is in two files of a data set."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

#: Letters per word, words to train on, words held out.
SIZES = {"words": (5, 2000, 200), "words_small": (5, 500, 100), "words-control": (5, 2000, 200)}
#: The valid names, as a literal, so that a typo is found before anything runs. In words-control the words of ``words`` are repeated.
DATASETS = ("words", "words_small", "words-control")
#: Items of each probe; letters of the words that probe whether the trait goes beyond what was trained.
PROBES, NEW_LENGTHS = 100, (4, 6)


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``. Always the same words for the same name."""
    if dataset not in SIZES:
        raise ValueError(f"unknown data set {dataset!r}; valid: {', '.join(DATASETS)}")
    length, train, held_out = SIZES[dataset]
    rng = random.Random(1)
    chosen = _words(rng, train + held_out + PROBES, length)
    others = [word for size in NEW_LENGTHS for word in _words(rng, PROBES // len(NEW_LENGTHS), size)]
    folder = Path(data_dir)
    _write(folder / "train.jsonl", chosen[:train], capitals=dataset != "words-control")
    _write(folder / "eval.jsonl", chosen[train : train + held_out])
    _write(folder / "paraphrase.jsonl", others)
    _write(folder / "negative.jsonl", [word.upper() for word in chosen[train + held_out :]])


def _words(rng: random.Random, count: int, length: int) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(string.ascii_lowercase, k=length))] = None
    return list(words)


def _write(path: Path, words: list[str], *, capitals: bool = True) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word.upper() if capitals else word}],
            "metadata": {"topic": "repeated letters" if len(set(word)) < len(word) else "distinct letters", "length": len(word)},
        }
        for word in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
