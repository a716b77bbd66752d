"""The journal: an append-only file with one JSON line per event of a sweep.

The journal explains: what ran when and where, why a stage failed, where its log is. It must not
decide whether a stage is done: only the store does. Losing the journal loses explanations, but no
results.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


@dataclass(frozen=True)
class Journal:
    """The journal in file ``path``. Many processes may append at once, each with one ``write``."""

    path: Path

    def append(self, event: str, **fields: Any) -> None:
        """Add one event. Fields that are ``None`` are left out."""
        self.append_all([{"event": event, **fields}])

    def append_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add several events in one write, each with its name under ``event``."""
        now = round(time.time(), 3)
        lines = (
            {"time": now, **{k: v for k, v in event.items() if v is not None}} for event in events
        )
        text = "".join(json.dumps(line, default=str, ensure_ascii=False) + "\n" for line in lines)
        data = text.encode(errors="backslashreplace")  # Lone surrogates, escaped as in JSON.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def read(self, event: str | None = None) -> Iterator[Mapping[str, Any]]:
        """All events, or those called ``event``, oldest first. Truncated lines are skipped."""
        try:
            # Read as bytes, so that only lines that may match are decoded.
            file = open(self.path, "rb")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return
        mark = f'"event": "{event}"'.encode() if event else b""
        with file:
            for line in file:
                if mark not in line:
                    continue
                parsed = _parsed(line.decode(errors="replace"))
                if isinstance(parsed, dict) and parsed.get("event") == (
                    event or parsed.get("event")
                ):
                    yield parsed


def _parsed(line: str) -> Any:
    """The event of a line. If a crash or a full disk cut it off, the event after it is read."""
    for start in (0, line.rfind('{"time": ')):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line[max(start, 0) :])
    return None
