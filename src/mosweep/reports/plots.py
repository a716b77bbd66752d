"""The plots of a report, as SVG text. The same numbers give the same text.

matplotlib is loaded when something is drawn, not before.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mosweep.analysis.effects import BlockEffect, Effect

__all__ = [
    "BLUE",
    "FAINT",
    "INK",
    "ORANGE",
    "PAPER",
    "Points",
    "draw_effects",
    "draw_interaction",
    "draw_losses",
    "draw_scores",
    "evenly",
]

#: Colours, which a page replaces with its own. Text and axes:
INK = "#1b1f24"
#: Grid lines:
FAINT = "#c9ced6"
#: Background:
PAPER = "#fffffe"
#: Data:
BLUE = "#0072b2"
ORANGE = "#d55e00"
_COLOURS = (BLUE, ORANGE, "#009e73", "#b8609a", "#c98a00", "#3f9fd6", "#7a6ff0", "#808890")
_WIDTH = 5.2
_LABEL = 36
#: Maximum number of rows of effects.
EFFECTS = 40
#: Maximum number of dots in a panel.
POINTS = 300
#: Maximum number of curves in a plot.
CURVES = 60
#: Maximum number of points of a curve.
STEPS = 200
#: Maximum number of levels of a factor.
LEVELS = 12
#: Maximum number of lines in a plot.
LINES = 8


@dataclass(frozen=True)
class Points:
    """Scores in one panel: the values at each level of ``factor``.

    ``control`` is the mean of the control trials.
    """

    factor: str
    metric: str
    values: Mapping[str, Sequence[float]]
    control: float | None = None


def evenly(items: Sequence[Any], most: int) -> Sequence[Any]:
    """At most ``most`` of the items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def draw_effects(effects: Sequence[tuple[str, Effect]], stamp: str = "") -> str:
    """Estimates with their intervals, a row per named effect.

    Dots are filled where the verdict is a difference, and small for single blocks.
    """
    metrics = {effect.metric for _, effect in effects}
    rows: list[tuple[str, Effect | BlockEffect, str]] = []
    parts = len(effects) + sum(len(effect.blocks) for _, effect in effects) <= EFFECTS
    for name, effect in effects[:EFFECTS]:
        rows.append(
            (f"{name} · {effect.metric}" if len(metrics) > 1 else name, effect, effect.verdict)
        )
        if parts and len(effect.blocks) > 1:
            rows += [(f"at {block.name}", block, "") for block in effect.blocks]
    with _figure(0.8 + 0.36 * len(rows), stamp) as (figure, out):
        axes = figure.subplots()
        colour = _COLOURS[-1]
        for place, (name, one, verdict) in enumerate(rows):
            if verdict:
                colour = {"increase": BLUE, "decrease": ORANGE}.get(verdict, _COLOURS[-1])
            width, size = (2.2, 6.5) if verdict else (1, 4)
            if one.low is not None and one.high is not None:
                axes.plot(
                    [one.low, one.high],
                    [place, place],
                    color=colour,
                    linewidth=width,
                    solid_capstyle="round",
                )
            inside = colour if verdict in ("increase", "decrease") else PAPER
            axes.plot(
                [one.estimate or 0.0],
                [place],
                "o",
                color=colour,
                markersize=size,
                markerfacecolor=inside,
                zorder=3,
            )
            text = axes.text(
                0,
                place - 0.4,
                _cut(name, 70),
                transform=axes.get_yaxis_transform(),
                va="center",
                zorder=4,
            )
            text.set_fontsize(8.5 if verdict else 7.5)
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.6, -0.8)
        axes.set_xlabel(
            f"difference in {_cut(next(iter(metrics)))}"
            if len(metrics) == 1
            else "difference in score"
        )
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
    return out.text


