"""The samples of an evaluation: its scores, item by item. This module reads ``samples.jsonl``.

Only ``archive.verify`` has its own reader, because it reads archives that cannot be trusted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosweep.core.errors import CorruptRecord

__all__ = ["SAMPLES", "Samples", "read_samples"]

#: The name of the file in an evaluation's artifact.
SAMPLES = "samples.jsonl"

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one evaluation, as columns of the same length.

    ``scores`` are the scorers' values, by scorer, with ``None`` for a missing score. ``reduced``
    are those of items over their epochs, as the task reduces them, in the row of one epoch; empty
    if there is one epoch. ``items`` identify the items in other evaluations: ids of the data set,
    or digests of the content if it has no ids. ``texts`` are prompt and target, or ``None`` if the
    prompt is not plain text.
    """

    ids: Sequence[Any]
    items: Sequence[Any]
    epochs: Sequence[int]
    scores: Mapping[str, Sequence[Any]]
    reduced: Mapping[str, Sequence[Any]]
    texts: Sequence[tuple[str, str] | None]
    metadata: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Samples | None:
        """The samples in an artifact's folder, or ``None`` if it has none."""
        try:
            rows = read_samples(folder / SAMPLES)
        except FileNotFoundError:
            return None
        return cls(
            ids=[_shared(row["id"]) for row in rows],
            items=[_shared(row.get("item", row["id"])) for row in rows],
            epochs=[row.get("epoch", 1) for row in rows],
            scores=_columns([row.get("scores") or _NOTHING for row in rows]),
            reduced=_columns([row.get("reduced") or _NOTHING for row in rows]),
            texts=[_text(row) for row in rows],
            metadata=[row.get("metadata") or _NOTHING for row in rows],
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def of_items(self) -> Mapping[str, Sequence[Any]]:
        """The scores of items: ``reduced``, or else ``scores``, whose mean over epochs counts."""
        return self.reduced or self.scores


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``samples.jsonl``. Raises ``CorruptRecord`` if a line is not JSON."""
    data = path.read_bytes().strip()
    try:
        # One array parses faster than many rows. Newlines within strings are escaped.
        rows: list[dict[str, Any]] = json.loads(b"[" + data.replace(b"\n", b",") + b"]")
        return rows
    except ValueError:
        pass
    try:
        return [json.loads(line) for line in data.split(b"\n") if line.strip()]
    except ValueError as error:
        raise CorruptRecord(f"{path}: expected one JSON object per line ({error})") from None


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(sys.intern(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _text(row: Mapping[str, Any]) -> tuple[str, str] | None:
    prompt, target = row.get("input"), row.get("target") or ""
    if not isinstance(prompt, str):
        return None
    if not isinstance(target, str):
        target = "\n".join(map(str, target)) if isinstance(target, list) else str(target)
    return sys.intern(prompt), sys.intern(target)


def _shared(value: Any) -> Any:
    """The value, with one copy of each text: many evaluations have the same items."""
    return sys.intern(value) if isinstance(value, str) else value
