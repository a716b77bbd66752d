"""Digests of the user's files, remembered between commands.

A large file is remembered by device, inode, size, modification and change time. A Python file is
remembered by its content, so that it is not parsed again. What is remembered can be deleted at any
time: it only saves work.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import time
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.files import write_whole
from mosweep.core.paths import home
from mosweep.core.sources import Import, Source, read_source

__all__ = ["content_digest", "file_digest", "source_of", "tree_digest"]

#: Smaller files are digested at every command, in bytes.
_LARGE = 1 << 20
#: A file that changed this recently may change again without another time, in nanoseconds.
_UNSETTLED = 2_000_000_000
#: Raise it when ``Source`` or the form of the syntax changes.
_VERSION = 2


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content. A large file is read again only after a change."""
    status = os.stat(path)
    if status.st_size < _LARGE:
        return fingerprint.digest_file(path)
    identity = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:"
    identity += str(status.st_ctime_ns)
    known = _memory().get(identity)
    if known is None:
        known = fingerprint.digest_file(path)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _UNSETTLED:
            _memory().put(identity, known)
    return str(known)


def tree_digest(folder: Path, names: list[str]) -> str:
    """One digest for the files ``names`` of ``folder``: ``fingerprint.digest_tree``, remembered."""
    return fingerprint.fingerprint({name: file_digest(folder / name) for name in sorted(names)})


def content_digest(path: Path) -> str:
    """The digest of a file, or of all files in a folder and below."""
    if path.is_file():
        return file_digest(path)
    names = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
    return tree_digest(path, names)


def source_of(path: Path) -> Source:
    """The Python file ``path``, as keys see it."""
    text = path.read_bytes()
    content = fingerprint.digest_bytes(text)
    known = _memory().get(content)
    if known is None:
        source = read_source(text)
        _memory().put(content, astuple(source))
        return source
    digest, imports, names, folders, lists, written = known
    return Source(
        digest,
        tuple(Import(module, tuple(taken), level) for module, taken, level in imports),
        tuple(names),
        tuple(folders),
        lists,
        tuple(written),
    )


class _Memory:
    """What is remembered in mosweep's home, if there is one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"digests-{_VERSION}.json"
        self.known: dict[str, Any] = {}
        self.new: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self.known = json.loads(self.path.read_bytes())

    def get(self, name: str) -> Any:
        return self.new.get(name) or self.known.get(name)

    def put(self, name: str, value: Any) -> None:
        self.new[name] = value

    def save(self) -> None:
        if self.new and self.path.parent.is_dir():
            latest: dict[str, Any] = {}
            with contextlib.suppress(OSError, ValueError):
                latest = json.loads(self.path.read_bytes())
            with contextlib.suppress(OSError):  # A full or read-only disk costs only time.
                write_whole(self.path, json.dumps(latest | self.new))


def _memory() -> _Memory:
    return _memory_in(home())


@cache
def _memory_in(folder: Path) -> _Memory:
    memory = _Memory(folder)
    atexit.register(memory.save)
    return memory
