"""The basis of all parts of a trial: the trial's configuration, and transforms.

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
        """The resources that the configuration requests for a stage of ``kind``.

        A stage that does not compute with the model gets no GPU (``computes=False``).
        """
        request = self.config.resources or Request()
        return request.of(
            None if kind == "data" else self.config.model.name, kind, computes=computes
        )

    def eval_label(self, task: str) -> str:
        """The label of the trial's evaluation of ``task``."""
        return f"eval:{task}"

    def eval_tasks(self, chosen: Sequence[str] | None) -> list[str]:
        """The evaluation tasks of ``eval.tasks``; by default the trial's own."""
        if chosen is None:
            return [self.config.task.name]
        duplicates = sorted({name for name in chosen if list(chosen).count(name) > 1})
        if duplicates or not chosen:
            raise ConfigError(
                "eval.tasks",
                list(chosen),
                f"names {', '.join(duplicates)} twice" if duplicates else "names no task",
            )
        return list(chosen)

    def native(self, section: str | None) -> Mapping[str, Any]:
        """The plain settings under the top-level key ``section``; empty if there are none."""
        settings = self.plain.get(section or "", {})
        return settings if isinstance(settings, Mapping) else {}

    def has(self, key: str) -> bool:
        """Whether the configuration has the key, whatever its value."""
        value: Any = self.plain
        for name in key.split("."):
            if not isinstance(value, Mapping) or name not in value:
                return False
            value = value[name]
        return True

    def at_level(self, text: str) -> bool:
        """Whether the trial has the level ``factor=level``."""
        factor, _, level = text.partition("=")
        if not self.has(factor):
            return False
        value: Any = self.plain
        for name in factor.split("."):
            value = value[name]
        if isinstance(value, Mapping):  # The level of a group is the name of its choice.
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
    """A stage between fine-tune and evaluation, with its own config group.

    The group is any top-level section of the configuration whose ``_target_`` is a frozen dataclass
    that subclasses this. Several transforms run in the order of ``order``, then of their names.
    """

    #: The settings of the shared groups that it reads; see ``mosweep.stages.claims``.
    takes: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[int] = 50

    @abstractmethod
    def stage(self, trial: TrialConfig, tuned: Stage | None) -> Stage | None:
        """The stage that changes the model of ``tuned``, or ``None`` to leave it unchanged.

        ``tuned`` is ``None`` for the untuned base model.
        """


def served_by(tuned: Stage) -> str | None:
    """The provider that serves the model of ``tuned``, or ``None`` if its weights are local."""
    if remote := tuned.work.traits.remote:
        return remote.provider
    providers = (served_by(need) for need in tuned.needs.values())
    return next((provider for provider in providers if provider), None)
