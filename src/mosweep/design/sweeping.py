"""What mosweep's sweeper and launchers do: all trials of a sweep are planned and run together.

Everything is composed, checked and named before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
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
    """What ``hydra/sweeper=mosweep`` does with a command's trials.

    ``together``: the launcher takes all of them at once. Hydra's own take one trial a job.
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
    """What mosweep's launchers do for other sweepers: one ``JobReturn`` per trial, holding its
    primary metric.
    """
    returns: list[JobReturn] = []
    result, composed, _ = _run_planned(launcher, job_overrides)
    # names may have changed in the sweep's folder
    by_id = {trial.id: trial for trial in result.trials}
    configs = {trial.id: trial.config for trial in composed.trials}
    for overrides, trial_id in zip(job_overrides, composed.ids, strict=True):
        done = by_id[trial_id]
        succeeded = done.status == "succeeded"
        value = objective(done, configs[trial_id]) if succeeded else failure(done)
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
    design = frozen_design(trials, launcher.factor_keys) | {"launcher": describe(options)}
    control = any(trial.control for trial in trials)
    contrasts_of(design["contrasts"], compared(design), control=control)  # a mistake is told now
    first = config_of(trials[0])
    return run_trials(trials, first, sweep_folder(config), design, options), composed, options
