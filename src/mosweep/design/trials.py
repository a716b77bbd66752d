"""Build trials and their control trials from resolved configurations.

Only this module knows how the config groups make up a trial. It takes configurations as plain data
and must not know Hydra.
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mosweep.config.claims import taken
from mosweep.config.groups import Config
from mosweep.config.sections import Sections
from mosweep.core import fingerprint
from mosweep.core.errors import ConfigError
from mosweep.core.paths import forget_files
from mosweep.core.types import Stage, Trial, in_order
from mosweep.stages.base import Transform, TrialConfig
from mosweep.stages.claims import given, refusal, takes

__all__ = ["Builder", "Factors", "level_text", "trial_name"]

Factors = Mapping[str, Any]


class Builder:
    """Builds trials from resolved configurations.

    Sections and stages that trials share are built once.
    """

    def __init__(self) -> None:
        forget_files()
        self._sections = Sections()
        self._first: dict[str, Any] = {}
        self._patterns: dict[tuple[str, ...], None] = {}
        self._unread: dict[str, tuple[Any, Config]] = {}
        self._given: dict[tuple[int, ...], list[tuple[str, Any]]] = {}

    def config(self, plain: Mapping[str, Any]) -> Config:
        """The typed configuration."""
        return self._sections.config(plain)

    def trial(self, plain: Mapping[str, Any], factors: Factors, name: str | None = None) -> Trial:
        """The trial of one configuration. Raises ``ConfigError`` if it cannot work."""
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
        # A value that a key cannot hold, such as NaN, in a section without a schema.
        except TypeError as error:
            raise ConfigError(name, "…", str(error)) from None
        return Trial(name, kept, stages, config.control, self._shared(plain), patterns)

    def refuse_unread(self) -> None:
        """Raise ``ConfigError`` for a setting that no trial built so far reads."""
        for key, (value, config) in self._unread.items():
            if not any(taken(key, patterns) for patterns in self._patterns):
                raise refusal(key, value, config)

    def _note(self, config: Config, patterns: tuple[str, ...], dropped: Factors) -> None:
        """Record which settings the trial reads, and which it does not read."""
        sections = (config.lora, config.optim, config.loop, *config.native.values())
        # ``self._sections`` keeps the sections alive, so that their ids stay unique.
        ids = tuple(map(id, sections))
        settings = self._given.get(ids)
        if settings is None:
            settings = self._given[ids] = list(given(config))
        self._patterns[patterns] = None
        for key, value in (*settings, *dropped.items()):
            if key not in self._unread and not taken(key, patterns):
                self._unread[key] = (value, config)

    def _section_of(self, trial: Trial) -> str | None:
        """The native section of the trial's backend."""
        section: str | None = self._sections.section("backend", trial.config["backend"]).section
        return section

    def _shared(self, plain: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same configuration, stored as the difference from the first trial's.

        A sweep may have ten thousand trials.
        """
        self._first = self._first or dict(plain)
        if plain.keys() != self._first.keys():
            return plain
        return ChainMap(
            {key: value for key, value in plain.items() if value is not self._first[key]},
            self._first,
        )

    def with_controls(self, trials: Sequence[Trial]) -> list[Trial]:
        """``trials``, and one control trial per distinct evaluation of an untuned base model."""
        existing = {trial.id for trial in trials if trial.control}
        controls: dict[str, Trial] = {}
        seen: set[tuple[Any, ...]] = set()
        for trial in trials:
            if trial.control or not trial.config["run_control_trials"]:
                continue
            # Trials that differ only in training share all other sections, and so their control.
            # Most controls are recognised by these sections, without being built.
            of_training = {"lora", "optim", "loop", "seed", self._section_of(trial)}
            relevant = (value for key, value in trial.config.items() if key not in of_training)
            identity = tuple(
                id(value) if isinstance(value, Mapping) else str(value) for value in relevant
            )
            if identity in seen:
                continue
            seen.add(identity)
            control = self.trial({**trial.config, "control": True}, trial.factors)
            if control.id not in existing:
                controls.setdefault(control.id, control)
        return [*trials, *controls.values()]


def _without(plain: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The configuration without the settings ``keys``."""
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
    """The trial's last stages: the tuned model, if there is one, and the evaluations.

    Each part of the configuration adds its own stages: fine-tune or loop, transforms, evaluations.
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
    for name, part in sorted(parts, key=lambda item: (getattr(item[1], "order", 0), item[0])):
        if not isinstance(part, Transform):
            raise ConfigError(f"{name}._target_", type(part).__name__, "is not a mosweep.Transform")
        model = part.stage(trial, model) or model
    evals = config.eval.stages(trial, model)
    if loop and model is tuned:
        evals = loop.evaluations(evals)
    return [model, *evals] if model else list(evals)


def trial_name(factors: Factors) -> str:
    """A readable folder name: ``model=a,lora.rank=4``."""
    name = ",".join(f"{key}={level_text(value)}" for key, value in factors.items()) or "trial"
    if len(name.encode()) <= 180:
        return name
    return (
        name.encode()[:160].decode(errors="ignore")
        + "~"
        + fingerprint.digest_bytes(name.encode())[:12]
    )


def level_text(value: Any) -> str:
    """A level as part of a folder name."""
    text = (
        json.dumps(value, separators=(",", ":"))
        if isinstance(value, list | dict | bool) or value is None
        else str(value)
    )
    return re.sub(r"[^\w.+@~:\[\]{}-]", "_", text)
