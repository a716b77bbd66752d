"""The rows of a user's file, each with its place in that file.

A file is read by what is in it: JSON lines, one JSON array, JSON objects one after the other, or an
object with a list of rows for each split; CSV; Parquet. It may be compressed. Its name matters only
for CSV.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

from mosweep.core.errors import MissingExtra, UserError

__all__ = ["TRAINING", "is_plain", "read_rows", "splits_of"]

#: The split that is trained on.
TRAINING = "train"

#: The first bytes of compressed files.
_COMPRESSED: Mapping[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": gzip.GzipFile,  # type: ignore[dict-item]
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
#: The first bytes of files that are not read, and what to do.
_FOREIGN = {
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or save it as CSV or JSON lines",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it with unzstd",
    b"ARROW1": "an Arrow file: write it with Dataset.to_json",
    codecs.BOM_UTF16_LE: "not UTF-8 text but UTF-16: convert it with iconv -f UTF-16 -t UTF-8",
    codecs.BOM_UTF16_BE: "not UTF-8 text but UTF-16: convert it with iconv -f UTF-16 -t UTF-8",
}
_PARQUET = b"PAR1"
_TABLES = (".csv", ".tsv")

#: A row, with its split, if the file has several, and its place: ``line 5``, ``row 5``.
Row = tuple[str | None, str, Any]


def read_rows(path: Path, split: str = TRAINING) -> Iterator[tuple[str, Any]]:
    """The rows of a file, of its ``split`` if it has several, each with its place.

    Raises ``UserError`` with the file, and the line if it is known, for what cannot be read.
    """
    names: dict[str | None, None] = {}
    for name, place, row in _rows(path):
        names[name] = None
        if name in (None, split):
            yield place, row
    if names and not {None, split} & set(names):
        raise UserError(
            f"{path} has no rows of the split {split!r}; it has: {', '.join(map(str, names))}"
        )


def splits_of(path: Path) -> dict[str, list[tuple[str, Any]]]:
    """The rows of every split of a file. A file without splits has the split ``train`` only."""
    splits: dict[str, list[tuple[str, Any]]] = {}
    for name, place, row in _rows(path):
        splits.setdefault(name or TRAINING, []).append((place, row))
    return splits


def is_plain(path: Path) -> bool:
    """Whether the file is JSON lines in UTF-8, as every backend reads them."""
    with open(path, "rb") as file:
        beginning = file.read(4)
        lines = _is_lines(file, beginning)
    return lines and not beginning.startswith((codecs.BOM_UTF8, *_COMPRESSED, *_FOREIGN))


def _rows(path: Path) -> Iterator[Row]:
    try:
        with open(path, "rb") as file:
            beginning = file.read(8)
        for start, kind in _FOREIGN.items():
            if beginning.startswith(start):
                raise UserError(f"{path} is {kind}")
        if beginning.startswith(_PARQUET):
            yield from _parquet(path)
            return
        packed = next((way for s, way in _COMPRESSED.items() if beginning.startswith(s)), None)
        with packed(path) if packed else open(path, "rb") as file:
            yield from _text_rows(path, file)
    except (EOFError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be unpacked: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _text_rows(path: Path, file: IO[bytes]) -> Iterator[Row]:
    names = [suffix.lower() for suffix in path.suffixes[-2:]]
    if any(name in _TABLES for name in names):
        yield from _table(path, _text(path, file.read()).removeprefix("\ufeff"))
    elif _is_lines(file, file.read(4)):
        yield from _lines(path, file)
    else:
        yield from _values(path, _text(path, file.read()).removeprefix("\ufeff"))


def _is_lines(file: IO[bytes], beginning: bytes) -> bool:
    """Whether each line of the file is a JSON value. Leaves the file at its first row."""
    start = len(codecs.BOM_UTF8) if beginning.startswith(codecs.BOM_UTF8) else 0
    file.seek(start)
    while (line := file.readline()) and not line.strip():
        pass
    file.seek(start)
    if line.lstrip().startswith(b"["):
        return False
    try:
        return not _is_splits(json.loads(line.decode()))
    except (ValueError, RecursionError):  # the first line of a longer value, or a bad line
        return not line.lstrip().startswith(b"{")


def _is_splits(value: Any) -> bool:
    """Whether ``value`` is an object with lists of rows, not a row."""
    lists = [item for item in value.values() if isinstance(item, list)] if _is_map(value) else []
    return len(lists) > 0 and (
        isinstance(value.get(TRAINING), list)
        or (
            len(lists) == len(value)
            and not {"messages", "conversations", "conversation", "prompt", "chosen"} & set(value)
        )
    )


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _text(path: Path, data: bytes, line: int | None = None) -> str:
    try:
        text = data.decode()
        if "\0" in text:
            raise UnicodeDecodeError("utf-8", data, data.index(b"\0"), 1, "NUL")
    except UnicodeDecodeError as error:
        place = f"{path}, line {line}:" if line else f"{path}"
        other = "UTF-16" if b"\0" in data else "LATIN1"
        raise UserError(
            f"{place} is not UTF-8 text (byte {error.start}): convert it, for instance with iconv "
            f"-f {other} -t UTF-8"
        ) from error
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _lines(path: Path, lines: Iterable[bytes]) -> Iterator[Row]:
    # As bytes, because text is also split at U+2028 and similar, which JSON strings may contain.
    for number, line in enumerate(lines, 1):
        if line.strip():
            text = _text(path, line, number)
            try:
                row = _DECODER.decode(text)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: not JSON ({_reason(error)})") from error
            except RecursionError:
                raise UserError(f"{path}, line {number}: too deeply nested") from None
            yield None, f"line {number}", row


def _reason(error: ValueError) -> str:
    """The decoder's message without its line number, which is not the file's."""
    return (
        f"{error.msg}, column {error.colno}"
        if isinstance(error, json.JSONDecodeError)
        else str(error)
    )


_SPACE = re.compile(r"[ \t\r\n]*")


class _Document:
    """A text of JSON values, read from ``position`` on. ``line`` is that of the last value."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text
        self.position, self.counted, self.line = 0, 0, 1

    @property
    def here(self) -> int:
        """The line of the position."""
        return self.text.count("\n", 0, self.position) + 1

    def next(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return self.text[self.position : self.position + 1]

    def value(self) -> Any:
        """The value at the position. Reads past it."""
        self.next()
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        value, self.position = _DECODER.raw_decode(self.text, self.position)
        return value

    def expect(self, character: str) -> None:
        """Read past ``character``."""
        if self.next() != character:
            raise ValueError(f"expected {character!r} after this item")
        self.position += 1

    def items(self, end: str) -> Iterator[None]:
        """One step for each item up to ``end``, which the caller reads."""
        self.position += 1
        while self.next() != end:
            yield
            if self.next() not in (",", end):
                raise ValueError(f"expected ',' or {end!r} after this item")
            if self.next() == ",":
                self.position += 1
        self.position += 1

    def array(self, split: str | None) -> Iterator[Row]:
        """The rows of the array at the position."""
        for _ in self.items("]"):
            row = self.value()
            yield split, f"line {self.line}", row

    def splits(self) -> Iterator[Row]:
        """The rows of each list of the object at the position."""
        for _ in self.items("}"):
            name = self.value()
            self.expect(":")
            if self.next() == "[":
                yield from self.array(str(name))
            else:
                self.value()


def _values(path: Path, text: str) -> Iterator[Row]:
    """The rows of a text with one array, an object of splits, or one object after the other."""
    document = _Document(path, text)
    try:
        if document.next() == "[":
            yield from document.array(None)
            if document.next():
                raise UserError(f"{path}: unexpected content after the end of the JSON array")
            return
        while document.next():
            start = document.position
            row = document.value()
            if _is_splits(row) and not document.next():
                document.position = start
                yield from document.splits()
            else:
                yield None, f"line {document.line}", row
    except UserError:
        raise
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else document.here
        raise UserError(f"{path}, line {line}: not JSON ({_reason(error)})") from error
    except RecursionError:
        raise UserError(f"{path}, line {document.line}: too deeply nested") from None


def _table(path: Path, text: str) -> Iterator[Row]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 2
    try:
        for row in reader:
            place = f"line {line}"
            if None in row:
                raise UserError(f"{path}, {place}: more fields than the header has")
            yield None, place, {k: v for k, v in row.items() if v is not None}
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not CSV ({error})") from error


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "reports", f"reading {path}") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield None, f"row {number}", row
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error
