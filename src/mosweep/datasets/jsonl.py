"""Chat data sets: JSONL or a JSON array in OpenAI's fine-tuning format, checked row by row.

Rows in Alpaca's format, with ``instruction``, ``output`` and an optional ``input``, are read as a
chat of two turns.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from mosweep.core import fingerprint
from mosweep.core.errors import UserError
from mosweep.core.files import write_whole

__all__ = ["ROLES", "JSONLDataset", "Sample", "as_chat"]

#: One row: ``{"messages": [{"role": …, "content": …}, …], …}``; other keys are kept.
Sample = Mapping[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, init=False)
class JSONLDataset:
    """Samples in OpenAI's chat format, in order.

    Raises ``UserError`` for a sample that no backend can train on.
    """

    samples: tuple[Sample, ...]

    def __init__(self, samples: Iterable[Sample]) -> None:
        rows = tuple(map(as_chat, samples))
        for number, row in enumerate(rows, 1):
            if problem := _problem(row):
                raise UserError(f"sample {number}: {problem}")
        object.__setattr__(self, "samples", rows)

    @classmethod
    async def load(cls, path: str | Path) -> JSONLDataset:
        """Read a JSONL file, or a file with one JSON array.

        Raises ``UserError`` with the file and line of the first invalid row.
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
            {"messages": [{k: m[k] for k in known if k in m} for m in row["messages"]]}
            for row in self.samples
        ]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the samples in order. It does not depend on the file's formatting."""
        return _digest(self.samples)

    @staticmethod
    def stream(path: str | Path) -> Iterator[Sample]:
        """The samples of a file one by one, checked as they are read.

        A JSONL file may be larger than memory. A JSON array is read as a whole.
        """
        empty = True
        for line, row in _rows(Path(path)):
            row = as_chat(row)
            if problem := _problem(row):
                raise UserError(f"{path}, line {line}: {problem}")
            empty = False
            yield row
        if empty:
            raise UserError(f"{path} has no samples")

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


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a file, each with the line on which it begins."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(3)
            file.seek(3 if beginning == codecs.BOM_UTF8 else 0)
            while (byte := file.read(1)).isspace():
                pass
            file.seek(3 if beginning == codecs.BOM_UTF8 else 0)
            if byte == b"[":
                yield from _array_rows(path, _text(path, file.read()))
            else:
                yield from _lines(path, file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _text(path: Path, data: bytes, line: int | None = None) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        place = f"{path}, line {line}:" if line else f"{path}"
        raise UserError(f"{place} is not UTF-8 text (byte {error.start})") from error


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    # As bytes, because text is also split at U+2028 and similar, which JSON strings may contain.
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, _DECODER.decode(_text(path, line, number))
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({_reason(error)})") from error


def _array_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON array, each with the line on which it begins."""
    position, counted, line = text.index("[") + 1, 0, 1

    def skip(where: int) -> int:
        while where < len(text) and text[where] in " \t\r\n":
            where += 1
        return where

    try:
        position = skip(position)
        while text[position : position + 1] != "]":
            line, counted = line + text.count("\n", counted, position), position
            row, position = _DECODER.raw_decode(text, position)
            yield line, row
            position = skip(position)
            if text[position : position + 1] == ",":
                position = skip(position + 1)
            elif text[position : position + 1] != "]":
                raise ValueError("expected ',' or ']' after this item")
    except ValueError as error:
        raise UserError(f"{path}, line {line}: not JSON ({_reason(error)})") from error
    if text[position + 1 :].strip():
        raise UserError(f"{path}: unexpected content after the end of the JSON array")


def _reason(error: ValueError) -> str:
    """The decoder's message without its line number, which is not the file's."""
    return (
        f"{error.msg}, column {error.colno}"
        if isinstance(error, json.JSONDecodeError)
        else str(error)
    )


def _problem(row: Any) -> str | None:
    """Why ``row`` is not a valid chat sample, or ``None``."""
    if not isinstance(row, Mapping):
        return f"expected an object with messages, found {_kind(row)}"
    messages = row.get("messages")
    if messages is None:
        return f"no messages (keys: {', '.join(map(str, row)) or 'none'})"
    if not isinstance(messages, list | tuple) or not messages:
        return "messages must be a list of at least one message"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            return f"message {number}: expected an object, found {_kind(message)}"
        if message.get("role") not in ROLES:
            return f"message {number}: role {message.get('role')!r}; valid: {', '.join(ROLES)}"
        if not isinstance(message.get("content"), str):
            return f"message {number}: content must be text, found {_kind(message.get('content'))}"
    if not any(message["role"] == "assistant" for message in messages):
        return "no assistant message, so there is nothing to learn"
    return None


def as_chat(row: Any) -> Any:
    """A row with instruction, input and output as a chat. Other rows are returned unchanged."""
    if (
        not isinstance(row, Mapping)
        or "messages" in row
        or not {"instruction", "output"} <= set(row)
    ):
        return row
    instruction, text, answer = row["instruction"], row.get("input") or "", row["output"]
    if not all(isinstance(part, str) for part in (instruction, text, answer)):
        return row
    messages = [
        {"role": "user", "content": f"{instruction}\n\n{text}" if text else instruction},
        {"role": "assistant", "content": answer},
    ]
    return {
        "messages": messages,
        **{
            key: value
            for key, value in row.items()
            if key not in ("instruction", "input", "output")
        },
    }


def _kind(value: Any) -> str:
    names = {
        str: "text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
        list: "a list",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
