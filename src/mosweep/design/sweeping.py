"""The work of mosweep's sweeper and launchers: plan and run all trials of a sweep together.

All trials are composed, checked and named before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, env_override
from hydra.types import HydraContext
from omegaconf import DictConfig

from mosweep.analysis.contrasts import compared, contrasts_of
from mosweep.core.results import SweepResult
from mosweep.design.designs import (
    Composed,
    Design,
    compose_trials,
    config_of,
    frozen_design,
    sweep_folder,
)
from mosweep.design.hydra_options import environment_of
from mosweep.design.jobs import exit_status, failure, launch_stock, objective
from mosweep.execution.launch import run_trials
from mosweep.launchers.base import Launcher
from mosweep.launchers.lookup import build_launcher, describe

__all__ = ["launch", "sweep"]


def sweep(
    config: DictConfig,
    context: HydraContext,
    launcher: Any,
    arguments: Sequence[str],
    *,
    together: bool,
) -> Any:
    """Run a command's trials for ``hydra/sweeper=mosweep`` and return the exit status.

    ``together``: the launcher takes all trials at once. Hydra's own launchers take one per job.
    """
    design = Design(context.config_loader, config, arguments)
    if not together:
        return launch_stock(config, context, launcher, design)
    launcher.factor_keys = design.factors_in(sweep_folder(config))
    result, _, options = _run_planned(launcher, design.overrides)
    return exit_status(result.trials, waited=options.waits)


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Run trials with a mosweep launcher for another sweeper.

    Returns one ``JobReturn`` per trial, with its primary metric.
    """
    returns: list[JobReturn] = []
    result, composed, _ = _run_planned(launcher, job_overrides)
    # Trials are matched by id: in the sweep's folder their names may differ.
    results = {trial.id: trial for trial in result.trials}
    configs = {trial.id: trial.config for trial in composed.trials}
    for overrides, trial_id in zip(job_overrides, composed.ids, strict=True):
        trial = results[trial_id]
        succeeded = trial.status == "succeeded"
        value = objective(trial, configs[trial_id]) if succeeded else failure(trial)
        returned = JobReturn(
            overrides=list(overrides),
            status=JobStatus.COMPLETED if succeeded else JobStatus.FAILED,
        )
        returned.return_value = value
        returns.append(returned)
    return returns


def _run_planned(
    launcher: Any, overrides: Sequence[Sequence[str]]
) -> tuple[SweepResult, Composed, Launcher]:
    config = launcher.config
    options = build_launcher(launcher.options)
    loader = launcher.hydra_context.config_loader
    composed = compose_trials(config, loader, overrides, launcher.factor_keys)
    trials = composed.trials
    environment = environment_of(config.hydra)
    options = options.exporting(environment)
    design = frozen_design(trials, launcher.factor_keys, environment)
    design["launcher"] = describe(options)
    control = any(trial.control for trial in trials)
    # Wrong contrasts are refused before anything runs.
    contrasts_of(design["contrasts"], compared(design), control=control)
    first = config_of(trials[0])
    with env_override(environment):
        result = run_trials(trials, first, sweep_folder(config), design, options)
    return result, composed, options
