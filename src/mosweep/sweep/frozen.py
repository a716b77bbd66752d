"""The frozen trials of a sweep, rebuilt without Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosweep.core import schema
from mosweep.core.errors import UserError
from mosweep.core.types import Stage, Trial, load_work
from mosweep.core.work import Resources
from mosweep.sweep.folder import Sweep
from mosweep.sweep.launches import Launch, joined_stages

__all__ = ["frozen_trials"]


def frozen_trials(sweep: Sweep) -> tuple[list[Trial], Launch]:
    """The trials of all launches, rebuilt as they were frozen, and the latest launch."""
    if not sweep.launches:
        raise UserError(f"{sweep.folder}: the sweep has no launch; run its command first")
    trials: dict[str, Trial] = {}
    for launch in sweep.launches:
        stages: dict[str, Stage] = {}
        for key, spec in launch.specs().items():
            stages[key] = _stage_of(spec, stages)
        for trial in launch.trials:
            name = trial["name"]
            trial_stages = [stages[key] for key in trial["stages"]]
            if name in trials:
                trial_stages = joined_stages(trials[name].stages, trial_stages)
            trials[name] = Trial(name, trial["factors"], tuple(trial_stages), trial["control"])
    return list(trials.values()), sweep.launches[-1]


def _stage_of(spec: Mapping[str, Any], known: Mapping[str, Stage]) -> Stage:
    resources = schema.build(Resources, spec.get("resources", {}), "resources")
    stage = Stage(
        str(spec["label"]),
        load_work(spec),
        {role: known[key] for role, key in spec["needs"].items()},
        resources,
    )
    if stage.key != spec["key"]:
        raise UserError(
            f"{spec['label']}: this version of mosweep has a different key for the frozen stage "
            f"({spec['key'][:12]} → {stage.key[:12]}); run the sweep's command again"
        )
    return stage
