"""Plain-text tables for terminals and log files, fast for thousands of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = ["format_table", "format_value", "some_of", "table_lines"]


def format_value(value: Any) -> str:
    """The text of a cell: floats rounded, ``None`` as nothing."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if value != 0 and abs(value) < 0.001 else f"{value:.3f}"
    return str(value)


def format_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The table of ``rows`` under ``header``. Columns of numbers are aligned to the right."""
    return "\n".join(table_lines(header, rows))


def table_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The lines of ``format_table``, for tables too long for one string."""
    cells = []
    right = [True] * len(header)
    for row in rows:
        cells.append(tuple(format_value(value) for value in row))
        for index, value in enumerate(row):
            right[index] = right[index] and (value is None or isinstance(value, int | float))
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]
    template = "  ".join(
        f"{{:{'>' if r else '<'}{width}}}" for r, width in zip(right, widths, strict=True)
    )
    yield template.format(*header).rstrip()
    yield "  ".join("─" * width for width in widths)
    for row in cells:
        yield template.format(*row).rstrip()


def some_of(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first ``most`` names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
