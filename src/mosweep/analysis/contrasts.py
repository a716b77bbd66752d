"""The comparisons of a sweep: contrasts between levels of its factors.

A contrast compares two levels of one factor within each combination of the other factors (a
*block*). Fine-tunes that differ in their seed alone are replications. Levels of several factors
that were given together are a level of the factor ``bundle``. No statistics here, and no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mosweep.core import schema
from mosweep.core.errors import ConfigError, choices
from mosweep.core.levels import level_text, levels_text, setting_text
from mosweep.core.results import SweepResult

__all__ = [
    "BUNDLE",
    "CONTROL",
    "SEED",
    "Contrast",
    "bundled",
    "compared",
    "contrasts_of",
    "with_bundles",
]

#: The factor whose levels are replications.
SEED = "seed"
#: The factor that distinguishes untouched base models (true) from tuned ones (false).
CONTROL = "control"
#: The factor whose levels are bundles of levels of other factors.
BUNDLE = "bundle"


@dataclass(frozen=True)
class Contrast:
    """``level`` against ``base``, two levels of ``factor``, ``at`` given levels of other factors.

    ``metric`` is ``<task>/<scorer>``. By default it is the sweep's primary metric, or else every
    metric. ``delta`` is the smallest difference that matters, in units of the score. ``cluster`` is
    the key of the samples' metadata that says which items belong together.
    """

    factor: str
    base: Any
    level: Any
    at: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    delta: float | None = None
    cluster: str | None = None

    def __str__(self) -> str:
        name = (
            "tuned vs control"
            if self.factor == CONTROL
            else f"{self.factor}: {level_text(self.base)} -> {level_text(self.level)}"
        )
        return f"{name} at {setting_text(self.at)}" if self.at else name


@dataclass(frozen=True)
class _Written:
    """A contrast in the form that users write."""

    factor: str
    levels: Sequence[Any] | None = None
    at: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    delta: float | None = field(default=None, metadata=schema.between(gt=0))
    cluster: str | None = None


def contrasts_of(
    given: Any, treatments: Mapping[str, Sequence[Any]], *, control: bool = True
) -> list[Contrast]:
    """The contrasts of a configuration, checked against ``treatments``, the levels of each factor.

    Each is a mapping (``{factor: lora.rank, levels: [4, 64], at: {model: tiny}, delta: 0.02}``) or
    text (``lora.rank: 4 -> 64``). All levels are compared with the first one. By default ``levels``
    are all levels of the factor. ``control`` says whether there are control trials.

    The default is every level of every treatment against its first one, and tuned models against
    untouched ones (factor ``control``). Raises ``ConfigError`` for unknown factors and levels.
    """
    factors = {
        name: list(levels) for name, levels in treatments.items() if name not in (SEED, CONTROL)
    }
    if control:
        factors[CONTROL] = [True, False]
    if given is None:
        return [
            Contrast(name, levels[0], level)
            for name, levels in factors.items()
            for level in levels[1:]
        ]
    entries = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return [
        contrast
        for index, entry in enumerate(entries)
        for contrast in _contrasts(f"contrasts[{index}]", entry, factors)
    ]


# -- bundles: levels of several factors that were given together -----------------------------------


def bundled(design: Mapping[str, Any]) -> set[str]:
    """The factors whose levels were given in bundles. They are compared as bundles only."""
    return {factor for levels in (design.get("bundles") or {}).values() for factor in levels}


def compared(design: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Levels of the factors that a design compares; bundles are levels of the factor ``bundle``."""
    parts = bundled(design)
    own = {BUNDLE: list(design["bundles"])} if parts else {}
    return own | {
        name: list(levels)
        for name, levels in (design.get("treatments") or {}).items()
        if name not in parts
    }


def with_bundles(result: SweepResult) -> SweepResult:
    """``result`` with the factor ``bundle`` in its design and trials, if its design has bundles.

    A trial belongs to the bundle that names the most of its levels. If a later launch added a trial
    that fits none, its own levels are its bundle.
    """
    parts = bundled(result.design)
    if not parts:
        return result
    bundles = sorted(result.design["bundles"].items(), key=lambda bundle: -len(bundle[1]))

    def bundle_of(factors: Mapping[str, Any]) -> str:
        mine = {name: level_text(level) for name, level in factors.items() if name in parts}
        of = (
            name
            for name, levels in bundles
            if {key: level_text(level) for key, level in levels.items()}.items() <= mine.items()
        )
        return next(of, setting_text({name: factors[name] for name in mine}))

    trials = [
        t if t.control else replace(t, factors={BUNDLE: bundle_of(t.factors), **t.factors})
        for t in result.trials
    ]
    return replace(
        result,
        trials=tuple(trials),
        design={**result.design, "treatments": compared(result.design)},
    )


def _contrasts(key: str, entry: Any, factors: Mapping[str, Sequence[Any]]) -> list[Contrast]:
    if isinstance(entry, Contrast):
        entry = {**asdict(entry), "levels": [entry.base, entry.level]}
        del entry["base"], entry["level"]
    if isinstance(entry, Mapping) and len(entry) == 1 and "factor" not in entry:
        # YAML parses the text as a mapping if it is not quoted.
        entry = "{}: {}".format(*next(iter(entry.items())))
    if isinstance(entry, str):
        text = re.fullmatch(r"\s*([^:\s]+)\s*:\s*(.+?)\s*(?:->|→)\s*(.+?)\s*", entry)
        if text is None:
            raise ConfigError(
                key, entry, "expected 'factor: level -> level', or a mapping with factor and levels"
            )
        entry = {"factor": text[1], "levels": [text[2], text[3]]}
    written = schema.build(_Written, entry, key)
    name = written.factor
    known = _levels(f"{key}.factor", name, factors)
    levels = (
        list(known)
        if written.levels is None
        else [_level(f"{key}.levels", name, level, known) for level in written.levels]
    )
    if len({level_text(level) for level in levels}) < max(2, len(levels)):
        raise ConfigError(
            f"{key}.levels",
            levels,
            f"expected two levels or more, all different; {name} has {levels_text(known)}",
        )
    at = {
        other: _level(f"{key}.at.{other}", other, value, _levels(f"{key}.at", other, factors))
        for other, value in written.at.items()
    }
    if name in at or CONTROL in at:
        raise ConfigError(
            f"{key}.at", setting_text(at), f"expected levels of other treatments than {name}"
        )
    return [
        Contrast(name, levels[0], level, at, written.metric, written.delta, written.cluster)
        for level in levels[1:]
    ]


def _levels(key: str, name: str, factors: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    if name == SEED:
        raise ConfigError(
            key, name, f"seeds are replications, not treatments; {choices(name, factors)}"
        )
    if name not in factors:
        raise ConfigError(key, name, f"not a factor of this sweep; {choices(name, factors)}")
    return factors[name]


def _level(key: str, name: str, given: Any, known: Sequence[Any]) -> Any:
    for level in known:
        if level == given or level_text(level) == level_text(given):
            return level
    raise ConfigError(
        key, level_text(given), f"not a level of {name} in this sweep; it has {levels_text(known)}"
    )
