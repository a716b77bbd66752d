"""The examples of each round of a loop: a part of one shuffled sequence, and hard examples.

Without hard examples, all rounds read one sequence. It consists of epochs. Each epoch has all
examples in a random order that the seed determines. A round starts where the previous one stopped.

An example is hard if evaluation samples of its group failed. A group has the same value in the
metadata, for instance the same ``topic``. Hard examples are added to the sequence (``boost``) or
replace it (``mine``). The more samples of a group failed, the more of its examples are chosen.
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

#: Names in the metadata that form groups by default. The metadata of scores form groups, too.
NAMES = ("topic", "task")


@dataclass(frozen=True)
class Group:
    """A group of evaluation samples with the same ``value`` of ``name`` in their metadata.

    ``failed`` of its ``samples`` failed.
    """

    name: str
    value: str
    failed: int
    samples: int

    @property
    def rate(self) -> float:
        """The fraction of samples that failed."""
        return self.failed / self.samples


@dataclass(frozen=True)
class Selection:
    """The examples of a round.

    - ``rows``: their indices, in order
    - ``position``: the place in the sequence where the next round starts
    - ``hard``: how many were chosen because their group failed
    - ``groups``: counts for each group
    """

    rows: Sequence[int]
    position: int
    hard: int = 0
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def stretch(rows: int, seed: object, start: int, count: int) -> list[int]:
    """``count`` numbers below ``rows``, from place ``start`` in the sequence of ``seed``.

    No number is repeated before all others have been used.
    """
    numbers: list[int] = []
    while len(numbers) < count:
        epoch, offset = divmod(start + len(numbers), rows)
        order = list(range(rows))
        random.Random(f"{seed} {epoch}").shuffle(order)
        numbers += order[offset : offset + count - len(numbers)]
    return numbers


def failed_groups(
    samples: Sequence[Mapping[str, Any]],
    threshold: float,
    *,
    scorer: str | None = None,
    names: Sequence[str] | None = None,
) -> list[Group]:
    """The groups of ``samples`` (see ``EvalResults.samples``) in which at least one failed.

    A sample fails if its score is below ``threshold``. Its score is ``scorer``'s if it has one,
    otherwise the mean of all its scores. Samples without a score are ignored. ``names`` form
    groups. By default these are ``NAMES`` and all names in the metadata of scores.
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
    """``count`` examples for the round ``number``, from ``position`` in the sequence of ``seed``.

    Let f be the fraction of failed samples in an example's group, or the greatest if it has
    several groups. The example's weight is 1 + (``factor`` - 1) · f for ``boost`` and f for
    ``mine``. Without a failed group, the weight is 1 or 0. Raises ``UserError`` if all weights are
    0.
    """
    rates = _rates(examples, groups) if mode != "off" else {}
    weights = {row: rate * (factor - 1 if mode == "boost" else 1) for row, rate in rates.items()}
    total = sum(weights.values())
    if mode == "mine" and not total:
        known = ", ".join(f"{group.name}={group.value}" for group in groups) or "none"
        raise UserError(
            f"no training example belongs to a group with failed samples (groups: {known}); see "
            "loop.hard_by"
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
    """``count`` rows, shared among the weights in proportion, rounded to whole numbers.

    No row is repeated before all others of the same weight have been used.
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
    """The fraction of failed samples by row. For several groups, the greatest."""
    by_name: dict[str, dict[str, float]] = {}
    for group in groups:
        by_name.setdefault(group.name, {})[group.value] = group.rate
    greatest: dict[int, float] = {}
    for row, example in enumerate(examples):
        rates = [
            rate
            for name, values in by_name.items()
            if (rate := values.get(_of_example(example, name) or "")) is not None
        ]
        if rates:
            greatest[row] = max(rates)
    return greatest


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
    """The value of ``name`` in an example's metadata, or else next to its messages."""
    metadata = example.get("metadata")
    value = metadata.get(name) if isinstance(metadata, Mapping) else None
    return _text(example.get(name) if value is None else value)


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) and value != "" else None
