"""``contamination``: the overlap of evaluations with training data, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mosweep.analysis.contamination import Overlap
from mosweep.analysis.matching import Hit
from mosweep.core.table import table_lines

__all__ = ["examples", "overlap_rows", "overlap_text"]

_HEADER = [
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


def overlap_text(overlaps: Sequence[Overlap], most: int = 5) -> str:
    """A row per evaluation, then examples of the items that were found."""
    if not overlaps:
        return (
            "nothing to compare: no fine-tune on a data set has a finished evaluation with prompts"
        )
    rows = []
    for one in overlaps:
        kinds = [hit.kind for hit in one.hits]
        counts = [one.rows, one.items, kinds.count("exact"), kinds.count("ngram")]
        about = [one.trial, one.task, *counts, f"{one.fraction:.1%}"]
        rows += overlap_rows(about, one)
    return "\n".join([*table_lines(_HEADER, rows), *_example_lines(overlaps, most)])


def overlap_rows(about: Sequence[Any], one: Overlap) -> list[list[Any]]:
    """A row for each scorer: ``about``, then the mean of all items, of the others, of the hits."""
    return [[*about, scorer, *scores.values()] for scorer, scores in one.scores.items()] or [
        [*about, "", None, None, None]
    ]


def examples(overlaps: Sequence[Overlap]) -> Iterator[Overlap]:
    """One overlap per set of hits. Trials that differ only in the seed mostly share their hits."""
    shown: set[tuple[Hit, ...]] = set()
    for one in overlaps:
        if one.hits and one.hits not in shown:
            shown.add(one.hits)
            yield one


def _example_lines(overlaps: Sequence[Overlap], most: int) -> Iterator[str]:
    for one in examples(overlaps):
        yield ""
        yield f"{one.task}:"
        for hit in one.hits[:most]:
            yield (
                f"  item {hit.id}: {hit.where}, {hit.kind}, {hit.share:.0%}, training row "
                f"{hit.row}: {hit.snippet}"
            )
        if len(one.hits) > most:
            yield f"  … and {len(one.hits) - most} more"
