"""Standard streams that can write any text, whatever their encoding is."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import Any

__all__ = ["json_line", "write_any_text", "write_utf8"]

#: What a terminal without these signs shows instead.
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("─├└", "-"),
        **{"│": "|", "…": "...", "·": "-", "→": "->", "←": "<-", "×": "x", "≥": ">=", "≤": "<="},
        **{"±": "+/-", "²": "^2", "⁴": "^4", "Δ": "delta", "√": "sqrt", "π": "pi", "✗": "x"},
        **{"“": '"', "”": '"', "’": "'", "↵": "\\n"},
    }
)
_ERRORS = "mosweep-plain"


def write_any_text() -> None:
    """Let standard output and standard error replace what their encoding does not have.

    Lines and signs become similar ones, and other characters their escape, so that they remain
    distinct.
    """
    codecs.register_error(_ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def write_utf8() -> None:
    """Let standard output and standard error of this process and its children write UTF-8.

    For processes whose output goes to logs, not to a terminal.
    """
    os.environ["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def json_line(data: Any, indent: int | None = None) -> str:
    """``data`` as JSON that standard output can write without losing anything."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding)
    except (UnicodeEncodeError, AttributeError):  # Standard output may be closed, or no file.
        return json.dumps(data, indent=indent, default=str)
    return text


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    plain = text.encode(error.encoding, errors="backslashreplace")
    return plain.decode(error.encoding), error.end
