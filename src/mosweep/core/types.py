"""Stages and trials, the central types of mosweep.

This module does no I/O, except that it has the code of users' own works digested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mosweep.core import fingerprint, schema
from mosweep.core.errors import ConfigError
from mosweep.core.task_code import check_code, code_digest, current_work_code, work_code
from mosweep.core.work import Json, Kind, Resources, Work

__all__ = ["Stage", "Status", "Trial", "check_own_code", "in_order", "load_work", "unique_stages"]

Status = Literal["succeeded", "failed", "running", "pending", "cancelled"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a trial: the unit of caching, placement and retry.

    Stages with the same ``key`` are the same stage.
    """

    label: str
    work: Work
    needs: Mapping[str, Stage] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    _key: str = field(default="", init=False, repr=False, compare=False)

    @property
    def kind(self) -> Kind:
        """The kind of its work."""
        return self.work.kind

    @property
    def payload(self) -> dict[str, Any]:
        """Everything that defines the result, in canonical form.

        The record keeps it, so that ``explain`` can compare payloads.
        """
        return {
            "kind": self.work.kind.name,
            "work": type(self.work).__name__,
            "version": self.work.version,
            "config": fingerprint.canonical(self.work),
            "inputs": {role: need.key for role, need in self.needs.items()},
            **_own_code(type(self.work)),
        }

    @property
    def key(self) -> str:
        """The stage's identity: 64 hexadecimal digits."""
        if not self._key:
            object.__setattr__(self, "_key", fingerprint.fingerprint(self.payload))
        return self._key

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that a worker process needs, as JSON. ``load_work`` reads it."""
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


def _own_code(work: type[Work]) -> dict[str, str]:
    """The digest of the code of a work that is not mosweep's: it has no tested ``version``."""
    if work.__module__.startswith("mosweep."):
        return {}
    files = work_code(work)
    return {"code": code_digest(files)} if files else {}


def check_own_code(work: Work, payload: Mapping[str, Any]) -> None:
    """Raise ``StageError`` if the code of a user's own work was edited since it was planned."""
    if planned := payload.get("code"):
        name = f"{type(work).__module__}.{type(work).__qualname__}"
        check_code(current_work_code(type(work)), planned, f"the code of {name}")


def load_work(spec: Mapping[str, Any]) -> Work:
    """The work that a ``Stage.spec`` describes."""
    target = schema.load_target(str(spec["target"]), "target")
    if not issubclass(target, Work):
        raise ConfigError("target", target.__qualname__, "is not a mosweep.Work")
    work: Work = schema.build(target, spec["fields"], str(spec["label"]))
    return work


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of a sweep.

    ``factors`` are its levels of the settings that vary over the sweep, and ``config`` is its full
    configuration. ``takes`` are patterns of the settings that it reads, besides those that every
    trial reads.
    """

    name: str
    factors: Mapping[str, Json]
    stages: tuple[Stage, ...]
    control: bool = False
    config: Mapping[str, Json] = field(default_factory=dict, repr=False)
    takes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The trial's identity: a digest of its stages' keys."""
        return fingerprint.fingerprint([stage.key for stage in self.stages])


def in_order(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages and all their inputs, by key. A stage comes after its inputs."""
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in ordered:
            for need in stage.needs.values():
                visit(need)
            ordered[stage.key] = stage

    for stage in stages:
        visit(stage)
    return ordered


def unique_stages(trials: Iterable[Trial]) -> dict[str, Stage]:
    """All stages of the trials, by key. A stage comes after its inputs."""
    return in_order(stage for trial in trials for stage in trial.stages)
