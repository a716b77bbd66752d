"""Metrics recomputed from the samples of an evaluation, which are untrusted text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mosweep.archive.format import UNEXPECTED, Unreadable

__all__ = ["Scores", "metric_findings"]

#: Maximum length of a line, in bytes.
MAX_LINE = 1 << 26


class Scores:
    """The scores of a ``samples.jsonl``, read chunk by chunk, then closed.

    ``means`` has for each scorer the mean over items of the mean over epochs, the number of items,
    and whether any item has several epochs. ``counts`` are the valid values of ``n``: the number
    of items or rows, all or only those with a score.
    """

    def __init__(self) -> None:
        self.broken = ""
        self.rows = 0
        self.means: dict[str, tuple[float, int, bool]] = {}
        self.counts: set[int] = set()
        self._rest = b""
        self._values: dict[str, dict[str, list[float]]] = {}
        self._items: set[str] = set()

    def feed(self, chunk: bytes) -> None:
        """Read the next chunk."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise Unreadable("a line of samples is too long")
        for line in lines:
            self._row(line)

    def close(self) -> None:
        """Read the last line, and discard everything but the results."""
        self._row(self._rest)
        self.counts = {self.rows, len(self._items)}
        for scorer, items in self._values.items():
            self.counts |= {len(items), sum(map(len, items.values()))}
            means = [math.fsum(values) / len(values) for values in items.values()]
            if means:
                self.means[scorer] = (
                    math.fsum(means) / len(means),
                    len(means),
                    any(len(values) > 1 for values in items.values()),
                )
        self._values, self._items, self._rest = {}, set(), b""

    def _row(self, line: bytes) -> None:
        if not line or self.broken:
            return
        try:
            row = json.loads(line)
            item = json.dumps(row["id"])
            for scorer, value in row["scores"].items():
                of_item = self._values.setdefault(scorer, {})
                if value is not None:
                    of_item.setdefault(item, []).append(float(value))
        except UNEXPECTED as error:
            self.broken = f"samples.jsonl cannot be read: {type(error).__name__}"
            return
        self.rows += 1
        self._items.add(item)

    def mean_for(self, metric: str) -> tuple[float, int, bool] | None:
        """The mean that ``metric`` should equal, if it is named like a mean."""
        scorer, _, name = metric.rpartition("/")
        if metric in self.means:
            scorer = metric
        elif name not in ("accuracy", "mean"):
            return None
        elif not scorer and len(self.means) == 1:
            (scorer,) = self.means
        return self.means.get(scorer)


def metric_findings(facts: Mapping[str, Any], scores: Scores | None) -> dict[str, str | None]:
    """The finding about each metric, and about ``n``.

    ``""`` if it follows from the samples, ``None`` if that cannot be decided, else the error.
    """
    if scores is None or scores.broken:
        return dict.fromkeys([*facts["metrics"], "n"], scores.broken if scores else None)
    n = facts["n"]
    findings: dict[str, str | None] = {
        "n": "" if n in scores.counts else f"n is {n}, but there are {scores.rows} samples"
    }
    for name, value in facts["metrics"].items():
        mean = scores.mean_for(name)
        if mean is None or (mean[1] != n and not mean[2]):
            findings[name] = None
        elif math.isclose(mean[0], value, rel_tol=1e-9, abs_tol=1e-9):
            findings[name] = ""
        else:  # Epochs may have been reduced by something other than their mean.
            findings[name] = (
                None if mean[2] else f"{name} is {value}, the samples give {mean[0]:.6g}"
            )
    return findings
