"""From a configuration to trials: controls and treatments to overrides, overrides to trials, and
the control trials beside them.

The only place that knows what the config groups mean for a trial. Hydra's configuration comes in as
plain data.
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mosweep.config.claims import taken
from mosweep.config.groups import Config, Sections
from mosweep.core import fingerprint
from mosweep.core.errors import ConfigError
from mosweep.core.types import Stage, Trial, in_order
from mosweep.design.settings import selected_overrides
from mosweep.stages.base import Transform, TrialConfig
from mosweep.stages.claims import given, refusal, takes

__all__ = ["Builder", "Factors", "bundles_of", "design_overrides", "trial_name"]

Factors = Mapping[str, Any]


class Builder:
    """Makes trials of resolved configurations; sections and stages that trials share are made
    once.
    """

    def __init__(self) -> None:
        self._sections = Sections()
        self._first: dict[str, Any] = {}
        self._patterns: dict[tuple[str, ...], None] = {}
        self._unread: dict[str, tuple[Any, Config]] = {}
        self._given: dict[tuple[int, ...], list[tuple[str, Any]]] = {}

    def config(self, plain: Mapping[str, Any]) -> Config:
        """The typed configuration."""
        return self._sections.config(plain)

    def trial(self, plain: Mapping[str, Any], factors: Factors, name: str | None = None) -> Trial:
        """The trial of one configuration. Raises ``ConfigError`` for whatever cannot work."""
        config = self.config(plain)
        patterns = takes(config)
        kept = {key: level for key, level in factors.items() if taken(key, patterns)}
        unread = factors.keys() - kept.keys() - {"control"}
        if unread and not config.control:
            plain = _without(plain, unread)
            config = self.config(plain)
        if not config.control:
            self._note(config, patterns, {key: factors[key] for key in unread})
        if config.control:
            name = name or trial_name({"control": True, **kept})
        name = name or trial_name(kept)
        try:
            stages = tuple(in_order(_last_stages(TrialConfig(config, plain))).values())
        # what a key cannot hold, such as NaN, in a section without a schema
        except TypeError as error:
            raise ConfigError(name, "…", str(error)) from None
        return Trial(name, kept, stages, config.control, self._shared(plain), patterns)

    def refuse_unread(self) -> None:
        """Raise ``ConfigError`` for a setting that none of the trials made so far reads."""
        for key, (value, config) in self._unread.items():
            if not any(taken(key, patterns) for patterns in self._patterns):
                raise refusal(key, value, config)

    def _note(self, config: Config, patterns: tuple[str, ...], dropped: Factors) -> None:
        """Remember what the trial reads, and which settings it does not read."""
        sections = (config.lora, config.optim, config.loop, *config.native.values())
        same = tuple(map(id, sections))  # the sections live as long as ``self._sections``
        settings = self._given.get(same)
        if settings is None:
            settings = self._given[same] = list(given(config))
        self._patterns[patterns] = None
        for key, value in (*settings, *dropped.items()):
            if key not in self._unread and not taken(key, patterns):
                self._unread[key] = (value, config)

    def _section_of(self, trial: Trial) -> str | None:
        """The native section of the trial's backend."""
        section: str | None = self._sections.section("backend", trial.config["backend"]).section
        return section

    def _shared(self, plain: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same configuration, held as what differs from the first trial's: there may be ten
        thousand of them.
        """
        self._first = self._first or dict(plain)
        if plain.keys() != self._first.keys():
            return plain
        return ChainMap(
            {key: value for key, value in plain.items() if value is not self._first[key]},
            self._first,
        )

    def with_controls(self, trials: Sequence[Trial]) -> list[Trial]:
        """``trials`` and one control trial per distinct evaluation of an untouched base model, none
        twice.
        """
        made = {trial.id for trial in trials if trial.control}
        controls: dict[str, Trial] = {}
        seen: set[tuple[Any, ...]] = set()
        for trial in trials:
            if trial.control or not trial.config["run_control_trials"]:
                continue
            # Trials that differ in training alone share the sections below: most are told apart
            # without building anything.
            relevant = (
                value
                for key, value in trial.config.items()
                if key not in ("lora", "optim", "loop", "seed", self._section_of(trial))
            )
            about = tuple(
                id(value) if isinstance(value, Mapping) else str(value) for value in relevant
            )
            if about in seen:
                continue
            seen.add(about)
            control = self.trial({**trial.config, "control": True}, trial.factors)
            if control.id not in made:
                controls.setdefault(control.id, control)
        return [*trials, *controls.values()]


def _without(plain: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The configuration with the settings ``keys`` as if they had not been given."""
    result = dict(plain)
    for key in keys:
        *parents, leaf = key.split(".")
        section = result
        for name in parents:
            if not isinstance(section.get(name), Mapping):
                break
            section[name] = dict(section[name])
            section = section[name]
        else:
            section.pop(leaf, None)
    return result


def _last_stages(trial: TrialConfig) -> list[Stage]:
    """The stages that nothing else needs, each part of the configuration adding its own: base model
    and data set, fine-tune or loop, transforms, evaluations.
    """
    config, loop, tuned = trial.config, None, None
    if not config.control and config.loop.enabled:
        from mosweep.stages.loop.graph import loop_stages

        loop = loop_stages(trial)
        tuned = loop.chosen
    elif not config.control:
        tuned = config.backend.finetune(trial)
    model: Stage | None = tuned
    parts = ((name, part) for name, part in config.transforms.items() if part is not None)
    for name, part in sorted(parts, key=lambda one: (getattr(one[1], "order", 0), one[0])):
        if not isinstance(part, Transform):
            raise ConfigError(f"{name}._target_", type(part).__name__, "is not a mosweep.Transform")
        model = part.stage(trial, model) or model
    evals = config.eval.stages(trial, model)
    if loop and model is tuned:
        evals = loop.evaluations(evals)
    return [model, *evals] if model else list(evals)


def trial_name(factors: Factors) -> str:
    """A readable folder name: ``model=a,lora.rank=4``."""
    name = ",".join(f"{key}={_level(value)}" for key, value in factors.items()) or "trial"
    if len(name.encode()) <= 180:
        return name
    return (
        name.encode()[:160].decode(errors="ignore")
        + "~"
        + fingerprint.digest_bytes(name.encode())[:12]
    )


def _level(value: Any) -> str:
    text = (
        json.dumps(value, separators=(",", ":"))
        if isinstance(value, list | dict | bool) or value is None
        else str(value)
    )
    return re.sub(r"[^\w.+@~:\[\]{}-]", "_", text)


@dataclass(frozen=True)
class _Level:
    key: str
    value: Any

    def override(self) -> str:
        """As a Hydra override."""
        return f"{self.key}={_as_override(self.value)}"


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
    fixed = [_Level(key, value).override() for key, value in _mapping("controls", controls).items()]
    data = _loaded("treatments", treatments)
    if isinstance(data, list):
        mappings = [levels for _, levels in _bundles(data)]
        if not mappings:
            raise ConfigError("treatments", "[]", "expected at least one bundle of levels")
        bundles = [
            [_Level(key, value).override() for key, value in mapping.items()]
            for mapping in mappings
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
                *([_Level(key, v).override() for v in values] for key, values in levels.items())
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
    written = {override.partition("=")[0] for bundle in [fixed, *bundles] for override in bundle}
    fixed = [
        *(_Level(key, value).override() for key, value in held.items() if key not in written),
        *fixed,
    ]
    if datasets and not written & {key for levels in datasets for key in levels}:
        choices = [
            [_Level(key, value).override() for key, value in levels.items()] for levels in datasets
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
    there = {(key, _level(level)) for trial in trials for key, level in trial.factors.items()}
    bundles = _bundles(data)
    gone = {
        key
        for _, levels in bundles
        for key, level in levels.items()
        if (key, _level(level)) not in there
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


def _as_override(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(_as_override(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{_escaped(str(key))}:{_as_override(item)}" for key, item in value.items())
            + "}"
        )
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w.-]*", text, re.ASCII) and text.lower() not in (
        "true",
        "false",
        "null",
        "nan",
        "inf",
    ):
        return text
    return (
        "'" + re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + (found[2] and r"\'"), text) + "'"
    )


def _escaped(key: str) -> str:
    """A mapping's key in Hydra's override grammar, which has no quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key)
