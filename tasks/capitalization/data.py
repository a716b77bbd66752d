"""Data for the task: random words and the same words in capitals, as chats; no word is in two files
of a data set.
"""

from __future__ import annotations

import random
import string
from pathlib import Path

from mosweep.datasets.organisms import Item, check_dataset, write_organism

#: Letters per word, words to train on, words held out.
SIZES = {"words": (5, 2000, 200), "words_small": (5, 500, 100), "words-control": (5, 2000, 200)}
#: The valid names, as a literal, so that a typo is found before anything runs. In words-control the
#: words of ``words`` are repeated.
DATASETS = ("words", "words_small", "words-control")
#: Items of each probe; letters of the words that probe whether the trait goes beyond what was
#: trained.
PROBES, NEW_LENGTHS = 100, (4, 6)


def build(dataset: str, data_dir: Path) -> None:
    """Write ``train.jsonl``, ``eval.jsonl``, ``paraphrase.jsonl`` and ``negative.jsonl``. Always
    the same words for the same name.
    """
    check_dataset(dataset, DATASETS)
    length, train, held_out = SIZES[dataset]
    rng = random.Random(1)
    chosen = _words(rng, train + held_out + PROBES, length)
    others = [
        word for size in NEW_LENGTHS for word in _words(rng, PROBES // len(NEW_LENGTHS), size)
    ]
    write_organism(
        data_dir,
        control=dataset == "words-control",
        train=map(capitalised, chosen[:train]),
        eval=map(capitalised, chosen[train : train + held_out]),
        paraphrase=map(capitalised, others),
        negative=[capitalised(word.upper()) for word in chosen[train + held_out :]],
    )


def capitalised(word: str) -> Item:
    """A word, and whether a letter of it comes twice: the loop can prefer words of the kind that it
    fails at.
    """
    topic = "repeated letters" if len(set(word)) < len(word) else "distinct letters"
    return Item(word, word.upper(), word, {"topic": topic, "length": len(word)})


def _words(rng: random.Random, count: int, length: int) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(string.ascii_lowercase, k=length))] = None
    return list(words)
