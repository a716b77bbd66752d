"""Frozen launches: the trials and stages of a command, as kept in a sweep's folder."""

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
    """One frozen launch.

    It has every trial with the keys of its stages, and every stage with label, kind and needs.
    ``file`` is its name in ``launches/``. ``specs`` reads the full stages from a second file.
    """

    file: str
    trials: Sequence[Mapping[str, Any]]
    stages: Mapping[str, Sequence[Any]]
    store_path: str
    design: Mapping[str, Any]
    folder: Path

    @property
    def store(self) -> Store:
        """The launch's store.

        Its path is kept relative to the sweep's folder, so that both can be moved together.
        """
        return Store(Path(os.path.normpath(self.folder / self.store_path)))

    @property
    def specs_file(self) -> Path:
        """The file with the full stages."""
        return self.folder / "launches" / f"{self.file.removesuffix('.json')}.stages.jsonl"

    def specs(self) -> dict[str, dict[str, Any]]:
        """The full stages (``Stage.spec``) by key. A stage comes after the stages it needs."""
        with open(self.specs_file, encoding="utf-8") as file:
            return {spec["key"]: spec for spec in map(json.loads, file)}

    @property
    def configs_file(self) -> Path:
        """The file with the trials' full configurations."""
        return self.folder / "launches" / f"{self.file.removesuffix('.json')}.configs.jsonl"

    def configs(self) -> dict[str, dict[str, Any]]:
        """The full configurations by trial. Empty if an earlier version froze the launch."""
        values: list[Any] = []
        configs = {}
        try:
            with open(self.configs_file, encoding="utf-8") as file:
                for name, config, new in map(json.loads, file):
                    values += new
                    configs[name] = {key: values[index] for key, index in config.items()}
        except FileNotFoundError:
            return {}
        return configs

    def parts(self) -> Iterator[str]:
        """The launch as JSON, in parts."""
        yield f'{{"store":{to_json(self.store_path)},"design":{to_json(self.design)},"trials":[\n'
        yield from _joined(to_json(trial) for trial in self.trials)
        yield '\n],"stages":{\n'
        yield from _joined(f"{to_json(key)}:{to_json(about)}" for key, about in self.stages.items())
        yield "\n}}\n"


def described(trial: Trial) -> dict[str, Any]:
    """The trial as data for a launch's file."""
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
    """A short digest of a trial's configuration.

    It leaves out code: with an edited task, a trial has other stages but is the same trial.
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


#: What ``level_of`` returns if the configuration does not show a factor's level.
UNKNOWN = object()


def level_of(config: Mapping[str, Any], factor: str) -> Any:
    """The level of ``factor`` in a trial's configuration, ``None`` if it is not given.

    The level of a group is the name of its choice, or ``UNKNOWN`` if the choice has no name.
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
    """The parts, one per line, with commas between them."""
    for index, part in enumerate(parts):
        yield f",\n{part}" if index else part


T = TypeVar("T", Stage, StageResult)


def joined_stages(earlier: Iterable[T], latest: Sequence[T]) -> list[T]:
    """The stages of a trial over several launches.

    They are the latest ones, and evaluations that only an earlier launch asked for. Such an
    evaluation counts only if the stages that it needs are still the trial's.
    """
    keys = {stage.key for stage in latest}
    labels = {stage.label for stage in latest}
    result = list(latest)
    for stage in earlier:
        still_valid = stage.kind.scores and keys.issuperset(_needs(stage))
        if still_valid and stage.label not in labels:
            result.append(stage)
    return result


def _needs(stage: Stage | StageResult) -> Iterator[str]:
    for need in stage.needs.values():
        yield need if isinstance(need, str) else need.key
