"""Chat data sets, checked row by row.

``mosweep.datasets.reading`` says which files are read, ``mosweep.datasets.forms`` which rows.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.errors import UserError
from mosweep.core.files import write_whole
from mosweep.datasets.forms import as_chat, problem_of
from mosweep.datasets.reading import read_rows

__all__ = ["JSONLDataset", "Sample", "placed"]

#: One row: ``{"messages": [{"role": …, "content": …}, …], …}``; other keys are kept.
Sample = Mapping[str, Any]


@dataclass(frozen=True, init=False)
class JSONLDataset:
    """Samples in OpenAI's chat format, in order.

    Raises ``UserError`` for a sample that no backend can train on.
    """

    samples: tuple[Sample, ...]

    def __init__(self, samples: Iterable[Sample]) -> None:
        rows = tuple(map(as_chat, samples))
        for number, row in enumerate(rows, 1):
            if problem := problem_of(row):
                raise UserError(f"sample {number}: {problem}")
        object.__setattr__(self, "samples", rows)

    @classmethod
    async def load(cls, path: str | Path) -> JSONLDataset:
        """Read a file: JSON lines, a JSON array, CSV or Parquet, compressed or not.

        Of a file with splits, the split ``train`` is read. Raises ``UserError`` with the file and
        line of the first invalid row.
        """
        return await asyncio.to_thread(cls._read, Path(path))

    async def save(self, path: str | Path) -> None:
        """Write JSONL atomically. Creates missing folders."""
        await asyncio.to_thread(self._write, Path(path))

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def sample(self, n: int, seed: int) -> JSONLDataset:
        """``n`` random samples without repetition. The same ``seed`` gives the same samples.

        Raises ``UserError`` if there are fewer than ``n``.
        """
        if not 0 <= n <= len(self):
            raise UserError(f"cannot draw {n} samples from {len(self)}")
        return _trusted(random.Random(seed).sample(self.samples, n))

    def interleave(self, other: JSONLDataset) -> JSONLDataset:
        """Alternate samples of both data sets. The rest of the longer one follows."""
        rows: list[Sample] = []
        for pair in zip(self.samples, other.samples, strict=False):
            rows += pair
        done = min(len(self), len(other))
        return _trusted([*rows, *self.samples[done:], *other.samples[done:]])

    def unique(self) -> JSONLDataset:
        """Drop repeated samples. Only samples that are equal as a whole count as repeated."""
        first: dict[str, Sample] = {}
        for row in self.samples:
            first.setdefault(fingerprint.canonical_json(row), row)
        return _trusted(first.values())

    def to_openai_format(self) -> list[dict[str, Any]]:
        """Rows with only ``messages``, which have only the keys of OpenAI's format."""
        known = ("role", "content", "name", "weight")
        return [
            {"messages": [{k: m[k] for k in known if m.get(k) is not None} for m in messages]}
            for messages in (row["messages"] for row in self.samples)
        ]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the samples in order. It does not depend on the file's formatting."""
        return _digest(self.samples)

    @staticmethod
    def stream(path: str | Path) -> Iterator[Sample]:
        """The samples of a file one by one, checked as they are read.

        JSON lines may be larger than memory. Other text is read as a whole.
        """
        return (row for _, row, _ in placed(Path(path)))

    @classmethod
    def digest_of(cls, path: str | Path) -> str:
        """The ``digest`` of the data set in a file, without holding it in memory."""
        return _digest(cls.stream(path))

    @classmethod
    def _read(cls, path: Path) -> JSONLDataset:
        return _trusted(cls.stream(path))

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in self.samples))


def _trusted(rows: Iterable[Sample]) -> JSONLDataset:
    """A data set of rows that are already checked."""
    dataset = object.__new__(JSONLDataset)
    object.__setattr__(dataset, "samples", tuple(rows))
    return dataset


def _digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of the samples' canonical JSON, one per line."""
    digest, separator = hashlib.sha256(), b""
    try:
        for sample in samples:
            digest.update(separator + fingerprint.canonical_json(sample).encode())
            separator = b"\n"
    except TypeError as error:
        raise UserError(f"the data set has no digest: {error}") from error
    return digest.hexdigest()


def placed(path: Path) -> Iterator[tuple[str, Sample, Any]]:
    """The samples of a file, each with its place and the row that it was in the file.

    Raises ``UserError`` for an invalid row.
    """
    empty = True
    for place, found in read_rows(path):
        row = as_chat(found)
        if problem := problem_of(row):
            raise UserError(f"{path}, {place}: {problem}")
        empty = False
        yield place, row, found
    if empty:
        raise UserError(f"{path} has no samples")
