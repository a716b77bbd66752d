"""Atomic writing of files, so that a reader sees the old or the new one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["replacing", "write_synced", "write_whole"]


def write_whole(path: Path, content: str | bytes | Iterable[str], *, durable: bool = False) -> None:
    """Write or replace a file in one step. Text is UTF-8 and may come in parts.

    With ``durable`` the file is on disk when this returns, even if the machine then loses power.
    """
    with replacing(path) as temporary:
        if durable:
            write_synced(temporary, content)
        else:
            with open(temporary, "wb") as file:
                file.writelines(_encoded(content))
    if durable:
        _sync_folder(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` at the end.

    After an exception the temporary file is removed and ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write a file in place, and wait until its content is on disk."""
    with open(path, "wb") as file:
        file.writelines(_encoded(content))
        file.flush()
        os.fsync(file.fileno())


def _encoded(content: str | bytes | Iterable[str]) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, str):
        yield content.encode()
    else:
        yield from (part.encode() for part in content)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
