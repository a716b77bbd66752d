"""Stages and trials: the nouns of mosweep. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mosweep.core import fingerprint, schema
from mosweep.core.errors import ConfigError
from mosweep.core.work import Json, Kind, Resources, Work

__all__ = ["Stage", "Status", "Trial", "in_order", "load_work", "unique_stages"]

Status = Literal["succeeded", "failed", "running", "pending", "cancelled"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a trial: the unit of caching, of placement and of retry. Two stages with one
    ``key`` are one stage.
    """

    label: str
    work: Work
    needs: Mapping[str, Stage] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    _key: str = field(default="", init=False, repr=False, compare=False)

    @property
    def kind(self) -> Kind:
        """What sort of step it is."""
        return self.work.kind

    @property
    def payload(self) -> dict[str, Any]:
        """What defines the result, in canonical form; stored beside the record so that ``explain``
        can compare.
        """
        return {
            "kind": self.work.kind.name,
            "work": type(self.work).__name__,
            "version": self.work.version,
            "config": fingerprint.canonical(self.work),
            "inputs": {role: need.key for role, need in self.needs.items()},
        }

    @property
    def key(self) -> str:
        """The stage's identity: 64 hexadecimal digits."""
        if not self._key:
            object.__setattr__(self, "_key", fingerprint.fingerprint(self.payload))
        return self._key

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that a worker in another process needs, as JSON; ``load_work`` reads it
        back.
        """
        work, libraries = type(self.work), list(self.work.traits.requires)
        return {
            "key": self.key,
            "label": self.label,
            "kind": self.kind.code,
            "target": f"{work.__module__}.{work.__qualname__}",
            "fields": schema.plain(self.work),
            "payload": self.payload,
            "needs": {role: need.key for role, need in self.needs.items()},
            "resources": {
                k: v for k, v in schema.plain(self.resources).items() if v is not None and v != {}
            },
            **({"libraries": libraries} if libraries else {}),
        }


def load_work(spec: Mapping[str, Any]) -> Work:
    """The work that ``Stage.spec`` described."""
    target = schema.load_target(str(spec["target"]), "target")
    if not issubclass(target, Work):
        raise ConfigError("target", target.__qualname__, "is not a mosweep.Work")
    work: Work = schema.build(target, spec["fields"], str(spec["label"]))
    return work


@dataclass(frozen=True, slots=True)
class Trial:
    """One complete setting of every factor.

    ``factors`` are those that vary over the sweep, ``config`` is all of it. ``takes`` are patterns
    of the settings that this trial reads beside those that concern every trial.
    """

    name: str
    factors: Mapping[str, Json]
    stages: tuple[Stage, ...]
    control: bool = False
    config: Mapping[str, Json] = field(default_factory=dict, repr=False)
    takes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Identity of the trial: that of its last stages."""
        return fingerprint.fingerprint([stage.key for stage in self.stages])


def in_order(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages and all they need, each once, by key, needs before those who need them."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for need in stage.needs.values():
                visit(need)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return found


def unique_stages(trials: Iterable[Trial]) -> dict[str, Stage]:
    """Every stage of the trials once, by key, needs first."""
    return in_order(stage for trial in trials for stage in trial.stages)
