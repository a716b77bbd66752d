"""Frozen launches: the trials and stages of a command as they lie in a sweep's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mosweep.core import fingerprint
from mosweep.core.results import StageResult
from mosweep.core.store import Store
from mosweep.core.types import Stage, Trial

__all__ = [
    "UNKNOWN",
    "Launch",
    "config_digest",
    "described",
    "joined_stages",
    "level_of",
    "to_json",
]


@dataclass(frozen=True)
class Launch:
    """One frozen launch: every trial with the keys of its stages, and for every stage label, kind
    and needs.

    ``file`` is its name in ``launches/``. ``specs`` reads the stages in full, from a file of their
    own.
    """

    file: str
    trials: Sequence[Mapping[str, Any]]
    stages: Mapping[str, Sequence[Any]]
    store_path: str
    design: Mapping[str, Any]
    folder: Path

    @property
    def store(self) -> Store:
        """The store that the launch works on; its path is kept relative to the sweep's folder, so
        that both can move.
        """
        return Store(Path(os.path.normpath(self.folder / self.store_path)))

    @property
    def specs_file(self) -> Path:
        """Where the stages are in full."""
        return self.folder / "launches" / f"{self.file.removesuffix('.json')}.stages.jsonl"

    def specs(self) -> dict[str, dict[str, Any]]:
        """Every stage in full (``Stage.spec``), by key, needs first."""
        with open(self.specs_file, encoding="utf-8") as file:
            return {spec["key"]: spec for spec in map(json.loads, file)}

    def parts(self) -> Iterator[str]:
        """The launch as JSON, piece by piece."""
        yield f'{{"store":{to_json(self.store_path)},"design":{to_json(self.design)},"trials":[\n'
        yield from _joined(to_json(trial) for trial in self.trials)
        yield '\n],"stages":{\n'
        yield from _joined(f"{to_json(key)}:{to_json(about)}" for key, about in self.stages.items())
        yield "\n}}\n"


def described(trial: Trial) -> dict[str, Any]:
    """A trial as its launch keeps it."""
    return {
        "name": trial.name,
        "id": trial.id,
        "config": config_digest(trial.config),
        "factors": trial.factors,
        "control": trial.control,
        "takes": " ".join(trial.takes),
        "stages": [stage.key for stage in trial.stages],
    }


def config_digest(config: Mapping[str, Any]) -> str:
    """Tells configurations of trials apart, not code: an edited task makes other stages of the same
    trial.
    """
    relevant = {
        key: value
        for key, value in config.items()
        if key not in ("tracking", "store", "resources", "budget")
    }
    if isinstance(evaluation := relevant.get("eval"), Mapping):
        # A task added later adds results to the same trial.
        relevant["eval"] = {key: value for key, value in evaluation.items() if key != "tasks"}
    return fingerprint.digest_bytes(json.dumps(relevant, sort_keys=True, default=str).encode())[:16]


#: What ``level_of`` returns for a factor that the configuration does not tell.
UNKNOWN = object()


def level_of(config: Mapping[str, Any], factor: str) -> Any:
    """The level of ``factor`` in a trial's configuration: ``None`` for what is not given; of a
    group its choice's name, ``UNKNOWN`` if the choice does not tell.
    """
    value: Any = config
    for name in factor.split("."):
        if not isinstance(value, Mapping):
            return UNKNOWN
        value = value.get(name)
        if value is None:
            return None
    return value.get("name", UNKNOWN) if isinstance(value, Mapping) else value


def to_json(data: Any) -> str:
    """Compact JSON."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)


def _joined(parts: Iterable[str]) -> Iterator[str]:
    """The parts with commas between them, a line each."""
    for index, part in enumerate(parts):
        yield f",\n{part}" if index else part


T = TypeVar("T", Stage, StageResult)


def joined_stages(earlier: Iterable[T], latest: Sequence[T]) -> list[T]:
    """The stages of a trial over its launches: the latest of each label, and evaluations that only
    an earlier launch asked for, as long as what they evaluated is still the trial's.
    """
    keys, labels = {stage.key for stage in latest}, {stage.label for stage in latest}
    result = list(latest)
    for stage in earlier:
        still = stage.kind.scores and keys.issuperset(_needs(stage))
        if still and stage.label not in labels:
            result.append(stage)
    return result


def _needs(stage: Stage | StageResult) -> Iterator[str]:
    for need in stage.needs.values():
        yield need if isinstance(need, str) else need.key
