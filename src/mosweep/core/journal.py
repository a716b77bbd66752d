"""The journal: what a sweep decided and saw, one JSON line per event, append-only.

The journal explains: who ran what when, why a stage failed, where its log is. It never decides what
is done; the store does. Losing it loses explanations, but no results.
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
        """Add one event; ``None`` fields are left out."""
        self.append_all([{"event": event, **fields}])

    def append_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add several events at once, each with its name under ``event``."""
        now = round(time.time(), 3)
        lines = (
            {"time": now, **{k: v for k, v in event.items() if v is not None}} for event in events
        )
        text = "".join(json.dumps(line, default=str, ensure_ascii=False) + "\n" for line in lines)
        data = text.encode(errors="backslashreplace")  # as JSON escapes it
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def read(self, event: str | None = None) -> Iterator[Mapping[str, Any]]:
        """All events, or those called ``event``, oldest first. Truncated lines are left out."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed below; bytes, for JSON leaves line ends such as U+2028 as they are
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
    """The event of a line. If a crash or a full disk cut one off, the next one is still read."""
    for start in (0, line.rfind('{"time": ')):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line[max(start, 0) :])
    return None
