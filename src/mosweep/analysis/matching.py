"""Text that evaluation items share with training data.

Text is compared without regard to case, form of Unicode, invisible characters and white space
(``normalised``). An item matches if

- its prompt, as a whole, is one of a training row's messages to the model, or all of them before
  the first answer (``exact``); or
- its prompt or target shares a run of 13 words, ignoring punctuation, with any message (``ngram``;
  Brown et al. 2020, arXiv:2005.14165). A text of 8 to 12 words must match completely. A text of
  fewer words but at least 50 characters (a script without spaces, a string of bytes) is compared by
  runs of 50 characters. A shorter text is compared only as a whole.

A run that more than ten different items share is part of a template and does not count. A short
target alone is not a match: many items have the answer "A". Paraphrases are not detected.

The items' runs are indexed, and the training rows are streamed. So memory depends on the size of
the evaluation, not of the training data.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

__all__ = ["CHARACTERS", "WORDS", "Hit", "matches", "normalised"]

#: Length of the runs of words that two texts must share.
WORDS = 13
#: Length of the runs of characters, for texts of few words.
CHARACTERS = 50
#: Minimum length in words of a text that is compared by words.
FEWEST_WORDS = 8
#: Maximum number of items that share a run before it counts as a template.
TEMPLATE = 10

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]"
)
_WORD = re.compile(r"\w+")
_SNIPPET = 160

Where = Literal["prompt", "target"]
_WHERE: tuple[Where, Where] = ("prompt", "target")
#: An item by its number, and which of its texts.
_Place = tuple[int, Where]


@dataclass(frozen=True)
class Hit:
    """An evaluation item whose text is in the training data.

    ``row`` is the number of the first such training row. ``share`` is the share of the text's runs
    that are in the training data.
    """

    id: Any
    kind: Literal["exact", "ngram"]
    where: Where
    row: int
    share: float
    snippet: str


def normalised(text: str) -> str:
    """``text`` in the form that is compared.

    Characters are in one Unicode form and in lower case, without invisible ones. Spaces are single.
    """
    if not text.isascii():
        text = unicodedata.normalize(
            "NFKC", unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
        )
    return " ".join(text.lower().split())


def matches(
    texts: Sequence[tuple[str, str]], train: Path, words: int = WORDS, characters: int = CHARACTERS
) -> tuple[int, dict[int, Hit]]:
    """The number of training rows, and the hits by the place of their item in ``texts``.

    ``texts`` are prompt and target of each item, normalised. The hits have no id yet.
    """
    prompts: dict[str, list[int]] = defaultdict(list)
    index = _Index(words, characters)
    for number, text in enumerate(texts):
        prompts[_bare(text[0])].append(number)
        for where, part in zip(_WHERE, text, strict=True):
            index.add(part, (number, where))
    prompts.pop("", None)
    lengths = index.without_templates()
    exact: dict[int, int] = {}
    shared: dict[_Place, dict[str, int]] = defaultdict(dict)
    row = 0
    for row, messages in enumerate(_rows(train), 1):
        contents = [normalised(content) for _, content in messages]
        for prompt in _prompts([role for role, _ in messages], contents):
            for number in prompts.get(prompt, ()):
                exact.setdefault(number, row)
        for run, place in (shares for content in contents for shares in index.shared_with(content)):
            shared[place].setdefault(run, row)
    hits: dict[int, Hit] = {}
    for (number, where), runs in shared.items():
        (run, first), share = next(iter(runs.items())), len(runs) / lengths[number, where]
        if number not in hits or share > hits[number].share:
            hits[number] = Hit(None, "ngram", where, first, share, _cut(run.strip()))
    return row, hits | {
        number: Hit(None, "exact", "prompt", first, 1.0, _cut(texts[number][0]))
        for number, first in exact.items()
    }


class _Index:
    """The items' runs of words and of characters.

    Each is indexed by its first words, so that one pass over a text finds runs of any length.
    """

    def __init__(self, words: int, characters: int) -> None:
        self.words = words
        self.characters = characters
        self.fewest = min(FEWEST_WORDS, words)
        self.by_words: dict[str, dict[str, set[_Place]]] = defaultdict(dict)
        self.by_characters: dict[str, dict[str, set[_Place]]] = defaultdict(dict)

    def add(self, text: str, place: _Place) -> None:
        """Add the runs of an item's text, if it is long enough to have any."""
        joined, starts = _joined(text)
        length = min(self.words, len(starts) - 1)
        if length >= self.fewest:
            for first, head, end in zip(
                starts, starts[self.fewest :], starts[length:], strict=False
            ):
                self.by_words[joined[first:head]].setdefault(joined[first:end], set()).add(place)
        else:
            for run in (
                text[n : n + self.characters] for n in range(len(text) - self.characters + 1)
            ):
                self.by_characters[run].setdefault(run, set()).add(place)

    def without_templates(self) -> Counter[_Place]:
        """Drop the runs that too many items share. Returns the number of runs left in each text."""
        left: Counter[_Place] = Counter()
        for runs in (*self.by_words.values(), *self.by_characters.values()):
            for run, places in list(runs.items()):
                if len({number for number, _ in places}) > TEMPLATE:
                    del runs[run]
                else:
                    left.update(places)
        return left

    def shared_with(self, text: str) -> Iterator[tuple[str, _Place]]:
        """The runs that ``text`` shares with items, and the items' texts that have them."""
        if self.by_words:
            joined, starts = _joined(text)
            for first, head in zip(starts, starts[self.fewest :], strict=False):
                if (begin := joined[first:head]) in self.by_words:
                    for run, places in self.by_words[begin].items():
                        if joined.startswith(run, first):
                            yield from ((run, place) for place in places)
        if self.by_characters:
            for n in range(len(text) - self.characters + 1):
                if (run := text[n : n + self.characters]) in self.by_characters:
                    yield from (
                        (run, place)
                        for places in self.by_characters[run].values()
                        for place in places
                    )


def _joined(text: str) -> tuple[str, list[int]]:
    """The words of ``text``, each followed by a space; where each begins, and the last one ends."""
    words = [f"{word} " for word in _WORD.findall(text)]
    return "".join(words), [0, *accumulate(map(len, words))]


def _prompts(roles: Sequence[str], contents: Sequence[str]) -> Iterator[str]:
    """The prompts in a training row.

    These are every message to the model, and all messages before its first answer, with and without
    the instructions.
    """
    to_model = [n for n, role in enumerate(roles) if role != "assistant"]
    yield from (_bare(contents[n]) for n in to_model)
    first = next((n for n, role in enumerate(roles) if role == "assistant"), len(roles))
    if first > 1:
        yield _bare(" ".join(contents[:first]))
        yield _bare(
            " ".join(contents[n] for n in range(first) if roles[n] not in ("system", "developer"))
        )


def _bare(text: str) -> str:
    """The text without punctuation around it. Within a text it may matter: 1 + 1, 1 - 1."""
    return text.strip(" .,;:!?\"'…。？！、")


def _cut(text: str) -> str:
    return text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"


def _rows(train: Path) -> Iterator[list[tuple[str, str]]]:
    """Role and content of every message of every training row."""
    from mosweep.datasets.forms import as_chat

    with open(train, encoding="utf-8-sig", newline="\n") as file:
        array = file.read(64).lstrip().startswith("[")  # The file is JSONL or one JSON array.
        file.seek(0)
        for row in json.load(file) if array else map(json.loads, filter(str.strip, file)):
            yield [
                (str(message["role"]), str(message["content"]))
                for message in as_chat(row)["messages"]
            ]
