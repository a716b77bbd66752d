"""Designs as users write them: controls, treatments, seeds and settings as lists of overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mosweep.core.errors import ConfigError
from mosweep.core.types import Trial
from mosweep.design.overrides import as_override, key_of
from mosweep.design.settings import selected_overrides
from mosweep.design.trials import level_text, trial_name

__all__ = ["bundles_of", "design_overrides", "flat"]


def design_overrides(
    controls: Any, treatments: Any, seeds: Any, setting: Any = None, tags: Any = None
) -> tuple[list[list[str]], list[str]]:
    """The override lists of a design, one per trial, and the keys of its factors.

    The levels of ``treatments`` are crossed if it is a mapping. Each mapping in a list is one
    bundle of levels. Without a design there is one empty list. The data sets of a ``setting`` are
    crossed with the bundles, unless the design chooses data sets itself. Its evaluations apply to
    all trials.
    """
    datasets, defaults = selected_overrides(setting, tags)
    fixed = [as_override(key, value) for key, value in _mapping("controls", controls).items()]
    bundles, factors = _treatment_overrides(_loaded("treatments", treatments))
    if seeds is not None:
        values = (
            list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
        )
        if not values or not isinstance(values, list):
            raise ConfigError("seeds", seeds, "expected a list of whole numbers, or their count")
        bundles = [[*bundle, f"seed={seed}"] for bundle in bundles for seed in values]
        factors.append("seed")
    written = {key_of(override) for bundle in [fixed, *bundles] for override in bundle}
    fixed = [
        *(as_override(key, value) for key, value in defaults.items() if key not in written),
        *fixed,
    ]
    if datasets and not written & {key for levels in datasets for key in levels}:
        choices = [
            [as_override(key, value) for key, value in levels.items()] for levels in datasets
        ]
        bundles = [[*choice, *bundle] for choice in choices for bundle in bundles]
        factors = list(dict.fromkeys([*(key for levels in datasets for key in levels), *factors]))
    return [[*fixed, *bundle] for bundle in bundles], factors


def _treatment_overrides(data: Any) -> tuple[list[list[str]], list[str]]:
    """The override lists of ``treatments``, one per bundle, and the keys of its factors."""
    if isinstance(data, list):
        mappings = [levels for _, levels in _bundles(data)]
        if not mappings:
            raise ConfigError("treatments", "[]", "expected at least one bundle of levels")
        bundles = [
            [as_override(key, value) for key, value in mapping.items()] for mapping in mappings
        ]
        factors = list(dict.fromkeys(key for mapping in mappings for key in mapping))
    else:
        levels = {
            key: value if isinstance(value, list) else [value]
            for key, value in _mapping("treatments", data).items()
        }
        for key, values in levels.items():
            if not values:
                raise ConfigError(f"treatments.{key}", "[]", "a treatment needs at least one level")
        bundles = [
            list(bundle)
            for bundle in product(
                *([as_override(key, v) for v in values] for key, values in levels.items())
            )
        ]
        factors = list(levels)
    return bundles, factors


def bundles_of(treatments: Any, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """The bundles of ``treatments`` by name, each with its levels. Empty for crossed levels.

    A bundle's name is its key ``name``, or else made of its levels. Its levels leave out the seed
    and the factors that the command line has overridden.
    """
    data = _loaded("treatments", treatments)
    if not isinstance(data, list):
        return {}
    used = {(key, level_text(level)) for trial in trials for key, level in trial.factors.items()}
    named_levels = _bundles(data)
    left_out = {
        key
        for _, levels in named_levels
        for key, level in levels.items()
        if (key, level_text(level)) not in used
    } | {"seed"}
    bundles: dict[str, dict[str, Any]] = {}
    for name, levels in named_levels:
        kept = {key: level for key, level in levels.items() if key not in left_out}
        bundles.setdefault(name or trial_name(kept), kept)
    return bundles


def _bundles(data: Sequence[Any]) -> list[tuple[str | None, dict[str, Any]]]:
    """The name of each bundle, if it has one, and its levels."""
    bundles = []
    for index, bundle in enumerate(data):
        levels = dict(_mapping(f"treatments[{index}]", bundle))
        name = levels.pop("name", None)
        bundles.append((None if name is None else str(name), levels))
    return bundles


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    value = _loaded(key, value)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            key, value, "expected a mapping from factor to level, such as {lora.alpha: 32}"
        )
    return flat(value)


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys: ``{lora: {rank: 4}}`` and ``{lora.rank: 4}`` are the same."""
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            result |= flat(item, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = item
    return result


def _loaded(key: str, value: Any) -> Any:
    """The data of ``value``, which may be JSON, or ``@file`` with JSON."""
    if not isinstance(value, str):
        return value
    text = value
    if value.startswith("@"):
        try:
            text = Path(value[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(key, value, f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(key, value, "is not text in UTF-8") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            key, value, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
