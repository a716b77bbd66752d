"""The line that says what went wrong, out of an exception, its message or a log.

It is rarely the last one: libraries add advice, links and tracebacks of their own end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from mosweep.core.errors import MosweepError

__all__ = ["decisive_line", "raised_in", "reason_of"]

#: The longest reason, in characters.
LONGEST = 300

_TRACEBACK = re.compile(r"Traceback \(most recent call last\):$")
_CAUSE = "The above exception was the direct cause of the following exception:"
#: Exceptions that only say that another process failed, whose own error is further up.
_MESSENGERS = re.compile(
    r"^(?:\w+\.)*(?:CalledProcessError|ChildFailedError|ProcessExitedException)\b"
)
_PYDANTIC = re.compile(r"(\d+) validation errors? for (.+)")
_MARKUP = re.compile(r"\[/?(?:bold|italic|dim|blue|red|green|yellow|cyan|white)(?: \w+)*\]")
_NAME = re.compile(r"^(?:[A-Za-z_]\w*\.)+(?=[A-Z_]\w*(?::|$))")


def reason_of(error: BaseException) -> str:
    """Why ``error`` was raised: its name and decisive line, its first note, and its cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    line = decisive_line(str(error))
    if isinstance(error, MosweepError):
        return line or type(error).__name__
    reason = f"{type(error).__name__}: {line}" if line else type(error).__name__
    notes = [decisive_line(str(note)) for note in getattr(error, "__notes__", ())]
    reason += f" ({notes[0]})" if notes else ""
    if (cause := error.__cause__) is not None and decisive_line(str(cause)) not in reason:
        reason += f" (because of {type(cause).__name__}: {decisive_line(str(cause))})"
    return _short(reason)


def decisive_line(message: str) -> str:
    """The line of an error's ``message`` that says what is wrong, and where."""
    message = _MARKUP.sub("", message)
    if any(_TRACEBACK.match(line.strip()) for line in message.splitlines()):
        return raised_in(message) or ""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if (found := _PYDANTIC.search(line)) and len(lines) > index + 2:
            place, problem = lines[index + 1], lines[index + 2].partition(" [type=")[0]
            more = f" (and {int(found[1]) - 1} more)" if int(found[1]) > 1 else ""
            return _short(f"{line}: {place}: {problem}{more}")
    if not lines:
        return ""
    first, rest = lines[0], lines[1:]
    if first.startswith("ERROR: ") and rest:
        first, rest = f"{first.removeprefix('ERROR: ')}:", rest
    return _short(f"{first} {rest[0]}" if first.endswith(":") and rest else first)


def raised_in(log: str) -> str | None:
    """The exception that the last traceback in ``log`` ends with. ``None`` if there is none.

    Exceptions that Python ignored, and those that only report another process's, count last.
    """
    raised = [text for text, ignored in _exceptions(log) if not ignored]
    chosen = [text for text in raised if not _MESSENGERS.match(text)] or raised
    return _NAME.sub("", decisive_line(chosen[-1])) if chosen else None


def _exceptions(log: str) -> Iterator[tuple[str, bool]]:
    """The text of each exception with a traceback, with its cause, and whether it was ignored."""
    lines = log.replace("\r", "\n").split("\n")
    begins = [index for index, line in enumerate(lines) if _TRACEBACK.match(line.strip())]
    cause = ""
    for begin, end in itertools.pairwise([*begins, len(lines)]):
        prefix = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
        block = [line.removeprefix(prefix) for line in lines[begin + 1 : end]]
        start = next((i for i, line in enumerate(block) if line and not line[0].isspace()), None)
        if start is None:
            continue
        ignored = begin > 0 and lines[begin - 1].startswith("Exception ignored")
        text = "\n".join(block[start:])
        first = decisive_line(block[start])
        yield text if not cause else f"{decisive_line(text)} (because of {cause})", ignored
        cause = _NAME.sub("", first) if _CAUSE in text else ""


def _short(line: str) -> str:
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "…"
