"""Finished work by its content: by what a stage read, rather than by which stages it came from.

A stage's key follows from the keys of its inputs, so it is known before they exist. But an edited
``data.py`` may build the same data set. Then everything after it has a new key, and the same
content. This index finds the finished result by that.

The index is one text file per shard. It is only a help: a lost line costs a repetition, and a line
whose record is gone is ignored. Beside it are the names of the files behind each digest of code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mosweep.core.files import write_whole
from mosweep.core.fingerprint import fingerprint

__all__ = ["Contents", "Entry", "code_in", "content_of"]

#: The field of a work with the digest of the user's code, as ``task_code.code_digest`` has it.
CODE = "code"


def content_of(payload: Mapping[str, Any], reads: Mapping[str, Any]) -> str:
    """The identity of a stage by content. ``reads`` is what it reads from each input, by role."""
    return fingerprint({**payload, "inputs": reads})


def code_in(payload: Mapping[str, Any]) -> str | None:
    """The digest of the user's code that a stage runs, if it runs any."""
    code = payload.get(CODE) or payload["config"].get(CODE)
    return str(code) if code else None


def _without_code(value: Any) -> Any:
    """``value`` without digests of code, also those of the works within a work."""
    if not isinstance(value, Mapping):
        return value
    return {name: _without_code(inner) for name, inner in value.items() if name != CODE}


class Entry(NamedTuple):
    """One finished stage.

    - ``likeness``: its identity apart from its inputs and the user's code
    - ``shape``: its identity apart from its inputs
    - ``content``: ``content_of``
    """

    likeness: str
    shape: str
    content: str
    key: str


@dataclass
class Contents:
    """The index in ``folder``."""

    folder: Path
    _read: dict[Path, tuple[tuple[int, int], list[Entry]]] = field(default_factory=dict)
    _latest: tuple[Mapping[str, Any], str, str] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was ever added."""
        return not self.folder.is_dir()

    def add(self, payload: Mapping[str, Any], content: str, key: str) -> None:
        """Add a finished stage."""
        shape, likeness = self._names(payload)
        path = self._path(likeness)
        line = " ".join((likeness, shape, content, key))
        try:
            _append(path, line)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, line)

    def find(self, payload: Mapping[str, Any], content: str) -> Iterator[str]:
        """The keys of finished stages with this content, latest first."""
        likeness = "" if self.empty else self._names(payload)[1]
        yield from (entry.key for entry in self._like(likeness) if entry.content == content)

    def has_shape(self, payload: Mapping[str, Any]) -> bool:
        """Whether such a stage has finished with any inputs."""
        if self.empty:
            return False
        shape, likeness = self._names(payload)
        return any(entry.shape == shape for entry in self._like(likeness))

    def like(self, payload: Mapping[str, Any]) -> list[Entry]:
        """Finished stages that differ at most in inputs and the user's code, latest first."""
        return [] if self.empty else list(self._like(self._names(payload)[1]))

    def forget(self, content: str, payload: Mapping[str, Any]) -> None:
        """Find this content no more: it is to be computed again."""
        path = self._path(self._names(payload)[1])
        try:
            lines = path.read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return
        write_whole(path, "".join(line for line in lines if f" {content} " not in line))

    def _names(self, payload: Mapping[str, Any]) -> tuple[str, str]:
        """Shape and likeness. Those of the latest payload are kept: it is looked up, then added."""
        if self._latest is None or self._latest[0] is not payload:
            shaped = {**payload, "inputs": sorted(payload["inputs"])}
            bare, shape = _without_code(shaped), fingerprint(shaped)
            self._latest = payload, shape, shape if bare == shaped else fingerprint(bare)
        return self._latest[1], self._latest[2]

    def keep_sources(self, code: str, files: Mapping[str, str]) -> None:
        """Keep which files the digest ``code`` covers, to say later which of them changed."""
        path = self._sources(code)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(dict(files)))

    def sources(self, code: str) -> Mapping[str, str]:
        """The files behind the digest ``code``, each with its digest; none if unknown."""
        try:
            files: Mapping[str, str] = json.loads(self._sources(code).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return files

    def _sources(self, code: str) -> Path:
        return self.folder / "code" / f"{code}.json"

    def _like(self, likeness: str) -> Iterator[Entry]:
        return (
            entry
            for entry in reversed(self._entries(self._path(likeness)))
            if entry.likeness == likeness
        )

    def _path(self, likeness: str) -> Path:
        return self.folder / likeness[:2]

    def _entries(self, path: Path) -> list[Entry]:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return []
        state = (status.st_mtime_ns, status.st_size)
        known = self._read.get(path)
        if known is None or known[0] != state:
            lines = (line.split() for line in path.read_text().splitlines())
            known = self._read[path] = state, [Entry(*line) for line in lines if len(line) == 4]
        return known[1]


def _append(path: Path, line: str) -> None:
    # One write of a short line: lines of other processes stay whole.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
