"""Loops in this process: the stages of a command line, run one after another against a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.store import Store
from mosweep.core.types import Trial
from mosweep.design.application import planned
from mosweep.design.trials import Builder
from mosweep.launchers.worker import perform_now

SECTIONS = ("eval", "lora", "model", "optim", "tinker", "torchtune")


@dataclass
class Done:
    """What became of a trial: facts by label, the error of the stage that failed, the labels of the
    stages that ran now.
    """

    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    @property
    def trained(self) -> list[int]:
        """The rounds that were trained, whenever."""
        return [
            int(label.split()[1])
            for label, facts in self.facts.items()
            if label.startswith("round ") and "stopped" not in facts
        ]


@dataclass
class Loops:
    """Makes trials of one composed configuration, and runs them."""

    store: Store
    base: Mapping[str, Any]

    def trial(self, *, backend: Mapping[str, Any] | None = None, **changes: Any) -> Trial:
        """A loop, unless ``backend`` names another on the dummy backend without noise. ``changes``
        are settings of ``loop``, or whole sections, of which the base's are kept where they are not
        given.
        """
        quiet = {
            "_target_": "mosweep.backends.dummy.backend.DummyBackend",
            "item_sd": 0.0,
            "seed_sd": 0.0,
        }
        given = dict(backend or {})
        sections = {
            name: {**(self.base[name] or {}), **value}
            for name, value in changes.items()
            if name in SECTIONS
        }
        plain = {
            name: value for name, value in changes.items() if name in ("seed", "primary_metric")
        }
        loop = {
            name: value
            for name, value in changes.items()
            if name not in sections and name not in plain
        }
        config = {
            **self.base,
            "backend": given if "_target_" in given else {**quiet, **given},
            **sections,
            **plain,
        }
        return Builder().trial(
            {**config, "loop": {**self.base["loop"], "enabled": True, **loop}}, {}, "loop"
        )

    def run(self, trial: Trial) -> Done:
        """Run what the store lacks, as a launcher does: what needs a failed stage does not run."""
        done = Done()
        for stage in trial.stages:
            if not all(self.store.read(need.key) for need in stage.needs.values()):
                continue
            started: list[Any] = []
            event = perform_now(self.store, stage.spec, started.append)
            done.ran += [stage.label] if started else []
            if event["event"] == "failed":
                done.failed[stage.label] = event["error"]
                continue
            record = self.store.read(stage.key)
            assert record is not None
            done.facts[stage.label], done.folders[stage.label] = record.facts, record.folder
        return done


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    (trial, *_), _ = planned(["backend=dummy", "eval.items=5"])
    return trial.config


@pytest.fixture
def loops(tmp_path: Path, composed: Mapping[str, Any]) -> Loops:
    return Loops(Store(tmp_path / "store"), composed)


@pytest.fixture(scope="session")
def fresh_loops(
    tmp_path_factory: pytest.TempPathFactory, composed: Mapping[str, Any]
) -> Callable[[], Loops]:
    """For property tests: a new store at each call."""
    return lambda: Loops(Store(tmp_path_factory.mktemp("loops") / "store"), composed)
