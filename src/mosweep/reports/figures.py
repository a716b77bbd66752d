"""The figures of a report: their data and their captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mosweep.analysis.contrasts import SEED
from mosweep.core.levels import level_text
from mosweep.core.results import TrialResult
from mosweep.reports import plots
from mosweep.reports.content import Content
from mosweep.reports.page import Figure

__all__ = ["STAMP", "draw"]

#: Maximum number of panels in the figure of scores.
PANELS = 8
#: Printed on figures whose numbers were not measured.
STAMP = "made up by the dummy backend"


def draw(content: Content) -> dict[str, Figure]:
    """The figures that have data, by name, in the order of the report."""
    figures = [
        *_effects(content),
        *_scores(content),
        *_interaction(content),
        *_loss(content),
    ]
    return {figure.name: figure for figure in figures}


def _stamp(content: Content) -> str:
    return STAMP if content.result.pretended else ""


def _effects(content: Content) -> Iterator[Figure]:
    estimated = [effect for effect in content.effects if effect.estimate is not None]
    if not estimated:
        return
    caption = (
        f"Differences with their {estimated[0].level:.0%} intervals, not adjusted for the number "
        "of comparisons. Filled dots: increase or decrease. Hollow dots: not decisive. Small dots: "
        "the same comparison at each level of the other factors."
    )
    if len(estimated) > plots.EFFECTS:
        caption += f" The first {plots.EFFECTS} of {len(estimated)} are shown."
    rows = [(content.named(effect), effect) for effect in estimated]
    yield Figure("effects", plots.draw_effects(rows, _stamp(content)), caption)


def _scores(content: Content) -> Iterator[Figure]:
    panels, dots, levels = [], 0, 0
    for metric in content.metrics:
        controls = [
            trial.metrics[metric]
            for trial in content.result.controls
            if math.isfinite(trial.metrics.get(metric, math.nan))
        ]
        control = sum(controls) / len(controls) if controls else None
        for factor in content.varied:
            values = _by_level(content, factor, metric, content.result.tuned)
            if values:
                levels = max(levels, len(values))
                dots = max(dots, sum(map(len, list(values.values())[: plots.LEVELS])))
                panels.append(plots.Points(factor, metric, values, control))
    if not panels:
        return
    caption = "A dot per trial. Bars are means. The dashed line is the mean of the control trials."
    if dots > plots.POINTS:
        caption += f" At most {plots.POINTS} of {dots} dots are shown in a panel."
    if levels > plots.LEVELS:
        caption += f" The first {plots.LEVELS} of {levels} levels of a factor are shown."
    if len(panels) > PANELS:
        caption += f" {PANELS} of {len(panels)} panels are shown."
    yield Figure("scores", plots.draw_scores(panels[:PANELS], _stamp(content)), caption)


def _by_level(
    content: Content, factor: str, metric: str, trials: Sequence[TrialResult]
) -> dict[str, list[float]]:
    """The trials' values of ``metric`` by their level of ``factor``."""
    values: dict[str, list[float]] = {level_text(level): [] for level in content.levels[factor]}
    for trial in trials:
        value = trial.metrics.get(metric, math.nan)
        if factor in trial.factors and math.isfinite(value):
            values[level_text(trial.factors[factor])].append(value)
    return {level: some for level, some in values.items() if some}


def _interaction(content: Content) -> Iterator[Figure]:
    treatments = [name for name in content.varied if name != SEED]
    if len(treatments) < 2 or not content.metrics:
        return
    (lines, x), metric = treatments[:2], content.metrics[0]
    trials: dict[str, list[TrialResult]] = {
        level_text(level): [] for level in content.levels[lines]
    }
    for trial in content.result.tuned:
        if lines in trial.factors:
            trials[level_text(trial.factors[lines])].append(trial)
    means = {
        line: {
            level: sum(values) / len(values)
            for level, values in _by_level(content, x, metric, some).items()
        }
        for line, some in trials.items()
    }
    if not any(means.values()):
        return
    caption = f"Means of {metric} by {x}, a line for each {lines}. Parallel lines: no interaction."
    if len(treatments) > 2 or SEED in content.levels:
        caption += " Averaged over all other factors."
    if len(means) > plots.LINES or len(content.levels[x]) > plots.LEVELS:
        caption += f" At most {plots.LINES} lines and {plots.LEVELS} levels are shown."
    drawn = plots.draw_interaction(x, lines, metric, means, _stamp(content))
    yield Figure("interaction", drawn, caption)


def _loss(content: Content) -> Iterator[Figure]:
    factor = content.varied[0] if content.varied else ""
    curves: dict[str, tuple[str, Sequence[Sequence[float]]]] = {}
    for trial in content.result.tuned:
        for stage in trial.stages:
            points = [
                point
                for point in stage.curves.get("loss", ())
                if stage.kind.tunes
                if point[1] is not None and math.isfinite(point[1])
            ]
            if points:
                curves.setdefault(stage.key, (level_text(trial.factors.get(factor, "")), points))
    if not curves:
        return
    shown = (
        f"{plots.CURVES} of {len(curves)} fine-tunes"
        if len(curves) > plots.CURVES
        else "All fine-tunes"
    )
    caption = f"{shown}: training loss by step" + (f", coloured by {factor}." if factor else ".")
    drawn = plots.draw_losses(list(curves.values()), factor, _stamp(content))
    yield Figure("loss", drawn, caption)
