"""Plain-text tables for terminals and log files, fast for thousands of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = ["format_table", "format_value", "one_line", "shortened", "some_of", "table_lines"]


#: What ends a line on some terminal.
_BREAKS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")


def format_value(value: Any) -> str:
    """The text of a cell: floats rounded, ``None`` as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if value != 0 and abs(value) < 0.001 else f"{value:.3f}"
    return str(value)


def format_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], longest: int | None = None
) -> str:
    """The table of ``rows`` under ``header``. Columns of numbers are aligned to the right.

    A row is one line: line breaks become a sign. Cells of more than ``longest`` characters are
    shortened to what tells them apart from the others of their column.
    """
    return "\n".join(table_lines(header, rows, longest))


def table_lines(
    header: Sequence[str], rows: Iterable[Sequence[Any]], longest: int | None = None
) -> Iterator[str]:
    """The lines of ``format_table``, for tables too long for one string."""
    cells = []
    right = [True] * len(header)
    for row in rows:
        cells.append(tuple(one_line(format_value(value)) for value in row))
        for index, value in enumerate(row):
            right[index] = right[index] and (value is None or isinstance(value, int | float))
    header = [one_line(title) for title in header]
    if longest is not None:
        header = shortened(header, longest)
        columns = [shortened(column, longest) for column in zip(*cells, strict=True)]
        cells = list(zip(*columns, strict=True))
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]
    template = "  ".join(
        f"{{:{'>' if r else '<'}{width}}}" for r, width in zip(right, widths, strict=True)
    )
    yield template.format(*header).rstrip()
    yield "  ".join("─" * width for width in widths)
    for row in cells:
        yield template.format(*row).rstrip()


def one_line(text: str) -> str:
    """``text`` without line breaks and other control characters."""
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\t", " ")
    return "".join("↵" if c in _BREAKS else c if c.isprintable() else "�" for c in text)


def shortened(texts: Sequence[str], longest: int) -> list[str]:
    """The ``texts``, each of at most ``longest`` characters, and still different from the others.

    A long text keeps its beginning. If others begin like it, it also shows where it first differs.
    """
    if all(len(text) <= longest for text in texts):
        return list(texts)
    distinct = sorted(set(texts))
    short: dict[str, str] = {}
    for index, text in enumerate(distinct):
        # The neighbours in sorted order share the most with it.
        near = [*distinct[max(0, index - 1) : index], *distinct[index + 1 : index + 2]]
        same = max((_common(text, other) for other in near), default=0)
        short[text] = _short(text, longest, same)
    taken = Counter(short.values())
    for number, (text, form) in enumerate(short.items()):
        if taken[form] > 1:
            short[text] = f"{form[: longest - 8]}…~{number}"
    return [short[text] for text in texts]


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _short(text: str, longest: int, same: int) -> str:
    if len(text) <= longest:
        return text
    if same < longest - 2:
        return f"{text[: longest - 1]}…"
    head = text[: longest // 3]
    rest = text[max(len(head), same - 5) :]
    room = longest - len(head) - 1
    return f"{head}…{rest}" if len(rest) <= room else f"{head}…{rest[: room - 1]}…"


def some_of(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first ``most`` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
