"""A report as content (sections of blocks), and as one HTML page or one Markdown text.

The page is self-contained: no scripts, no requests. All text from a sweep is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mosweep.core.table import format_value
from mosweep.reports.plots import BLUE, FAINT, INK, ORANGE, PAPER

__all__ = ["Facts", "Figure", "Findings", "Report", "Section", "Table", "Text", "html", "markdown"]

#: Maximum number of rows shown of a table.
ROWS = 1000
#: A table with more rows than this is folded.
OPEN = 60


@dataclass(frozen=True)
class Text:
    """A paragraph. A ``warning`` is highlighted."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Key facts: pairs of a term and its value."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Findings:
    """Verdicts, each with a sentence and its certainty."""

    findings: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under a header. ``more`` names the file that has all of them."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot as SVG, with its file's name and a caption."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Text | Facts | Findings | Table | Figure]


@dataclass(frozen=True)
class Report:
    """A title, the sweep's description, and sections."""

    title: str
    description: str
    sections: Sequence[Section]


# -- HTML ------------------------------------------------------------------------------------------

_STYLE = """
:root{--ink:#1b1f24;--soft:#59636e;--faint:#d8dde3;--paper:#f5f6f8;--card:#fff;--accent:#0969a8;
--warn:#8a3b00;--warnpaper:#fff1e3;
--up:#0a5c92;--down:#a84300;--none:#59636e;--blue:#0072b2;--orange:#d55e00;
color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ed;--soft:#9aa5b1;--faint:#363d46;
--paper:#111418;--card:#1a1f25;--accent:#6cb8f0;
--warn:#ffc38a;--warnpaper:#3a2614;--up:#2f7fb8;--down:#c05a12;--none:#5d6874;
--blue:#4fb0ea;--orange:#ff9550}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.4rem 0;overflow-wrap:anywhere}
h2{font-size:1.12rem;margin:0 0 .6rem}
header p{margin:.2rem 0 1rem;color:var(--soft);font-size:1.05rem;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--faint);border-radius:.6rem;
padding:1rem 1.1rem;margin:0 0 1rem}
p{margin:.4rem 0;overflow-wrap:anywhere}
.warning{background:var(--warnpaper);color:var(--warn);border-radius:.4rem;padding:.5rem .8rem;
font-weight:600}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.3rem 1rem;margin:.4rem 0}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;white-space:pre-line}
ul{list-style:none;margin:.4rem 0;padding:0}
li{padding:.5rem 0;border-top:1px solid var(--faint);overflow-wrap:anywhere}
li:first-child{border-top:0}
.verdict{display:inline-block;border-radius:1rem;padding:0 .6rem;margin-right:.4rem;
font-size:.82rem;font-weight:600;color:#fff;
background:var(--none)}
.increase{background:var(--up)}.decrease{background:var(--down)}
small{display:block;color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto;margin:.5rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--faint);
white-space:nowrap;vertical-align:top}
th{color:var(--soft);font-weight:600}td.number,th.number{text-align:right}
td.long{white-space:normal;min-width:16rem;max-width:30rem;overflow-wrap:anywhere}
figure{margin:.5rem 0 1.2rem}
figure svg{display:block;width:100%;min-width:18rem;max-width:42rem;margin:0 auto;height:auto}
figcaption{color:var(--soft);font-size:.87rem}summary{cursor:pointer;color:var(--accent)}
@media(max-width:34rem){dl{grid-template-columns:minmax(0,1fr);gap:0}dd{margin-bottom:.5rem}
section{padding:.8rem}h1{font-size:1.4rem}}
@media print{body{background:none}section{border:0;padding:0}}
"""


