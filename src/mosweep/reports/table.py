"""Plain-text tables: quick for thousands of rows, readable in a log file, numbers aligned right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["format_table", "format_value"]


def format_value(value: Any) -> str:
    """A cell: floats with four significant digits, nothing for ``None``."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if value != 0 and abs(value) < 0.001 else f"{value:.3f}"
    return str(value)


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """``rows`` under ``header``, columns separated by two spaces; a column of numbers is aligned right."""
    cells = [[format_value(value) for value in row] for row in rows]
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(header)]
    right = [all(row[i] is None or isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    template = "  ".join(f"{{:{'>' if r else '<'}{width}}}" for r, width in zip(right, widths, strict=True))
    lines = [template.format(*header), "  ".join("─" * width for width in widths)]
    lines += [template.format(*row) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
