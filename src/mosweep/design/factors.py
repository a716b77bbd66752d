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

__all__ = ["bundles_of", "design_overrides"]


def design_overrides(
    controls: Any, treatments: Any, seeds: Any, setting: Any = None, tags: Any = None
) -> tuple[list[list[str]], list[str]]:
    """The override lists of a design written as ``controls``, ``treatments`` and ``seeds``, and the
    keys of its factors.

    ``treatments`` as a mapping is crossed; as a list of mappings it is taken bundle by bundle.
    Without a design: one empty list. The data sets of a ``setting`` are crossed with all that,
    unless the design chooses data sets itself; its evaluations hold for all.
    """
    datasets, held = selected_overrides(setting, tags)
    fixed = [as_override(key, value) for key, value in _mapping("controls", controls).items()]
    data = _loaded("treatments", treatments)
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
    if seeds is not None:
        values = (
            list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
        )
        if not values or not isinstance(values, list):
            raise ConfigError("seeds", seeds, "expected a list of whole numbers, or how many")
        bundles = [[*bundle, f"seed={seed}"] for bundle in bundles for seed in values]
        factors.append("seed")
    written = {key_of(override) for bundle in [fixed, *bundles] for override in bundle}
    fixed = [
        *(as_override(key, value) for key, value in held.items() if key not in written),
        *fixed,
    ]
    if datasets and not written & {key for levels in datasets for key in levels}:
        choices = [
            [as_override(key, value) for key, value in levels.items()] for levels in datasets
        ]
        bundles = [[*choice, *bundle] for choice in choices for bundle in bundles]
        factors = list(dict.fromkeys([*(key for levels in datasets for key in levels), *factors]))
    return [[*fixed, *bundle] for bundle in bundles], factors


def bundles_of(treatments: Any, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Treatments that were given as bundles, by name, each with its levels but for the seed; empty
    where levels are crossed.

    A bundle is called by its key ``name`` or else by its levels. A factor that the command line has
    overridden is in none.
    """
    data = _loaded("treatments", treatments)
    if not isinstance(data, list):
        return {}
    there = {(key, level_text(level)) for trial in trials for key, level in trial.factors.items()}
    bundles = _bundles(data)
    gone = {
        key
        for _, levels in bundles
        for key, level in levels.items()
        if (key, level_text(level)) not in there
    }
    found: dict[str, dict[str, Any]] = {}
    for name, levels in bundles:
        mine = {key: level for key, level in levels.items() if key not in gone and key != "seed"}
        found.setdefault(name or trial_name(mine), mine)
    return found


def _bundles(data: Sequence[Any]) -> list[tuple[str | None, dict[str, Any]]]:
    """Name, if it has one, and levels of each bundle."""
    found = []
    for index, bundle in enumerate(data):
        levels = dict(_mapping(f"treatments[{index}]", bundle))
        name = levels.pop("name", None)
        found.append((None if name is None else str(name), levels))
    return found


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    value = _loaded(key, value)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            key, value, "expected a mapping from factor to level, such as {lora.alpha: 32}"
        )
    return _flat(value)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys, so that ``{lora: {rank: 4}}`` and ``{lora.rank: 4}`` are one
    design.
    """
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            result |= _flat(item, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = item
    return result


def _loaded(key: str, value: Any) -> Any:
    """JSON given inline or as ``@file`` as data."""
    if not isinstance(value, str):
        return value
    text = value
    if value.startswith("@"):
        try:
            text = Path(value[1:]).read_text()
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
