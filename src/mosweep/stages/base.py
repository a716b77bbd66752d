"""What the parts of a trial's graph have in common: the trial's configuration as they see it.

A trial is base model, data set, fine-tune, transforms and evaluations, in this order. Backends
(``mosweep.backends.base``), transforms and evaluations (``mosweep.evals.evaluation``) each
contribute their stages.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mosweep.config.groups import Config
from mosweep.config.resources import Request
from mosweep.core.errors import ConfigError
from mosweep.core.types import Stage
from mosweep.core.work import Resources

__all__ = ["Transform", "TrialConfig", "served_by"]


@dataclass(frozen=True)
class TrialConfig:
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

    def native(self, section: str | None) -> Mapping[str, Any]:
        """The plain settings under the top-level key ``section``; empty if there are none."""
        found = self.plain.get(section or "", {})
        return found if isinstance(found, Mapping) else {}

    def has(self, key: str) -> bool:
        """Whether the configuration has the key, whatever its value."""
        value: Any = self.plain
        for name in key.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return False
            value = value[name]
        return True

    def at_level(self, text: str) -> bool:
        """Whether this trial is at the level ``factor=level``."""
        factor, _, level = text.partition("=")
        if not self.has(factor):
            return False
        value: Any = self.plain
        for name in factor.split("."):
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


class Transform(ABC):
    """A stage between fine-tune and evaluation, contributed by a config group of its own.

    The group is any top-level section of the configuration whose ``_target_`` is a frozen dataclass
    that subclasses this. Several transforms follow each other by ``order``, then by name.
    """

    #: Settings of the shared groups that it reads; see ``mosweep.stages.claims``.
    takes: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[int] = 50

    @abstractmethod
    def stage(self, trial: TrialConfig, tuned: Stage | None) -> Stage | None:
        """The stage that changes the model which ``tuned`` leaves; ``None`` leaves it as it is.

        ``tuned`` is ``None`` for the untouched base model.
        """


def served_by(tuned: Stage) -> str | None:
    """The provider that holds the model which ``tuned`` leaves; ``None`` if its weights are
    here.
    """
    if remote := tuned.work.traits.remote:
        return remote.provider
    return next((held for need in tuned.needs.values() if (held := served_by(need))), None)
