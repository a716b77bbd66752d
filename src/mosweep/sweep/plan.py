"""Trials against a store: which stages are done, which run elsewhere, which are to run. Pure:
prints and submits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from mosweep.config.groups import Budget
from mosweep.core.claims import Owner
from mosweep.core.store import Record, Store
from mosweep.core.types import Stage, Trial, unique_stages

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What a set of trials needs. ``stages`` holds every unique stage by key, needs first;
    ``budget`` is what running it may take.
    """

    trials: Sequence[Trial]
    stages: Mapping[str, Stage]
    records: Mapping[str, Record]
    running: Mapping[str, Owner]
    budget: Budget = field(default_factory=Budget)

    @cached_property
    def to_run(self) -> list[Stage]:
        """Stages without a record, needs first; among them those that others are running right
        now.
        """
        return [stage for key, stage in self.stages.items() if key not in self.records]

    @cached_property
    def trial_of(self) -> dict[str, str]:
        """For each stage the name of the first trial that wants it."""
        names: dict[str, str] = {}
        for trial in self.trials:
            for key in unique_stages([trial]):
                names.setdefault(key, trial.name)
        return names

    def state(self, key: str) -> Literal["cached", "running", "to_run"]:
        """What the plan makes of one stage."""
        return "cached" if key in self.records else "running" if key in self.running else "to_run"

    @property
    def counts(self) -> dict[str, int]:
        """How many unique stages there are in all and in each state."""
        running = sum(key in self.running for key in self.stages if key not in self.records)
        total, cached = len(self.stages), len(self.records)
        return {
            "total": total,
            "cached": cached,
            "running": running,
            "to_run": total - cached - running,
        }


def make_plan(trials: Sequence[Trial], store: Store) -> Plan:
    """Look every unique stage of ``trials`` up in ``store``; damaged results are set aside and
    count as missing.
    """
    stages = unique_stages(trials)
    records = {key: record for key in stages if (record := store.read(key))}
    running = store.claims.held() if len(records) < len(stages) else {}
    return Plan(
        trials, stages, records, {key: owner for key, owner in running.items() if key in stages}
    )
