"""Reading an untrusted archive: as a stream, within limits, never unpacked.

Names and sizes in it are not trusted.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
from dataclasses import dataclass
from typing import IO, Any

from mosweep.archive.format import MANIFEST, Unreadable
from mosweep.archive.metrics import Scores

__all__ = ["MAX_BYTES", "MAX_RATIO", "File", "read_archive"]

#: Bytes that every archive may expand to.
MAX_BYTES = 1 << 30
#: Larger archives may expand to this multiple of their size. Real results stay below it.
MAX_RATIO = 200
#: Maximum text kept in memory, in bytes.
MAX_TEXT = 1 << 31
#: Maximum number of files.
MAX_FILES = 2_000_000
#: Maximum length of a name.
MAX_NAME = 2048

_CHUNK = 1 << 20


@dataclass
class File:
    """A file of the archive: digest and size, and text or scores if they are needed."""

    sha256: str
    size: int
    text: bytes | None = None
    scores: Scores | None = None


class _Guarded:
    """A decompressed stream that is read once, up to a limit, regardless of its headers.

    It can seek back by one byte, which ``tarfile`` needs.
    """

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self.file = file
        self.limit = limit
        self.position = 0
        self.last = b""
        self.again = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise Unreadable("a header is too long")
        data = self.again[:size] or self.file.read(size)
        self.again, self.last, self.position = b"", data[-1:], self.position + len(data)
        if self.position > self.limit:
            raise Unreadable("its files are too large")
        return data

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        if position == self.position - 1 and self.last:
            self.again, self.last, self.position = self.last, b"", position
        while self.position < position and self.read(min(_CHUNK, position - self.position)):
            pass
        return self.position


def read_archive(file: IO[bytes], limit: int) -> dict[str, File]:
    """The archive's files by their path in its only folder."""
    files: dict[str, File] = {}
    roots: set[str] = set()
    held = 0
    guarded: Any = _Guarded(gzip.GzipFile(fileobj=file), limit)
    with tarfile.open(fileobj=guarded, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # There may be millions.
            root, name = _placed(member)
            roots.add(root)
            if name in files:
                raise Unreadable(f"{name!r} occurs twice")
            if len(files) >= MAX_FILES:
                raise Unreadable("it has too many files")
            keep = name == MANIFEST or name.startswith(("sweep/", "store/records/"))
            held += member.size if keep else 0
            if held > MAX_TEXT:
                raise Unreadable("its text is too large")
            content = archive.extractfile(member)
            assert content is not None
            files[name] = _read(
                content, member.size, keep, Scores() if name.endswith("/samples.jsonl") else None
            )
    while guarded.read(_CHUNK):  # gzip checks its checksum at the end.
        pass
    if len(roots) != 1:
        raise Unreadable(f"it has {len(roots)} folders, and a bundle has one")
    return files


def _placed(member: tarfile.TarInfo) -> tuple[str, str]:
    """Folder and path of a member of the archive. Only plain files at plain paths are accepted."""
    parts = member.name.split("/")
    if (
        len(parts) < 2
        or len(member.name) > MAX_NAME
        or set(parts) & {"", ".", ".."}
        or re.search(r"[\\\x00-\x1f\x7f]", member.name)
    ):
        raise Unreadable(f"{member.name[:100]!r} is not a plain path")
    if (
        member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)
        or member.sparse is not None
        or member.size < 0
    ):
        raise Unreadable(f"{member.name[:100]!r} is not a plain file")
    return parts[0], "/".join(parts[1:])


def _read(content: IO[bytes], size: int, keep: bool, scores: Scores | None) -> File:
    digest, kept, length = hashlib.sha256(), [], 0
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        length += len(chunk)
        if keep:
            kept.append(chunk)
        if scores is not None:
            scores.feed(chunk)
    if length != size:
        raise Unreadable("it ends too early")
    if scores is not None:
        scores.close()
    return File(digest.hexdigest(), length, b"".join(kept) if keep else None, scores)
