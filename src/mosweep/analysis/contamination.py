"""Contamination: which evaluation items a trial has seen in training, and what it scores without
them.

Text is compared without regard to case, form of Unicode, invisible characters and white space
(``normalised``). An item is a hit if

- its prompt, as a whole, is one of a training row's messages to the model, or all of them before
  the first answer (``exact``); or
- its prompt or target shares a run of 13 words, punctuation aside, with any message (``ngram``;
  Brown et al. 2020, arXiv:2005.14165).
  Of a text of 8 to 12 words all must be there. One of fewer words, but of 50 characters or more (a
  script without spaces, a string of bytes), is compared by runs of 50 characters; a shorter one
  only as a whole.

A run that more than ten different items have in common is part of a template and counts for none of
them. A short target is no hit by itself: many items have the answer "A". Paraphrases are not found.

The items' runs are indexed and training rows are streamed past them, so memory follows the
evaluation, which is the smaller.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from mosweep.core.fingerprint import digest_bytes
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.table import table_lines
from mosweep.core.work import DATA
from mosweep.evals.base import read_samples

__all__ = ["Hit", "Overlap", "contaminated", "limit_of", "normalised", "overlap", "overlap_text"]

#: Length of the runs that two texts must share; fewest words of a text to be compared by words;
#: most items to share what is no template.
WORDS, CHARACTERS, FEWEST, TEMPLATE = 13, 50, 8, 10

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
    """An evaluation item that was found in the training data.

    ``row`` is the number of the first such training row, ``share`` how much of the text was found:
    1 for all of its runs.
    """

    id: Any
    kind: Literal["exact", "ngram"]
    where: Where
    row: int
    share: float
    snippet: str


@dataclass(frozen=True)
class Overlap:
    """What one evaluation of one trial has in common with what the trial was trained on.

    ``scores`` are means over items: of ``all``, of those ``without`` a hit, and of the ``hits``;
    ``None`` where there are none.
    """

    trial: str
    label: str
    task: str
    key: str
    data: str
    rows: int
    items: int
    fraction: float
    hits: tuple[Hit, ...]
    scores: Mapping[str, Mapping[str, float | None]]


def overlap(result: SweepResult, words: int = WORDS, characters: int = CHARACTERS) -> list[Overlap]:
    """The overlaps of all evaluations that are done of fine-tunes on a data set, in the order of
    the trials.
    """
    known: dict[tuple[str, str], tuple[int, dict[int, Hit]]] = {}
    found = []
    for trial in result.trials:
        for stage, data in _evaluated(trial):
            train, path = _train(data), Path(str(stage.folder)) / "samples.jsonl"
            if not (train.exists() and path.exists()):
                continue
            samples = read_samples(path)
            items = _Items.of(samples)
            if not items.texts:
                continue
            same = data.key, digest_bytes(json.dumps(items.texts).encode())
            if same not in known:  # trials mostly share data and items, and differ in the answers
                known[same] = _matched(items.texts, train, words, characters)
            found.append(_overlap(trial, stage, data, samples, items, *known[same]))
    return found


def limit_of(result: SweepResult) -> float | None:
    """``contamination.max_overlap`` of the design."""
    limit: float | None = (result.design.get("contamination") or {}).get("max_overlap")
    return limit


def contaminated(result: SweepResult) -> dict[str, list[Overlap]]:
    """The trials with more overlap than the design allows; looked for only where it sets a
    limit.
    """
    found: dict[str, list[Overlap]] = defaultdict(list)
    if (limit := limit_of(result)) is not None:
        for one in overlap(result):
            if one.fraction > limit:
                found[one.trial].append(one)
    return found


def overlap_text(overlaps: Sequence[Overlap], snippets: int = 5) -> str:
    """A row per evaluation, and the first hits of each pair of data and items."""
    if not overlaps:
        return "nothing to compare: no evaluation with prompts of a fine-tune on a data set is done"
    header = [
        "trial",
        "task",
        "rows",
        "items",
        "exact",
        "n-gram",
        "overlap",
        "score",
        "all",
        "without hits",
        "hits only",
    ]
    rows = []
    for one in overlaps:
        kinds = [hit.kind for hit in one.hits]
        about = [
            one.trial,
            one.task,
            one.rows,
            one.items,
            kinds.count("exact"),
            kinds.count("ngram"),
            f"{one.fraction:.1%}",
        ]
        rows += [[*about, scorer, *scores.values()] for scorer, scores in one.scores.items()] or [
            [*about, "", None, None, None]
        ]
    lines = list(table_lines(header, rows))
    shown: set[tuple[Hit, ...]] = set()
    for one in overlaps:
        if one.hits and one.hits not in shown:
            shown.add(one.hits)
            lines += ["", f"{one.task}:"]
            lines += [
                f"  item {h.id}: {h.where}, {h.kind}, {h.share:.0%}, training row {h.row}: "
                f"{h.snippet}"
                for h in one.hits[:snippets]
            ]
            lines += (
                [f"  … and {len(one.hits) - snippets} more"] if len(one.hits) > snippets else []
            )
    return "\n".join(lines)


def normalised(text: str) -> str:
    """``text`` as it is compared: one form of each character, no case, nothing invisible, one space
    for white space.
    """
    if not text.isascii():
        text = unicodedata.normalize(
            "NFKC", unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
        )
    return " ".join(text.lower().split())


# -- matching --------------------------------------------------------------------------------------


@dataclass
class _Items:
    """The different items of an evaluation, as prompt and target are compared, and which of them
    each sample is.
    """

    texts: list[tuple[str, str]]
    of_id: dict[str, int]

    @classmethod
    def of(cls, samples: Iterable[Mapping[str, Any]]) -> _Items:
        numbers: dict[tuple[str, str], int] = {}
        of_id = {}
        for sample in samples:
            if isinstance(sample.get("input"), str):
                target = sample.get("target") or ""
                text = (
                    normalised(sample["input"]),
                    normalised(target if isinstance(target, str) else "\n".join(map(str, target))),
                )
                of_id[_id(sample)] = numbers.setdefault(text, len(numbers))
        return cls(list(numbers), of_id)


def _matched(
    texts: Sequence[tuple[str, str]], train: Path, words: int, characters: int
) -> tuple[int, dict[int, Hit]]:
    """The number of training rows, and the hits by the item's number, with no id yet."""
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
        for run, place in (found for content in contents for found in index.found_in(content)):
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
    """The items' runs, of words or of characters, each under what it begins with: a text is looked
    through once for runs of any length.
    """

    def __init__(self, words: int, characters: int) -> None:
        self.words, self.characters, self.fewest = words, characters, min(FEWEST, words)
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
        """Drop the runs that too many items share; how many each text has left."""
        left: Counter[_Place] = Counter()
        for runs in (*self.by_words.values(), *self.by_characters.values()):
            for run, places in list(runs.items()):
                if len({number for number, _ in places}) > TEMPLATE:
                    del runs[run]
                else:
                    left.update(places)
        return left

    def found_in(self, text: str) -> Iterator[tuple[str, _Place]]:
        """The runs that ``text`` has too, with the items' texts that have them."""
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
    """The words of ``text``, each with a space behind it, where each begins, and where the last one
    ends.
    """
    words = [f"{word} " for word in _WORD.findall(text)]
    return "".join(words), [0, *accumulate(map(len, words))]


