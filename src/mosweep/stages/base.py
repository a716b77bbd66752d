"""What backends and evaluations have in common: the setting of a trial as they see it.

A *backend* (the ``backend`` group's dataclass) has ``finetune(setting) -> Stage``. An *evaluation*
(the ``eval`` group's) has ``stages(setting, tuned) -> list[Stage]``, where ``tuned`` is ``None`` in
a control trial. Both may have ``check(setting)``, called once per trial before anything starts,
which raises ``ConfigError`` for what cannot work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mosweep.config.groups import Config
from mosweep.config.resources import Request
from mosweep.core.errors import ConfigError
from mosweep.core.types import Stage
from mosweep.core.work import Resources

__all__ = ["Backend", "Evaluation", "Setting", "served_by"]


@dataclass(frozen=True)
class Setting:
    """A trial's configuration, typed (``config``) and as plain data (``plain``)."""

    config: Config
    plain: Mapping[str, Any]

    def resources(self, kind: str, *, computes: bool = True) -> Resources:
        """What the configuration asks for a stage of ``kind``; one that does not compute with the
        model asks for no GPU.
        """
        request = self.config.resources or Request()
        return request.of(
            None if kind == "data" else self.config.model.name, kind, computes=computes
        )

    def eval_label(self, task: str) -> str:
        """What the trial calls the evaluation of ``task``."""
        return f"eval:{task}"

    def eval_tasks(self, chosen: Sequence[str] | None) -> list[str]:
        """The evaluation tasks of ``eval.tasks``; by default the trial's own."""
        if chosen is None:
            return [self.config.task.name]
        twice = sorted({name for name in chosen if list(chosen).count(name) > 1})
        if twice or not chosen:
            raise ConfigError(
                "eval.tasks",
                list(chosen),
                f"names {', '.join(twice)} twice" if twice else "names no task",
            )
        return list(chosen)

    def at_level(self, text: str) -> bool:
        """Whether this trial is at the level ``factor=level``."""
        factor, _, level = text.partition("=")
        value: Any = self.plain
        for name in factor.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return False
            value = value[name]
        if isinstance(value, Mapping):  # a group is known by its choice's name
            value = value.get("name")
        if isinstance(value, bool):
            return str(value).lower() == level.lower()
        if isinstance(value, int | float):
            try:
                return math.isclose(float(level), value, rel_tol=1e-12)
            except ValueError:
                return False
        return str(value) == level


class Backend(Protocol):
    """The ``backend`` group: how a model is fine-tuned.

    It may also have ``evaluated(setting) -> stages.model.Elsewhere | None``, for base models whose
    weights are not here.
    """

    def finetune(self, setting: Setting) -> Stage:
        """The fine-tuning stage, with what it needs."""
        ...


class Evaluation(Protocol):
    """The ``eval`` group: how a model is evaluated."""

    def stages(self, setting: Setting, tuned: Stage | None) -> list[Stage]:
        """The evaluation stages of the tuned model, or of the base model where ``tuned`` is
        ``None``.
        """
        ...


def served_by(tuned: Stage) -> str | None:
    """The provider that holds the model which ``tuned`` leaves; ``None`` if its weights are here."""
    if remote := tuned.work.traits.remote:
        return remote.provider
    return next((held for need in tuned.needs.values() if (held := served_by(need))), None)
