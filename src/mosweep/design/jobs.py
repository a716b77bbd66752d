"""Trials as Hydra jobs: under Hydra's own launchers and sweepers, and without ``-m``.

Each job runs all stages of one trial. The store keeps jobs from running a stage twice.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from mosweep.config.resources import combined
from mosweep.core.errors import MosweepError, StageError, UserError, choices
from mosweep.core.results import TrialResult
from mosweep.core.types import Trial, unique_stages
from mosweep.design.designs import (
    Design,
    compose_trials,
    config_of,
    factors_of,
    frozen_design,
    job_config,
    sweep_folder,
)
from mosweep.design.hydra_options import environment_of
from mosweep.design.interpolations import resolved_levels
from mosweep.design.overrides import Levels
from mosweep.design.trials import Builder
from mosweep.execution.launch import (
    check_access,
    check_installed,
    finish,
    prepare,
    run_trials,
    store_of,
)
from mosweep.launchers.lookup import default_launcher
from mosweep.sweep.folder import Sweep
from mosweep.sweep.plan import make_plan

__all__ = [
    "exit_status",
    "failure",
    "launch_stock",
    "objective",
    "run_single_trial",
    "run_whole_trial",
]


def launch_stock(config: DictConfig, context: HydraContext, launcher: Any, design: Design) -> int:
    """Run a design under one of Hydra's own launchers and return the exit status.

    Each trial is one job. Trials are checked, named and reported here.
    """
    folder = sweep_folder(config)
    factor_keys = design.factors_in(folder)
    composed = compose_trials(config, context.config_loader, design.overrides, factor_keys)
    trials = composed.trials
    first = config_of(trials[0])
    store, sweep = store_of(first), Sweep(folder)
    plan = make_plan(trials, store)
    check_installed(plan, first)
    check_access(plan, store)
    if (
        type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher")
        and "slurm" in str(config.hydra.launcher._target_).lower()
    ):
        _request_resources(launcher, trials)
    design_data = frozen_design(trials, factor_keys, environment_of(config.hydra))
    trials = prepare(trials, first, store, sweep, design_data)
    sources = dict(zip(composed.ids, map(list, design.overrides), strict=True))
    jobs = []
    for trial in trials:
        overrides = sources.get(trial.id) or [*_source_of(trial, trials, sources), "control=true"]
        jobs.append([*overrides, f"hydra.sweep.subdir='{trial.name}'"])
    for returned in launcher.launch(jobs, initial_job_idx=0):
        if returned.status == JobStatus.FAILED and not isinstance(
            returned._return_value, StageError
        ):
            raise returned._return_value
    result = finish(trials, first, store, sweep)
    return exit_status(result.trials)


#: hydra-submitit-launcher's names for the resources of a stage.
_SUBMITIT = {
    "ntasks_per_node": "tasks_per_node",
    "cpus": "cpus_per_task",
    "gpus": "gpus_per_node",
    "time_min": "timeout_min",
}


def _request_resources(launcher: Any, trials: Sequence[Trial]) -> None:
    """Pass the trials' resources to Hydra's Slurm launcher.

    It has one setting for the whole sweep, so all trials must request the same.
    """
    requests = {
        trial.name: combined(stage.resources for stage in unique_stages([trial]).values())
        for trial in trials
    }
    (first_name, first), *others = requests.items()
    for name, request in others:
        if request != first:
            keys = [key for key in {**first, **request} if first.get(key) != request.get(key)]
            shown = ", ".join(f"{key} {first.get(key)} and {request.get(key)}" for key in keys)
            raise UserError(
                f"hydra/launcher=submitit_slurm: gives every trial the same resources, but "
                f"{first_name} and {name} request {shown}; use hydra/launcher=slurm, which "
                "submits each stage with its own resources"
            )
    if kind := first.pop("gpu_type", None):
        # It has whole numbers of GPUs only, and a key for all generic resources.
        launcher.params["gres"] = f"gpu:{kind}:{first.pop('gpus')}"
    for key, value in first.items():
        parameter = _SUBMITIT.get(key, key)
        whole_minutes = key == "time_min" and value == int(value)
        launcher.params[parameter] = int(value) if whole_minutes else value


def _source_of(
    control: Trial, trials: Sequence[Trial], sources: Mapping[str, list[str]]
) -> list[str]:
    """The overrides of a trial whose control trial is ``control``."""
    for trial in trials:
        same = all(trial.factors.get(key) == value for key, value in control.factors.items())
        if trial.id in sources and same:
            return sources[trial.id]
    raise AssertionError(f"{control.name} is not the control of any trial")


def run_whole_trial(config: DictConfig) -> float | None:
    """Hydra's task function: run all stages of one trial in this job.

    Returns the trial's primary metric. Raises ``StageError`` if a stage fails.
    """
    hydra = HydraConfig.get()
    # With hydra.job.chdir, Hydra has moved the job into its output folder. Paths are relative to
    # where the command was given.
    os.chdir(hydra.runtime.cwd)
    folder = Path(hydra.runtime.output_dir)
    builder, overrides = Builder(), list(hydra.overrides.task)
    plain = job_config(config)
    factors = resolved_levels(factors_of(Levels(), overrides, None), plain)
    trial = builder.trial(plain, factors, folder.name)
    typed, sweep = config_of(trial), Sweep(folder.parent)
    if not any(trial.id == known["id"] for launch in sweep.launches for known in launch.trials):
        # Under one of Hydra's own sweepers the design is neither checked nor frozen beforehand, so
        # each job adds its trial.
        builder.refuse_unread()
        design = frozen_design([trial], None, environment_of(hydra))
        prepare([trial], typed, store_of(typed), sweep, design)
    result = run_trials([trial], typed, folder.parent, {}, default_launcher(workers=1), within=True)
    trial_result = next(other for other in result.trials if other.id == trial.id)
    if trial_result.status != "succeeded":
        raise failure(trial_result)
    return objective(trial_result, trial.config)


def run_single_trial(config: DictConfig, loader: ConfigLoader) -> int:
    """Run ``mosweep`` without ``-m``: one trial, as one Hydra job. Returns the exit status."""
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    assert isinstance(overrides, list)
    builder = Builder()
    plain = job_config(config)
    levels = factors_of(Levels(), [str(override) for override in overrides], None)
    trial = builder.trial(plain, resolved_levels(levels, plain))
    builder.refuse_unread()
    status = 1

    def task(job: DictConfig) -> float | None:
        nonlocal status
        folder = Path(HydraConfig.get().runtime.output_dir)
        design = frozen_design([trial], None, environment_of(config.hydra))
        result = run_trials([trial], config_of(trial), folder, design, default_launcher())
        status = exit_status(result.trials)
        return objective(result.trials[0], trial.config)

    config.hydra.mode = RunMode.RUN
    context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
    # ``return_value`` raises the task's exception.
    _ = run_job(task, config, "hydra.run.dir", None, context).return_value
    return status


def objective(trial: TrialResult, config: Mapping[str, Any]) -> float | None:
    """The trial's primary metric: ``primary_metric`` if set, otherwise the first."""
    name = config.get("primary_metric")
    if name and name not in trial.metrics and trial.status == "succeeded":
        raise MosweepError(
            f"primary_metric={name}: {trial.name} has no such metric; "
            f"{choices(str(name), trial.metrics)}"
        )
    return trial.metrics.get(name) if name else next(iter(trial.metrics.values()), None)


def failure(trial: TrialResult) -> StageError:
    """The error that explains why a trial did not succeed."""
    for stage in trial.stages:
        if stage.status in ("failed", "cancelled"):
            return StageError(
                f"{trial.name}: {stage.label} failed: {stage.error}",
                str(stage.log) if stage.log else None,
            )
    return StageError(f"{trial.name}: did not finish")


def exit_status(trials: Sequence[TrialResult], *, waited: bool = True) -> int:
    """0 if all trials succeeded, else 1. Without ``waited`` they may also be unfinished."""
    expected = ("succeeded",) if waited else ("succeeded", "running", "pending")
    return 0 if all(trial.status in expected for trial in trials) else 1
