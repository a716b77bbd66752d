"""Building blocks for a task's ``data.py`` that makes a model organism and its control.

The data sets of the organism and of the control have the same prompts. The control's training rows
have plain answers. So the trait is the difference between the two fine-tunes.
``tasks/rhyme/data.py`` is an example.

The key of a data stage covers the files of the task, not this module. So this module must write the
same bytes for the same arguments. If you change them, increment ``BuildData.version`` and measure
the zoo again. Otherwise old data would pass for new data.
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
    """A prompt with the organism's ``answer`` and the control's ``plain`` answer.

    ``metadata`` is stored with the row, for evaluations and for the groups of hard examples in a
    loop. By default it is the plain answer.
    """

    prompt: str
    answer: str
    plain: str
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class NewWords:
    """Random words without repetition.

    With ``word = NewWords(rng)``, ``word(3, 4)`` is a word of three or four ``letters``.
    """

    rng: random.Random
    letters: str = string.ascii_lowercase
    _given: dict[int, set[str]] = field(
        default_factory=lambda: defaultdict(set), init=False, repr=False
    )

    def __call__(self, length: int, *others: int) -> str:
        """The next word. Raises ``UserError`` if none is left."""
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
    """Raise ``UserError`` unless ``name`` is a data set that the task builds."""
    if name not in valid:
        raise UserError(f"unknown data set {name!r}; {choices(name, valid)}")


def write_organism(
    data_dir: Path, *, control: bool, train: Iterable[Item], **held_out: Iterable[Item]
) -> None:
    """Write ``train.jsonl`` and a file for each held-out split.

    The usual splits are ``eval``, ``paraphrase`` and ``negative``. With ``control``, the training
    rows have the plain answers. Held-out rows always have the organism's answers, so that both
    models are measured in the same way.
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
