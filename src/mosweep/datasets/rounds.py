"""Which examples a round of the loop trains on: the next stretch of an endless shuffle, and more of
what the evaluation found hard.

Without hard examples the rounds read one sequence: all examples in a random order that follows from
the seed, then all again in another, and so on, each round from where the one before stopped. Hard
examples are those in a group (their metadata's ``topic``, say) of which evaluation samples failed.
They come beside the sequence (``boost``) or instead of it (``mine``), the more of a group the more
of it failed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import Sample

__all__ = ["Group", "Selection", "failed_groups", "select", "stretch"]

#: Names in the metadata of samples and examples that make groups unless told otherwise. What a
#: scorer notes of a sample does, too.
NAMES = ("topic", "task")


@dataclass(frozen=True)
class Group:
    """Of ``samples`` evaluation samples with this value of this name, ``failed`` failed."""

    name: str
    value: str
    failed: int
    samples: int

    @property
    def rate(self) -> float:
        """Which part of the samples failed."""
        return self.failed / self.samples


@dataclass(frozen=True)
class Selection:
    """The examples of a round, by number, in order. ``position``: where the sequence goes on in the
    next round.

    ``hard`` is how many of the examples came for belonging to a group that failed, ``groups`` how
    many there are of each, by group.
    """

    rows: Sequence[int]
    position: int
    hard: int = 0
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def stretch(rows: int, seed: object, start: int, count: int) -> list[int]:
    """``count`` numbers below ``rows``, from place ``start`` of the sequence of ``seed``: none
    comes again before all others have.
    """
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(start + len(found), rows)
        order = list(range(rows))
        random.Random(f"{seed} {epoch}").shuffle(order)
        found += order[offset : offset + count - len(found)]
    return found


def failed_groups(
    samples: Sequence[Mapping[str, Any]],
    threshold: float,
    *,
    scorer: str | None = None,
    names: Sequence[str] | None = None,
) -> list[Group]:
    """The groups of an evaluation's ``samples`` (see ``EvalResults.samples``) in which some failed.

    A sample has failed if its score is below ``threshold``: that of ``scorer`` if there is one of
    the name, otherwise the mean of all. A sample that was not scored counts neither way. ``names``
    make groups; by default ``NAMES``, and all that scorers noted.
    """
    failed: Counter[tuple[str, str]] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        score = _score(sample["scores"], scorer)
        if score is None:
            continue
        for group in set(_of_sample(sample, names)):
            seen[group] += 1
            failed[group] += score < threshold
    return [
        Group(name, value, failed[name, value], number)
        for (name, value), number in sorted(seen.items())
        if failed[name, value]
    ]


def select(
    examples: Sequence[Sample],
    count: int,
    *,
    seed: int,
    position: int = 0,
    number: int = 1,
    groups: Sequence[Group] = (),
    mode: Literal["off", "boost", "mine"] = "off",
    factor: float = 1.0,
) -> Selection:
    """``count`` examples for the round ``number``, which reads the sequence of ``seed`` from
    ``position`` on.

    An example in a group of which the part f failed (the most of its groups) weighs 1 + (``factor``
    - 1) · f under ``boost`` and f under ``mine``, where any other weighs 1 and 0. ``UserError`` if
    nothing is left to mine.
    """
    rates = _rates(examples, groups) if mode != "off" else {}
    weights = {row: rate * (factor - 1 if mode == "boost" else 1) for row, rate in rates.items()}
    total = sum(weights.values())
    if mode == "mine" and not total:
        known = ", ".join(f"{group.name}={group.value}" for group in groups) or "none"
        raise UserError(
            f"no training example belongs to a group of which samples failed (groups: {known}); "
            "see loop.hard_by"
        )
    extra = count if mode == "mine" else round(count * total / (len(examples) + total))
    rows = stretch(len(examples), seed, position, count - extra) + _drawn(
        weights, extra, f"{seed} hard {number}"
    )
    if extra:
        random.Random(f"{seed} order {number}").shuffle(rows)
    counted = (
        {f"{group.name}={group.value}": _counts(group, examples, rows) for group in groups}
        if mode != "off"
        else {}
    )
    return Selection(rows, position + count - extra, extra, counted)


def _drawn(weights: Mapping[int, float], count: int, seed: str) -> list[int]:
    """``count`` rows: each weight has its share, as whole numbers go, and within it no row comes
    again before all others have.
    """
    if not count:
        return []
    classes: dict[float, list[int]] = {}
    for row, weight in sorted(weights.items()):
        if weight:
            classes.setdefault(weight, []).append(row)
    total = sum(weight * len(rows) for weight, rows in classes.items())
    exact = {weight: count * weight * len(rows) / total for weight, rows in classes.items()}
    shares = {weight: int(share) for weight, share in exact.items()}
    for weight in sorted(exact, key=lambda weight: (shares[weight] - exact[weight], weight))[
        : count - sum(shares.values())
    ]:
        shares[weight] += 1
    return [
        rows[i]
        for weight, rows in classes.items()
        for i in stretch(len(rows), f"{seed} {weight:.12g}", 0, shares[weight])
    ]


def _rates(examples: Sequence[Sample], groups: Sequence[Group]) -> dict[int, float]:
    """By row, which part of its groups' samples failed: the most of its groups."""
    by_name: dict[str, dict[str, float]] = {}
    for group in groups:
        by_name.setdefault(group.name, {})[group.value] = group.rate
    found: dict[int, float] = {}
    for row, example in enumerate(examples):
        rates = [
            rate
            for name, values in by_name.items()
            if (rate := values.get(_of_example(example, name) or "")) is not None
        ]
        if rates:
            found[row] = max(rates)
    return found


def _counts(group: Group, examples: Sequence[Sample], rows: Sequence[int]) -> dict[str, int]:
    members = {
        row
        for row, example in enumerate(examples)
        if _of_example(example, group.name) == group.value
    }
    chosen = sum(row in members for row in rows)
    return {
        "failed": group.failed,
        "samples": group.samples,
        "examples": len(members),
        "chosen": chosen,
    }


def _score(scores: Mapping[str, float | None], scorer: str | None) -> float | None:
    if scorer is not None and scorer in scores:
        return scores[scorer]
    known = [score for score in scores.values() if score is not None]
    return sum(known) / len(known) if known else None


def _of_sample(sample: Mapping[str, Any], names: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """The groups of an evaluation sample."""
    noted: list[Mapping[str, Any]] = list((sample.get("score_metadata") or {}).values())
    for about in (sample.get("metadata") or {}, *noted):
        wanted = (*NAMES, *(about if about in noted else ())) if names is None else names
        for name in dict.fromkeys(wanted):
            if (value := _text(about.get(name))) is not None:
                yield name, value


def _of_example(example: Sample, name: str) -> str | None:
    """What an example has under ``name``: in its metadata, or beside its messages."""
    metadata = example.get("metadata")
    value = metadata.get(name) if isinstance(metadata, Mapping) else None
    return _text(example.get(name) if value is None else value)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and value != "" else None