def draw_scores(panels: Sequence[Points], stamp: str = "") -> str:
    """A panel per metric and factor.

    It has a dot per trial, a bar at the mean of each level, and a dashed line at the mean of the
    control trials.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(0.4 + 2.4 * rows, stamp) as (figure, out):
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            levels = list(panel.values)[:LEVELS]
            share = max(2, POINTS // max(1, len(levels)))
            for place, level in enumerate(levels):
                values = panel.values[level]
                shown = evenly(sorted(values), share)
                spots = [place + 0.28 * ((n * 0.618034) % 1 - 0.5) for n in range(len(shown))]
                axes.plot(
                    spots, shown, "o", color=_COLOURS[0], alpha=0.6, markersize=4, markeredgewidth=0
                )
                mean = sum(values) / len(values)
                axes.plot(
                    [place - 0.26, place + 0.26],
                    [mean, mean],
                    color=_COLOURS[1],
                    linewidth=2.2,
                    solid_capstyle="round",
                )
            if panel.control is not None:
                axes.axhline(
                    panel.control, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0
                )
            _levels(axes, levels)
            axes.set_xlabel(_cut(panel.factor))
            axes.set_ylabel(_cut(panel.metric))
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
    return out.text


def draw_interaction(
    x: str, lines: str, metric: str, means: Mapping[str, Mapping[str, float]], stamp: str = ""
) -> str:
    """Mean scores by the level of ``x``, a line for each level of ``lines``.

    Parallel lines mean no interaction.
    """
    with _figure(3.1, stamp) as (figure, out):
        axes = figure.subplots()
        levels = list(dict.fromkeys(level for of_line in means.values() for level in of_line))[
            :LEVELS
        ]
        for number, (name, of_line) in enumerate(list(means.items())[:LINES]):
            places = [place for place, level in enumerate(levels) if level in of_line]
            axes.plot(
                places,
                [of_line[levels[place]] for place in places],
                "o-",
                color=_COLOURS[number],
                label=_cut(name),
                markersize=5,
            )
        _levels(axes, levels)
        axes.set_xlabel(_cut(x))
        axes.set_ylabel(f"mean {_cut(metric)}")
        _legend(axes, lines)
    return out.text


def draw_losses(
    curves: Sequence[tuple[str, Sequence[Sequence[float]]]], title: str, stamp: str = ""
) -> str:
    """Loss by step. Each curve has the name of its group, which sets its colour."""
    groups = list(dict.fromkeys(group for group, _ in curves))
    with _figure(3.3, stamp) as (figure, out):
        axes = figure.subplots()
        named = set()
        for group, points in evenly(curves, CURVES):
            number = groups.index(group)
            label = _cut(group) if group not in named and number < len(_COLOURS) else None
            named.add(group)
            steps = evenly(points, STEPS)
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(
                [point[0] for point in steps],
                [point[1] for point in steps],
                color=colour,
                alpha=0.7,
                linewidth=1.1,
                label=label,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        if len(groups) > 1:
            _legend(axes, title)
    return out.text


class _Out:
    text = ""


@contextmanager
def _figure(height: float, stamp: str) -> Iterator[tuple[Figure, _Out]]:
    """An empty figure, and its SVG on exit.

    The SVG has no dates and no random ids, and does not depend on the user's matplotlib settings.
    """
    import matplotlib
    from matplotlib.figure import Figure

    out = _Out()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser that shows the SVG has the font.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "mosweep",
                "svg.fonttype": "none",
                "text.parse_math": False,
                "font.size": 9,
                "font.family": "sans-serif",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.edgecolor": FAINT,
                "axes.axisbelow": True,
                **dict.fromkeys(
                    ["text.color", "axes.labelcolor", "xtick.color", "ytick.color"], INK
                ),
                **dict.fromkeys(["figure.facecolor", "axes.facecolor", "savefig.facecolor"], PAPER),
            }
        )
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, out
        if stamp:
            figure.supxlabel(stamp, fontsize=8, color=_COLOURS[1])
        file = io.StringIO()
        figure.savefig(
            file, format="svg", metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"])
        )
    out.text = re.sub(r"[ \t]+\n", "\n", file.getvalue())


def _levels(axes: Axes, levels: Sequence[str]) -> None:
    long = sum(map(len, levels)) > 28
    axes.set_xticks(
        range(len(levels)),
        [_cut(level, 18) for level in levels],
        rotation=30 if long else 0,
        ha="right" if long else "center",
    )
    axes.set_xlim(-0.6, len(levels) - 0.4)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.tick_params(axis="x", length=0)


def _legend(axes: Axes, title: str) -> None:
    axes.legend(title=_cut(title), frameon=False, fontsize=8, title_fontsize=8)


def _cut(text: Any, most: int = _LABEL) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
