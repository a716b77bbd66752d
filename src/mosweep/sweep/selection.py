"""Which trials and stages of a sweep a command is about: ``--trials``, ``--stage`` and
``--force``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from mosweep.core.errors import UserError, choices
from mosweep.core.types import Stage, Trial, unique_stages

__all__ = ["forced", "select_stages", "select_trials", "with_stages"]

_EXPRESSION = re.compile(r"([\w./@-]+?)\s*(>=|<=|!=|==|=|>|<)\s*(.+)")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    ">": lambda a, b: bool(a > b),
    "<": lambda a, b: bool(a < b),
    ">=": lambda a, b: bool(a >= b),
    "<=": lambda a, b: bool(a <= b),
}


def select_trials(trials: Sequence[Trial], wanted: Sequence[str]) -> list[Trial]:
    """The trials that any of ``wanted`` means; all if nothing is wanted.

    Each is a name or glob (``model=tiny,*``), names separated by commas, or conditions on factors,
    separated by commas, all of which have to hold (``model=tiny,lora.rank>=16``). ``UserError`` for
    one that means no trial.
    """
    if not wanted:
        return list(trials)
    names: set[str] = set()
    for text in wanted:
        found = _meant(trials, text)
        if not found:
            factors = sorted({factor for trial in trials for factor in trial.factors})
            known = choices(text, [trial.name for trial in trials], limit=6)
            raise UserError(
                f"--trials {text}: means no trial of the sweep; {known}; factors: "
                f"{', '.join(factors)}"
            )
        names |= found
    return [trial for trial in trials if trial.name in names]


def _meant(trials: Sequence[Trial], text: str) -> set[str]:
    exact = {trial.name for trial in trials if fnmatchcase(trial.name, text)}
    if exact:
        return exact
    parts = [part.strip() for part in text.split(",")]
    conditions = [_EXPRESSION.fullmatch(part) for part in parts]
    factors = {factor for trial in trials for factor in trial.factors}
    if all(condition and condition[1] in factors for condition in conditions):
        asked = [
            (condition[1], condition[2], condition[3]) for condition in conditions if condition
        ]
        return {
            trial.name
            for trial in trials
            if all(_holds(trial.factors, *condition) for condition in asked)
        }
    each = [{trial.name for trial in trials if fnmatchcase(trial.name, part)} for part in parts]
    return set().union(*each) if all(each) else set()


def _holds(factors: Mapping[str, Any], factor: str, relation: str, text: str) -> bool:
    if factor not in factors:
        return False
    level = factors[factor]
    if isinstance(level, bool) or not isinstance(level, int | float):
        return relation in ("=", "==", "!=") and _COMPARE[relation](
            str(level).lower(), text.strip().lower()
        )
    try:
        return _COMPARE[relation](level, float(text))
    except ValueError:
        raise UserError(f"--trials {factor}{relation}{text}: {factor} is a number") from None


def select_stages(
    trials: Sequence[Trial], wanted: Collection[str], done: Callable[[str], bool]
) -> list[Trial]:
    """The trials with only those stages whose kind or label is ``wanted``, and the data and models
    that they need.

    ``UserError`` where a wanted stage needs another, not wanted, that is not ``done``.
    """
    if not wanted:
        return list(trials)
    known = {
        name: None
        for stage in unique_stages(trials).values()
        for name in (stage.kind.name, stage.label)
    }
    for name in wanted:
        if name not in known:
            raise UserError(f"--stage {name}: the sweep has no such stage; {choices(name, known)}")
    selected = []
    for trial in trials:
        mine = tuple(
            stage for stage in trial.stages if {stage.kind.name, stage.label} & set(wanted)
        )
        chosen = {stage.key for stage in mine}
        for stage in mine:
            for need in stage.needs.values():
                if need.key not in chosen and not need.kind.given and not done(need.key):
                    raise UserError(
                        f"--stage {','.join(wanted)}: {stage.label} of {trial.name} needs its "
                        f"{need.label}, which has not run yet; "
                        f"run that first, or select it too"
                    )
        if mine:
            selected.append(replace(trial, stages=mine))
    return selected


def forced(
    all_trials: Sequence[Trial], selected: Sequence[Trial], wanted: Collection[str]
) -> dict[str, Stage]:
    """What ``--force`` redoes, by key: the selected stages, and of all trials what depends on them;
    all else stays.

    Of trials that are selected without saying which stages, data and models stay: other trials
    share them.
    """
    shared = len(selected) != len(all_trials)
    again = {
        stage.key
        for trial in selected
        for stage in trial.stages
        if (
            {stage.kind.name, stage.label} & set(wanted)
            if wanted
            else not (shared and stage.kind.given)
        )
    }
    redo: dict[str, Stage] = {}
    for key, stage in unique_stages(all_trials).items():
        if key in again or any(need.key in redo for need in stage.needs.values()):
            redo[key] = stage
    return redo


def with_stages(
    trials: Sequence[Trial], selected: Sequence[Trial], more: Collection[str]
) -> list[Trial]:
    """The selected trials, and of all trials also the stages whose keys are in ``more``."""
    chosen = {trial.name: {stage.key for stage in trial.stages} for trial in selected}
    kept = [
        replace(
            trial,
            stages=tuple(
                stage
                for stage in trial.stages
                if stage.key in more or stage.key in chosen.get(trial.name, ())
            ),
        )
        for trial in trials
    ]
    return [trial for trial in kept if trial.stages]