def html(report: Report) -> str:
    """The page."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" '
        'href="data:,">',
        f"<title>{escape(report.title)} · "
        f"mosweep</title><style>{_STYLE}</style></head><body><main>",
        f"<header><h1>{escape(report.title)}</h1><p>{escape(report.description)}</p></header>",
    ]
    for section in report.sections:
        parts += [
            f"<section><h2>{escape(section.title)}</h2>",
            *map(_html, section.blocks),
            "</section>",
        ]
    return "\n".join([*parts, "</main></body></html>", ""])


def _html(block: Text | Facts | Findings | Table | Figure) -> str:
    match block:
        case Text(text, warning):
            return f"<p{' class=warning' if warning else ''}>{escape(text)}</p>"
        case Facts(pairs):
            return (
                "<dl>"
                + "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in pairs)
                + "</dl>"
            )
        case Findings(findings):
            return "<ul>" + "".join(_finding(*one) for one in findings) + "</ul>"
        case Figure(name, svg, caption):
            return (
                f'<figure><div class="wide">{_inline(name, svg, caption)}</div>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        case Table():
            return _table(block)


def _finding(verdict: str, sentence: str, certainty: str) -> str:
    kind = verdict if verdict in ("increase", "decrease") else "open"
    return (
        '<li><span class="verdict '
        f'{kind}">{escape(verdict)}</span>{escape(sentence)}<small>{escape(certainty)}</small></li>'
    )


def _inline(name: str, svg: str, caption: str) -> str:
    """The SVG for the page, with the page's colours and unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, ours in (
        (INK, "ink"),
        (FAINT, "faint"),
        (PAPER, "card"),
        (BLUE, "blue"),
        (ORANGE, "orange"),
    ):
        svg = svg.replace(colour, f"var(--{ours})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)


def _table(table: Table) -> str:
    rows = table.rows[:ROWS]
    columns = range(len(table.header))
    numbers = [
        all(row[n] is None or isinstance(row[n], int | float) or _is_number(row[n]) for row in rows)
        for n in columns
    ]
    mark = ['class="number"' if number else "" for number in numbers]
    lines = [
        "<table><thead><tr>",
        *(f"<th {mark[n]}>{escape(table.header[n])}</th>" for n in columns),
        "</tr></thead><tbody>",
    ]
    for row in rows:
        cells = (format_value(value) for value in row)
        lines.append(
            "<tr>"
            + "".join(
                f"<td {mark[n] or _long(cell)}>{escape(cell)}</td>" for n, cell in enumerate(cells)
            )
            + "</tr>"
        )
    text = f'<div class="wide">{"".join(lines)}</tbody></table></div>'
    if len(rows) > OPEN:
        text = f"<details><summary>{len(rows)} rows</summary>{text}</details>"
    return text + "".join(f"<p>{escape(line)}</p>" for line in _rest(table))


def _is_number(cell: Any) -> bool:
    return (
        isinstance(cell, str)
        and re.fullmatch(r"|<?[-+]?\d+(\.\d+)?(e-?\d+)?( ± \d.*)?", cell) is not None
    )


def _long(cell: str) -> str:
    return 'class="long"' if len(cell) > 44 else ""


def _rest(table: Table) -> Iterator[str]:
    if len(table.rows) > ROWS:
        yield f"… and {len(table.rows) - ROWS} more" + (f": {table.more}" if table.more else "")


# -- Markdown --------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The report as Markdown, without plots."""
    lines = [f"# {_plain(report.title)}", ""]
    lines += [_plain(report.description), ""] if report.description else []
    for section in report.sections:
        blocks = [block for block in section.blocks if not isinstance(block, Figure)]
        if blocks:
            lines += [f"## {_plain(section.title)}", ""]
        for block in blocks:
            lines += [*_markdown(block), ""]
    return "\n".join(lines)


def _markdown(block: Text | Facts | Findings | Table) -> Iterable[str]:
    match block:
        case Text(text, warning):
            return [f"**{_plain(text)}**" if warning else _plain(text)]
        case Facts(pairs):
            return [f"- {word}: {_plain('; '.join(text.splitlines()))}" for word, text in pairs]
        case Findings(findings):
            return [
                f"- **{_plain(verdict)}**: {_plain(sentence)}"
                + (f" ({_plain(notes)})" if notes else "")
                for verdict, sentence, notes in findings
            ]
        case Table(header, rows):
            lines = [
                header,
                ["---"] * len(header),
                *([format_value(value) for value in row] for row in rows[:ROWS]),
            ]
            return [
                *("| " + " | ".join(map(_plain, line)) + " |" for line in lines),
                *(f"\n{line}" for line in _rest(block)),
            ]


def _plain(text: str) -> str:
    """The text on one line, escaped for Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split())) if text != "---" else text
