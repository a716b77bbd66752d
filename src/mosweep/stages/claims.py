"""Which settings the parts of a trial read. A setting that nobody reads must not pass in
silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from mosweep.backends.base import Backend
from mosweep.config.choices import choices_of
from mosweep.config.claims import meets
from mosweep.config.groups import TOP_LEVEL, Config, Loop, Lora, Optim
from mosweep.core.errors import ConfigError, choices
from mosweep.evals.evaluation import Evaluation

__all__ = ["given", "refusal", "takes"]

#: Sections that only some trials read, with what counts as not given.
_UNSET: Mapping[str, Any] = {"lora": Lora(), "optim": Optim(), "loop": Loop()}


def takes(config: Config) -> tuple[str, ...]:
    """What the parts of the trial read, beside what concerns every trial."""
    for part, base in ((config.backend, Backend), (config.eval, Evaluation)):
        if not isinstance(part, base):
            key = f"{'backend' if base is Backend else 'eval'}._target_"
            raise ConfigError(key, type(part).__name__, f"is not a mosweep.{base.__name__}")
    found = [*_of(config.eval)]
    for name, part in config.transforms.items():
        found += [name, f"{name}.*", *(part.takes if part is not None else ())]
    if not config.control:
        found += ["backend", "backend.*", *_of(config.backend)]
        if config.loop.enabled:
            found.append("loop.*")
    return tuple(dict.fromkeys(found))


def _of(part: Backend | Evaluation) -> Iterator[str]:
    yield from part.takes
    if part.section is not None:
        yield f"{part.section}.*"
    if part.stands_in:
        yield from _native_sections()


@cache
def _native_sections() -> tuple[str, ...]:
    """The sections of all backends and evaluators that there are."""
    parts = [*choices_of("backend").values(), *choices_of("eval").values()]
    return tuple(f"{part.section}.*" for part in parts if getattr(part, "section", None))


def given(config: Config) -> Iterator[tuple[str, Any]]:
    """The settings that are given in sections which only some trials read: path and value."""
    for section, unset in _UNSET.items():
        mine = getattr(config, section)
        for field in fields(unset):
            value = getattr(mine, field.name)
            if value != getattr(unset, field.name):
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
    """The error for a setting that no trial of the sweep takes: who would take it."""
    if isinstance(config.backend, Backend):
        for pattern, hint in config.backend.hints.items():
            if meets(key, pattern):
                return ConfigError(key, value, hint)
    who = []
    if key.startswith("loop."):
        who.append("loop.enabled=true")
    for group in ("backend", "eval"):
        for name, part in choices_of(group).items():
            if issubclass(part, Backend | Evaluation) and not part.stands_in:
                mine = (*part.takes, *([f"{part.section}.*"] if part.section else []))
                if any(meets(key, pattern) for pattern in mine):
                    who.append(f"{group}={name}")
    if who:
        problem = f"nothing in this sweep takes this setting; {' or '.join(who)} would"
    else:
        problem = f"no such key; {choices(key.partition('.')[0], TOP_LEVEL)}"
    return ConfigError(key, value, problem)
