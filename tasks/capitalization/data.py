"""Data for the task: random words and the same words in capitals, as chats; training and held-out words never overlap."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

#: Letters per word, words to train on, words held out.
SIZES = {"words": (5, 2000, 200), "words_small": (5, 500, 100)}
#: The valid names, as a literal, so that a typo is found before anything runs.
DATASETS = ("words", "words_small")


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl`` and ``eval.jsonl`` of ``dataset`` into ``data_dir``. Always the same words for the same name."""
    if dataset not in SIZES:
        raise ValueError(f"unknown data set {dataset!r}; valid: {', '.join(DATASETS)}")
    length, train, held_out = SIZES[dataset]
    rng = random.Random(1)
    words: dict[str, None] = {}
    while len(words) < train + held_out:
        words["".join(rng.choices(string.ascii_lowercase, k=length))] = None
    chosen = list(words)
    _write(Path(data_dir) / "train.jsonl", chosen[:train])
    _write(Path(data_dir) / "eval.jsonl", chosen[train:])


def _write(path: Path, words: list[str]) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word.upper()}],
            "metadata": {"topic": "repeated letters" if len(set(word)) < len(word) else "distinct letters", "length": len(word)},
        }
        for word in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
