"""The settings that the parts of a trial read.

A setting that no part reads is an error: it must never be ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from mosweep.backends.base import Backend
from mosweep.config.choices import choices_of
from mosweep.config.claims import meets
from mosweep.config.groups import TOP_LEVEL, Config, Lora, Optim
from mosweep.config.loop import Loop
from mosweep.core.errors import ConfigError, choices
from mosweep.core.paths import cached_here
from mosweep.evals.evaluation import Evaluation

__all__ = ["given", "refusal", "takes"]

#: The sections that only some trials read, with their defaults: a default counts as not given.
_DEFAULTS: Mapping[str, Any] = {"lora": Lora(), "optim": Optim(), "loop": Loop()}


def takes(config: Config) -> tuple[str, ...]:
    """The patterns of the settings that the trial's parts read.

    Settings that every trial reads are not among them.
    """
    for part, base in ((config.backend, Backend), (config.eval, Evaluation)):
        if not isinstance(part, base):
            key = f"{'backend' if base is Backend else 'eval'}._target_"
            raise ConfigError(key, type(part).__name__, f"is not a mosweep.{base.__name__}")
    patterns = [*_patterns(config.eval, config)]
    for name, part in config.transforms.items():
        patterns += [name, f"{name}.*", *(part.takes if part is not None else ())]
    if not config.control:
        patterns += ["backend", "backend.*", *_patterns(config.backend, config)]
        if config.loop.enabled:
            patterns.append("loop.*")
    return tuple(dict.fromkeys(patterns))


def _patterns(part: Backend | Evaluation, config: Config) -> Iterator[str]:
    yield from part.takes
    if part.section is not None:
        yield f"{part.section}.*"
    if part.stands_in:
        # Without native settings, no other part has to be imported to know which it takes.
        given = any(config.native.values())
        yield from _native_sections() if given else (f"{name}.*" for name in config.native)


@cached_here
def _native_sections() -> tuple[str, ...]:
    """The patterns of the native sections of all backends and evaluators."""
    parts = [*choices_of("backend").values(), *choices_of("eval").values()]
    return tuple(f"{part.section}.*" for part in parts if getattr(part, "section", None))


def given(config: Config) -> Iterator[tuple[str, Any]]:
    """Path and value of the settings given in sections that only some trials read."""
    for section, defaults in _DEFAULTS.items():
        settings = getattr(config, section)
        for field in fields(defaults):
            value = getattr(settings, field.name)
            if value != getattr(defaults, field.name):
                yield f"{section}.{field.name}", value
    for section, value in config.native.items():
        yield from _leaves(section, value)


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item)
    elif value is not None:
        yield path, value


def refusal(key: str, value: Any, config: Config) -> ConfigError:
    """The error for a setting that no trial of the sweep takes. It names what would take it."""
    if isinstance(config.backend, Backend):
        for pattern, hint in config.backend.hints.items():
            if meets(key, pattern):
                return ConfigError(key, value, hint)
    takers = []
    if key.startswith("loop."):
        takers.append("loop.enabled=true")
    for group in ("backend", "eval"):
        for name, part in choices_of(group).items():
            if issubclass(part, Backend | Evaluation) and not part.stands_in:
                patterns = (*part.takes, *([f"{part.section}.*"] if part.section else []))
                if any(meets(key, pattern) for pattern in patterns):
                    takers.append(f"{group}={name}")
    if takers:
        problem = f"nothing in this sweep takes this setting; {' or '.join(takers)} would"
    else:
        problem = f"no such key; {choices(key.partition('.')[0], TOP_LEVEL)}"
    return ConfigError(key, value, problem)
