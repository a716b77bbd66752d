"""Select trials and stages of a sweep: ``--trials``, ``--stage`` and ``--force``."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from mosweep.core.errors import UserError, choices
from mosweep.core.levels import level_text
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
    """The trials that match any of ``wanted``, or all trials if it is empty.

    Each item is a name or glob (``model=tiny,*``), names separated by commas, or conditions on
    factors separated by commas, which must all hold (``model=tiny,lora.rank>=16``). ``UserError``
    if an item matches no trial.
    """
    if not wanted:
        return list(trials)
    names: set[str] = set()
    for text in wanted:
        matching = _matching(trials, text)
        if not matching:
            factors = sorted({factor for trial in trials for factor in trial.factors})
            valid = choices(text, [trial.name for trial in trials], limit=6)
            raise UserError(
                f"--trials {text}: matches no trial of the sweep; {valid}; factors: "
                f"{', '.join(factors)}"
            )
        names |= matching
    return [trial for trial in trials if trial.name in names]


def _matching(trials: Sequence[Trial], text: str) -> set[str]:
    """The names of the trials that ``text`` matches."""
    exact = {trial.name for trial in trials if _is_named(trial.name, text)}
    if exact:
        return exact
    parts = [part.strip() for part in _split(text)]
    matches = [_EXPRESSION.fullmatch(part) for part in parts]
    factors = {factor for trial in trials for factor in trial.factors}
    if all(match and match[1] in factors for match in matches):
        conditions = [(match[1], match[2], match[3]) for match in matches if match]
        holding = {
            trial.name
            for trial in trials
            if all(_holds(trial.factors, *condition) for condition in conditions)
        }
        if holding:
            return holding
    by_part = [{trial.name for trial in trials if _is_named(trial.name, part)} for part in parts]
    if all(by_part):
        return set().union(*by_part)
    # Names have commas, too: take as many parts as make a name.
    return _names_in(parts, {trial.name for trial in trials}) or set()


def _is_named(name: str, text: str) -> bool:
    """Whether ``text`` is the name, or a glob that matches it. Brackets are part of names."""
    return name == text or fnmatchcase(name, re.sub(r"\[", "[[]", text))


def _names_in(parts: Sequence[str], names: Collection[str]) -> set[str] | None:
    """The names that ``parts``, joined by commas, list one after the other."""
    if not parts:
        return set()
    for end in range(len(parts), 0, -1):
        first = {name for name in names if _is_named(name, ",".join(parts[:end]))}
        if first and (rest := _names_in(parts[end:], names)) is not None:
            return first | rest
    return None


def _split(text: str) -> list[str]:
    """The parts between commas that are not inside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _holds(factors: Mapping[str, Any], factor: str, relation: str, text: str) -> bool:
    if factor not in factors:
        return False
    level = factors[factor]
    if isinstance(level, bool) or not isinstance(level, int | float):
        wanted = _spelled(text)
        same = wanted in {_spelled(str(level)), _spelled(level_text(level))}
        return relation in ("=", "==", "!=") and same == (relation != "!=")
    if _spelled(text) in ("null", "none"):
        return relation == "!="
    try:
        return _COMPARE[relation](level, float(text))
    except ValueError:
        raise UserError(f"--trials {factor}{relation}{text}: {factor} is a number") from None


def _spelled(text: str) -> str:
    """A level's text without quotes and spaces, as in ``[q_proj,v_proj]``."""
    return re.sub(r"[\s'\"]", "", text).lower()


def select_stages(
    trials: Sequence[Trial], wanted: Collection[str], done: Callable[[str], bool]
) -> list[Trial]:
    """The trials with only the stages whose kind or label is ``wanted``.

    The data sets and base models that they need also run. ``UserError`` if a selected stage needs
    another one that is neither selected nor ``done``.
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
        stages = tuple(
            stage for stage in trial.stages if {stage.kind.name, stage.label} & set(wanted)
        )
        chosen = {stage.key for stage in stages}
        for stage in stages:
            for need in stage.needs.values():
                if need.key not in chosen and not need.kind.given and not done(need.key):
                    raise UserError(
                        f"--stage {','.join(wanted)}: {stage.label} of {trial.name} needs its "
                        f"{need.label}, which has not run yet; "
                        f"run that first, or select it too"
                    )
        if stages:
            selected.append(replace(trial, stages=stages))
    return selected


def forced(
    all_trials: Sequence[Trial], selected: Sequence[Trial], wanted: Collection[str]
) -> dict[str, Stage]:
    """The stages that ``--force`` reruns, by key: the selected ones, and all that depend on them.

    If only some trials are selected, and no stages, then data sets and base models are kept: other
    trials may share them.
    """
    only_some = len(selected) != len(all_trials)
    chosen = {
        stage.key
        for trial in selected
        for stage in trial.stages
        if (
            {stage.kind.name, stage.label} & set(wanted)
            if wanted
            else not (only_some and stage.kind.given)
        )
    }
    rerun: dict[str, Stage] = {}
    for key, stage in unique_stages(all_trials).items():
        if key in chosen or any(need.key in rerun for need in stage.needs.values()):
            rerun[key] = stage
    return rerun


def with_stages(
    trials: Sequence[Trial], selected: Sequence[Trial], more: Collection[str]
) -> list[Trial]:
    """The stages of the ``selected`` trials, and the stages of all trials with keys in ``more``."""
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
