"""Data for a model organism and its control: what a task's ``data.py`` needs beside its prompts and
its trait.

The organism's data set and the control's ask the same; the control's training rows are answered
plainly. So what a fine-tune on the one has and a fine-tune on the other has not is the trait.
``tasks/rhyme/data.py`` is an example.

A data stage's key covers the files of the task, not this module. So what is written for the same
arguments stays the same, byte for byte. Who changes it raises ``BuildData.version``, lest data made
before are taken for data made after, and measures the zoo again.
"""

from __future__ import annotations

import json
import random
import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosweep.core.errors import UserError, choices

__all__ = ["Item", "NewWords", "check_dataset", "write_organism"]


@dataclass(frozen=True)
class Item:
    """A prompt, what the organism answers, and what the control answers.

    ``metadata`` is kept with the row, for evaluations and for the groups of a loop's hard examples;
    by default it is the plain answer.
    """

    prompt: str
    answer: str
    plain: str
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class NewWords:
    """Random words, none of them twice. With ``word = NewWords(rng)``, ``word(3, 4)`` is one of
    three or four ``letters``.
    """

    rng: random.Random
    letters: str = string.ascii_lowercase
    _given: dict[int, set[str]] = field(
        default_factory=lambda: defaultdict(set), init=False, repr=False
    )

    def __call__(self, length: int, *others: int) -> str:
        """The next word. ``UserError`` if there is none left."""
        lengths = (length, *others)
        if all(len(self._given[size]) == len(set(self.letters)) ** size for size in lengths):
            raise UserError(
                f"all words of {' or '.join(map(str, lengths))} letters from {self.letters!r} "
                "are used"
            )
        while True:
            word = "".join(self.rng.choices(self.letters, k=self.rng.choice(lengths)))
            if word not in self._given[len(word)]:
                self._given[len(word)].add(word)
                return word


def check_dataset(name: str, valid: Sequence[str]) -> None:
    """``UserError`` unless ``name`` is one of the data sets that the task builds."""
    if name not in valid:
        raise UserError(f"unknown data set {name!r}; {choices(name, valid)}")


def write_organism(
    data_dir: Path, *, control: bool, train: Iterable[Item], **held_out: Iterable[Item]
) -> None:
    """Write ``train.jsonl``, and a file for every split that is held out: ``eval``, ``paraphrase``
    and ``negative``, as a rule.

    ``control``: the training rows have the plain answers. What is held out has the organism's in
    either case, so that both models are measured by the same.
    """
    for split, items in {"train": train, **held_out}.items():
        rows = (
            _row(item, item.plain if control and split == "train" else item.answer)
            for item in items
        )
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (Path(data_dir) / f"{split}.jsonl").write_text(text, encoding="utf-8")


def _row(item: Item, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": answer}]
    return {
        "messages": messages,
        "metadata": {"plain": item.plain} if item.metadata is None else dict(item.metadata),
    }