def _prompts(roles: Sequence[str], contents: Sequence[str]) -> Iterator[str]:
    """What a row's model is asked: every message to it, and all before its first answer, with and
    without the instructions.
    """
    asked = [n for n, role in enumerate(roles) if role != "assistant"]
    yield from (_bare(contents[n]) for n in asked)
    first = next((n for n, role in enumerate(roles) if role == "assistant"), len(roles))
    if first > 1:
        yield _bare(" ".join(contents[:first]))
        yield _bare(
            " ".join(contents[n] for n in range(first) if roles[n] not in ("system", "developer"))
        )


def _bare(text: str) -> str:
    """Without punctuation around it. Within, it may make the difference: 1 + 1, 1 - 1."""
    return text.strip(" .,;:!?\"'…。？！、")


def _rows(train: Path) -> Iterator[list[tuple[str, str]]]:
    """Role and content of every message of every training row."""
    from mosweep.datasets.jsonl import as_chat

    with open(train, encoding="utf-8-sig", newline="\n") as file:
        array = file.read(64).lstrip().startswith("[")  # JSONL, or one JSON array
        file.seek(0)
        for row in json.load(file) if array else map(json.loads, filter(str.strip, file)):
            yield [
                (str(message["role"]), str(message["content"]))
                for message in as_chat(row)["messages"]
            ]


# -- reporting -------------------------------------------------------------------------------------


def _evaluated(trial: TrialResult) -> Iterator[tuple[StageResult, StageResult]]:
    """The evaluations that are done of the trial's fine-tunes, each with the data set of its
    fine-tune.
    """
    stages = {stage.key: stage for stage in trial.stages}
    for stage in trial.stages:
        tuned = [
            stages[key] for key in stage.needs.values() if key in stages and stages[key].kind.tunes
        ]
        tuned += [
            stages[key]
            for one in tuned
            for key in one.needs.values()
            if key in stages and stages[key].kind.trains
        ]
        data = [
            stages[key]
            for one in tuned
            for key in one.needs.values()
            if key in stages and stages[key].kind == DATA
        ]
        if stage.kind.scores and stage.record and data and data[0].record:
            yield stage, data[0]


def _train(data: StageResult) -> Path:
    return Path(str(data.folder)) / str(data.facts.get("folder", "data")) / "train.jsonl"


def _overlap(
    trial: TrialResult,
    stage: StageResult,
    data: StageResult,
    samples: Sequence[Mapping[str, Any]],
    items: _Items,
    rows: int,
    found: Mapping[int, Hit],
) -> Overlap:
    hits = {
        identity: replace(found[number], id=json.loads(identity))
        for identity, number in items.of_id.items()
        if number in found
    }
    fraction = len(hits) / len(items.of_id)
    about = stage.facts["task"], stage.key, str(data.facts.get("digest", data.key))
    return Overlap(
        trial.name,
        stage.label,
        *about,
        rows,
        len(items.of_id),
        fraction,
        tuple(hits.values()),
        _scores(samples, hits),
    )


def _id(sample: Mapping[str, Any]) -> str:
    return json.dumps(sample["id"])


def _cut(text: str) -> str:
    return text if len(text) <= _SNIPPET else text[: _SNIPPET - 1] + "…"


def _scores(
    samples: Sequence[Mapping[str, Any]], hits: Mapping[str, Hit]
) -> dict[str, dict[str, float | None]]:
    """Per scorer the mean over items, of their means over epochs."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        for scorer, value in (sample.get("scores") or {}).items():
            if value is not None:
                values[scorer][_id(sample)].append(float(value))
    found = {}
    for scorer, of_item in values.items():
        means = {item: math.fsum(scores) / len(scores) for item, scores in of_item.items()}
        hit = [mean for item, mean in means.items() if item in hits]
        rest = [mean for item, mean in means.items() if item not in hits]
        found[scorer] = {"all": _mean([*hit, *rest]), "without": _mean(rest), "hits": _mean(hit)}
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
