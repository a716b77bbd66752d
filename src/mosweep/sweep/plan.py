"""The plan of trials: which stages are cached, which run elsewhere, which are to run.

Planning only reads. It must not print or submit anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from mosweep.config.groups import Budget
from mosweep.core.claims import Owner
from mosweep.core.reuse import find
from mosweep.core.store import Record, Store
from mosweep.core.types import Stage, Trial, unique_stages

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The state of every stage of a set of trials.

    ``stages`` has every unique stage by key, each after the stages it needs. ``found`` are the
    stages whose record is that of another stage with the same content. ``maybe`` are stages to run
    that may turn out to be finished, once their inputs are there. ``budget`` limits what running
    the plan may take.
    """

    trials: Sequence[Trial]
    stages: Mapping[str, Stage]
    records: Mapping[str, Record]
    running: Mapping[str, Owner]
    budget: Budget = field(default_factory=Budget)
    found: frozenset[str] = frozenset()
    maybe: frozenset[str] = frozenset()

    @cached_property
    def to_run(self) -> list[Stage]:
        """The stages without a record, each after the stages it needs.

        They include stages that other processes are running.
        """
        return [stage for key, stage in self.stages.items() if key not in self.records]

    @cached_property
    def trial_of(self) -> dict[str, str]:
        """The name of the first trial that needs each stage, by the stage's key."""
        names: dict[str, str] = {}
        for trial in self.trials:
            for key in unique_stages([trial]):
                names.setdefault(key, trial.name)
        return names

    def state(self, key: str) -> Literal["cached", "running", "to_run"]:
        """The state of one stage."""
        return "cached" if key in self.records else "running" if key in self.running else "to_run"

    @property
    def counts(self) -> dict[str, int]:
        """The number of unique stages, in all and in each state."""
        running = sum(key in self.running for key in self.stages if key not in self.records)
        total, cached = len(self.stages), len(self.records)
        return {
            "total": total,
            "cached": cached,
            "running": running,
            "to_run": total - cached - running,
            "maybe": len(self.maybe),
        }


def make_plan(trials: Sequence[Trial], store: Store) -> Plan:
    """Look up every unique stage of ``trials`` in ``store``.

    Damaged results go to quarantine and count as missing.
    """
    stages = unique_stages(trials)
    records: dict[str, Record] = {}
    found: set[str] = set()
    maybe: set[str] = set()
    searching = not store.contents.empty
    for key, stage in stages.items():
        record = store.read(key)
        if record is None and searching and stage.needs:
            if all(need.key in records for need in stage.needs.values()):
                if record := find(store, stage, records):
                    found.add(key)
            elif store.contents.has_shape(stage.payload):
                maybe.add(key)
        if record is not None:
            records[key] = record
    running = store.claims.held() if len(records) < len(stages) else {}
    return Plan(
        trials,
        stages,
        records,
        {key: owner for key, owner in running.items() if key in stages},
        found=frozenset(found),
        maybe=frozenset(maybe),
    )
