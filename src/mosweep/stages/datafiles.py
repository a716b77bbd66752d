"""The files of a data set: brought into the form that every backend reads, and checked.

That is ``train.jsonl``, with a chat in each line, and a JSONL file for each other split.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mosweep.core.errors import UserError
from mosweep.core.files import write_whole
from mosweep.core.paths import cached_here

__all__ = ["TRAIN", "bring", "first_problem", "training_file", "write_training"]

TRAIN = "train.jsonl"

#: Endings of files with rows, and of compressed ones.
_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_PACKED = (".gz", ".bz2", ".xz")
#: Larger files are read by the data stage only, not when planning, in bytes.
_READ_WHEN_PLANNING = 16_000_000


def training_file(source: Path) -> Path:
    """The file with the training rows of a data set, which is a file or a folder.

    Raises ``UserError`` if a folder has none, or several.
    """
    if source.is_file():
        return source
    if (source / TRAIN).exists():
        return source / TRAIN
    files = sorted(path for path in source.iterdir() if path.is_file() and _ending(path))
    found = [path for path in files if path.name.startswith(("train.", "train-"))] or files
    if len(found) != 1:
        names = ", ".join(sorted(path.name for path in source.iterdir())) or "nothing"
        raise UserError(
            f"{source} has {names}: expected {TRAIN}, one other file with the name train, or one "
            "file with the splits"
        )
    return found[0]


def bring(source: Path, out: Path) -> None:
    """Write the user's data set to the new folder ``out``. A folder is copied with all its files.

    Raises ``UserError`` for a training row that no backend can train on.
    """
    train = training_file(source)
    if not source.is_dir():
        out.mkdir()
    else:
        shutil.copytree(source, out)
        if train.name != TRAIN:
            for other in source.iterdir():
                if other != train and _ending(other) == _ending(train):
                    _write_other(other, out)
    write_training(train, out)


def write_training(file: Path, out: Path) -> None:
    """Write the rows of ``file`` to ``out``: those to train on as chats, other splits as they are.

    A file that already has a chat in each line is copied as it is.
    """
    from mosweep.datasets.jsonl import placed
    from mosweep.datasets.reading import TRAINING, is_plain, splits_of

    plain = is_plain(file)
    if not (plain and all(row is found for _, row, found in placed(file))):
        others = {} if plain else splits_of(file)
        _write(out / TRAIN, file, ((place, row) for place, row, _ in placed(file)))
        for split, rows in others.items():
            if split != TRAINING:
                _write(out / f"{split}.jsonl", file, rows)
    elif not (out / TRAIN).exists():
        shutil.copyfile(file, out / TRAIN)


@cached_here
def first_problem(
    source: Path, digest: str, refuses: Callable[..., str | None] | None, *settings: Any
) -> str | None:
    """The first problem of the training rows in ``source``, with its file and place, or ``None``.

    ``refuses``: why a backend with ``settings`` does not take a chat, or ``None``. ``digest``
    distinguishes versions of the file. Large files are not read.
    """
    from mosweep.datasets.jsonl import placed

    try:
        file = training_file(source)
        if file.stat().st_size > _READ_WHEN_PLANNING:
            return None
        for place, row, _ in placed(file):
            if refuses is not None and (problem := refuses(row, *settings)):
                return f"{file.name}, {place}: {problem}"
    except UserError as error:
        return str(error).replace(f"{source.parent}/", "")
    return None


def _ending(path: Path) -> str | None:
    """The ending of a file with rows, or ``None``."""
    ends = [suffix.lower() for suffix in path.suffixes[-2:]]
    if ends and ends[-1] in _PACKED:
        ends = ends[:-1]
    return ends[-1] if ends and ends[-1] in _ENDINGS else None


def _write_other(file: Path, out: Path) -> None:
    """Write the rows of another split as JSONL, if it is not there and can be read."""
    from mosweep.datasets.reading import read_rows

    name = out / f"{file.name.partition('.')[0]}.jsonl"
    if not name.exists():
        try:
            _write(name, file, read_rows(file))
        except UserError:  # The task may read it in its own way.
            name.unlink(missing_ok=True)


def _write(path: Path, source: Path, rows: Iterable[tuple[str, Any]]) -> None:
    def lines() -> Iterable[str]:
        for place, row in rows:
            try:
                yield json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n"
            except ValueError as error:
                raise UserError(f"{source}, {place}: not JSON ({error})") from None

    write_whole(path, lines())
