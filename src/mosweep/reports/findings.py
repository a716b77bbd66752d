"""The findings of a report: the effects of a sweep as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mosweep.analysis.contrasts import CONTROL
from mosweep.analysis.effects import Effect
from mosweep.core.levels import level_text, setting_text
from mosweep.core.table import some_of
from mosweep.reports.content import Content
from mosweep.reports.page import Findings, Table, Text

__all__ = ["effects_section", "findings", "signed", "verdicts"]

#: Maximum number of findings.
FINDINGS = 10
#: Maximum number of verdicts in the first section.
VERDICTS = 4
#: Maximum number of notes per finding.
NOTES = 3
#: Maximum length of a note, in characters.
NOTE = 140
#: Maximum number of trial names in a sentence.
NAMES = 6

_VERBS = {"increase": "raises", "decrease": "lowers"}


def verdicts(content: Content) -> Iterator[str]:
    """One line per decided effect, then the names of the others."""
    effects = _ranked(content)
    decided = [effect for effect in effects if _is_decided(effect)]
    several = len({effect.metric for effect in effects}) > 1
    for effect in decided[:VERDICTS]:
        name = (
            "fine-tuned, against untouched"
            if str(effect.contrast) == "tuned vs control"
            else content.named(effect)
        )
        metric = f" on {effect.metric}" if several else ""
        estimate = f"{signed(effect.estimate or 0.0)} ({_interval(effect)})"
        yield f"{effect.verdict}: {name}: {estimate}{metric}"
    if len(decided) > VERDICTS:
        yield f"{len(decided) - VERDICTS} more increases, decreases or equivalences"
    if rest := [effect for effect in effects if not _is_decided(effect)]:
        yield f"not decisive: {some_of(list(dict.fromkeys(map(content.named, rest))), 3)}"


def findings(content: Content) -> Iterator[Text | Findings]:
    """The findings, decided effects first, and how to read them."""
    if content.problem:
        yield Text(f"Effects could not be computed: {content.problem}", warning=True)
    if content.contaminated:
        names = some_of(sorted(content.contaminated), NAMES)
        yield Text(
            f"Contaminated: the training data of {names} has more evaluation items than allowed.",
            warning=True,
        )
    if not content.effects:
        yield Text("No two groups of trials to compare.")
        return
    effects = _ranked(content)
    yield Findings([_finding(content, effect) for effect in effects[:FINDINGS]])
    if len(effects) > FINDINGS:
        yield Text(f"… and {len(effects) - FINDINGS} more comparisons, in the table of effects.")
    risk = 1 - effects[0].level
    yield Text(
        f"The chance of any false increase or decrease {_among(len(effects))} is at most "
        f"{risk:.0%} "
        "(Holm). “Not decisive” means that these trials cannot decide, not that there is no "
        "difference."
    )


def _among(count: int) -> str:
    return f"among these {count} comparisons" if count > 1 else "in this comparison"


def effects_section(content: Content) -> Iterator[Table]:
    """All effects as a table."""
    header = ["comparison", "verdict", "difference", "low", "high", "p (Holm)"]
    header += ["base", "level", "seeds", "items", "metric"]
    rows: list[list[Any]] = []
    for effect in content.effects:
        bounds = [
            None if bound is None else signed(bound)
            for bound in (effect.estimate, effect.low, effect.high)
        ]
        p = None if effect.p_holm is None else _chance(effect.p_holm)
        rows.append(
            [
                content.named(effect),
                effect.verdict,
                *bounds,
                p,
                *(effect.means or (None, None)),
                "/".join(map(str, effect.seeds)),
                effect.items,
                effect.metric,
            ]
        )
    if rows:
        yield Table(header, rows, "effects.csv has all, with notes")


def signed(value: float) -> str:
    """A difference: ``+0.123``, ``-0.045``, ``0.000``."""
    return f"{value:+.3f}".replace("-0.000", "0.000").replace("+0.000", "0.000")


def _ranked(content: Content) -> list[Effect]:
    """The effects, decided ones first."""
    return sorted(
        content.effects, key=lambda effect: (not _is_decided(effect), effect.estimate is None)
    )


def _is_decided(effect: Effect) -> bool:
    return effect.verdict in _VERBS or effect.verdict.startswith("equivalent")


def _finding(content: Content, effect: Effect) -> tuple[str, str, str]:
    """Verdict, sentence and certainty."""
    contrast, metric, notes = effect.contrast, effect.metric, _shortened(effect.notes)
    what = (
        "Fine-tuning the base model"
        if contrast.factor == CONTROL
        else f"Going from {contrast.factor}={level_text(contrast.base)} to "
        f"{level_text(contrast.level)}"
    )
    if contrast.at:
        what += f" at {setting_text(contrast.at, ', ')}"
    certainty = (
        ["exploratory: not in the first frozen design"] if content.is_exploratory(effect) else []
    )
    if effect.estimate is None or effect.means is None:
        sentence = f"{what}: nothing to compare on {metric}."
        return effect.verdict, sentence, "; ".join([*certainty, *notes])
    change = (
        f"{signed(effect.estimate)} ({_interval(effect)}), from {effect.means[0]:.3f} to "
        f"{effect.means[1]:.3f}"
    )
    if effect.verdict in _VERBS:
        sentence = f"{what} {_VERBS[effect.verdict]} {metric} by {change}."
    elif effect.verdict.startswith("equivalent"):
        sentence = f"{what} makes no difference to {metric} that matters: {change}."
    else:
        sentence = f"{what}: no decisive effect on {metric}; the estimate is {change}."
    if effect.p_holm is not None:
        certainty.append(f"p {_chance(effect.p_holm)}, adjusted for the number of comparisons")
    certainty.append(f"{effect.seeds[0]} against {effect.seeds[1]} seeds, {effect.items} items")
    if effect.mde is not None and effect.verdict not in _VERBS:
        certainty.append(f"a difference of {effect.mde:.3f} would be detected 4 times in 5")
    return effect.verdict, sentence, "; ".join([*certainty, *notes])


def _interval(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return "no interval"
    return f"{effect.level:.0%} interval {signed(effect.low)} to {signed(effect.high)}"


def _chance(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _shortened(notes: Sequence[str]) -> list[str]:
    """The first notes, truncated. The table of effects has all."""
    shown = [note if len(note) <= NOTE else f"{note[: NOTE - 1]}…" for note in notes[:NOTES]]
    more = len(notes) - NOTES
    return [*shown, f"{more} more notes in effects.csv"] if more > 0 else shown
