"""From composed configurations to trials that run: what mosweep's sweeper and launcher do, and
Hydra's task function.

Everything is composed, checked and named before anything is written. Under mosweep's launcher all
trials of a sweep are planned together; under a launcher of Hydra's own every trial is a job of its
own, and the store keeps them from doing anything twice.
"""

from __future__ import annotations

import copy
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from mosweep.analysis.contrasts import compared, contrasts_of
from mosweep.config.groups import Config
from mosweep.config.resources import whole
from mosweep.core import schema
from mosweep.core.errors import MosweepError, StageError, UserError, choices
from mosweep.core.results import SweepResult, TrialResult
from mosweep.core.types import Trial, unique_stages
from mosweep.design.compose import Composer
from mosweep.design.trials import Builder, bundles_of, design_overrides
from mosweep.execution.launch import (
    check_access,
    check_installed,
    finish,
    launcher_of,
    prepare,
    run_trials,
    store_of,
)
from mosweep.launchers.base import Launcher
from mosweep.launchers.local import Local
from mosweep.sweep.folder import UNKNOWN, Sweep, level_of
from mosweep.sweep.plan import make_plan

__all__ = [
    "Design",
    "compose_trials",
    "config_of",
    "launch",
    "run_single_trial",
    "run_whole_trial",
    "sweep",
]


class Design:
    """The trials of one command: override lists, and what varies among them."""

    def __init__(self, loader: Any, master: DictConfig, arguments: Sequence[str]) -> None:
        job = _job(master, resolve=False)
        designed, factor_keys = design_overrides(
            job.get("controls"),
            job.get("treatments"),
            job.get("seeds"),
            job.get("setting"),
            job.get("tags"),
        )
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        written = BasicSweeper.split_arguments(parsed, None)[0]
        swept = [
            str(override.get_key_element()) for override in parsed if override.is_sweep_override()
        ]
        self.factor_keys = list(dict.fromkeys([*factor_keys, *swept]))
        # What is written on the command line wins over the design.
        given = {str(override.get_key_element()) for override in parsed}
        base = list(
            {
                tuple(o for o in overrides if o.partition("=")[0] not in given): None
                for overrides in designed
            }
        )
        self.overrides = [[*overrides, *extra] for overrides in base for extra in written]

    def factors_in(self, folder: Path) -> list[str]:
        """The keys of the design's factors, among the trials that are in ``folder`` already: also
        what those differ in, from each other or from these.
        """
        earlier = Sweep(folder)
        known = dict.fromkeys(
            [
                *self.factor_keys,
                *(
                    key
                    for one in earlier.launches
                    for trial in one.trials
                    for key in trial["factors"]
                ),
            ]
        )
        first = [earlier.config(one.trials[0]["name"]) for one in earlier.launches if one.trials]
        levels = _Levels()
        for key, level in _factors(levels, self.overrides[0], None).items() if first else ():
            if any(
                (before := level_of(config, key)) is not UNKNOWN and before != level
                for config in first
                if config
            ):
                known[key] = None
        return list(known)


def sweep(
    config: DictConfig, context: HydraContext, launcher: Any, arguments: Sequence[str]
) -> Any:
    """What ``hydra/sweeper=mosweep`` does: the command's trials, launched together."""
    from hydra_plugins.mosweep.plugin import PlanningLauncher

    design = Design(context.config_loader, config, arguments)
    if isinstance(launcher, PlanningLauncher):
        launcher.factor_keys = design.factors_in(_folder(config))
        return _launch(launcher, design.overrides)
    return _launch_stock(config, context, launcher, design)


def compose_trials(
    config: DictConfig,
    loader: Any,
    overrides: Sequence[Sequence[str]],
    factor_keys: Sequence[str] | None,
) -> list[Trial]:
    """The trials of override lists, with their control trials, all checked."""
    composer, builder = Composer(loader, config), Builder()
    levels = _Levels()
    trials: dict[str, Trial] = {}
    for index, override_list in enumerate(overrides):
        trial = builder.trial(
            composer.compose(override_list), _factors(levels, override_list, factor_keys)
        )
        name = trial.name if trial.name not in trials else f"{trial.name}~{index}"
        trials[name] = (
            trial if name == trial.name else builder.trial(trial.config, trial.factors, name)
        )
    return builder.with_controls(list(trials.values()))


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """What mosweep's launchers do for other sweepers: one ``JobReturn`` per trial, holding its
    primary metric.
    """
    returns: list[JobReturn] = []
    result, trials, _ = _run_planned(launcher, job_overrides)
    # names may have changed in the sweep's folder
    by_id = {trial.id: trial for trial in result.trials}
    for overrides, trial in zip(job_overrides, trials, strict=False):
        done = by_id[trial.id]
        value = _objective(done, trial.config) if done.status == "succeeded" else _failure(done)
        returned = JobReturn(
            overrides=list(overrides),
            status=JobStatus.COMPLETED if done.status == "succeeded" else JobStatus.FAILED,
        )
        returned.return_value = value
        returns.append(returned)
    return returns


def _launch(launcher: Any, overrides: Sequence[Sequence[str]]) -> int:
    result, _, options = _run_planned(launcher, overrides)
    return _exit_status(result.trials, waited=getattr(options, "wait", True))


def _run_planned(
    launcher: Any, overrides: Sequence[Sequence[str]]
) -> tuple[SweepResult, list[Trial], Launcher]:
    config = launcher.config
    given = {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in launcher.options.items()
    }
    options = launcher_of({launcher.kind: given})
    trials = compose_trials(
        config, launcher.hydra_context.config_loader, overrides, launcher.factor_keys
    )
    folder = _folder(config)
    design = _design(trials, launcher.factor_keys) | {
        "launcher": {launcher.kind: schema.plain(options)}
    }
    # a mistake is told now
    contrasts_of(
        design["contrasts"], compared(design), control=any(trial.control for trial in trials)
    )
    return run_trials(trials, config_of(trials[0]), folder, design, options), trials, options


def _launch_stock(config: DictConfig, context: HydraContext, launcher: Any, design: Design) -> int:
    """Under a launcher of Hydra's own every trial is one job, run whole; trials are checked, named
    and reported here.
    """
    folder = _folder(config)
    factor_keys = design.factors_in(folder)
    trials = compose_trials(config, context.config_loader, design.overrides, factor_keys)
    first = config_of(trials[0])
    store, sweep_folder = store_of(first), Sweep(folder)
    plan = make_plan(trials, store)
    check_installed(plan, first)
    check_access(plan, store)
    if (
        type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher")
        and "slurm" in str(config.hydra.launcher._target_).lower()
    ):
        _place_whole_trials(launcher, trials)
    trials = prepare(trials, first, store, sweep_folder, _design(trials, factor_keys))
    lists = [list(overrides) for overrides in design.overrides]
    sources = {trial.name: overrides for trial, overrides in zip(trials, lists, strict=False)}
    jobs = []
    for trial in trials:
        overrides = sources.get(trial.name) or [*_source_of(trial, trials, lists), "control=true"]
        jobs.append([*overrides, f"hydra.sweep.subdir='{trial.name}'"])
    for returned in launcher.launch(jobs, initial_job_idx=0):
        if returned.status == JobStatus.FAILED and not isinstance(
            returned._return_value, StageError
        ):
            raise returned._return_value
    result = finish(trials, first, store, sweep_folder)
    return _exit_status(result.trials)


#: What a stage asks for, under hydra-submitit-launcher's names.
_SUBMITIT = {
    "ntasks_per_node": "tasks_per_node",
    "cpus": "cpus_per_task",
    "gpus": "gpus_per_node",
    "time_min": "timeout_min",
}


def _place_whole_trials(launcher: Any, trials: Sequence[Trial]) -> None:
    """Tell the stock Slurm launcher what trials ask for, if it is the same for all: it has one
    setting for the whole sweep.
    """
    asked = {
        trial.name: whole(stage.resources for stage in unique_stages([trial]).values())
        for trial in trials
    }
    (one, first), *others = asked.items()
    for other, differing in others:
        if differing != first:
            keys = [key for key in {**first, **differing} if first.get(key) != differing.get(key)]
            shown = ", ".join(f"{key} {first.get(key)} and {differing.get(key)}" for key in keys)
            raise UserError(
                f"hydra/launcher=submitit_slurm: gives every trial the same resources, but {one} "
                f"and {other} ask for {shown}; "
                "use hydra/launcher=slurm, which places every stage on resources of its own"
            )
    for key, value in first.items():
        name = _SUBMITIT.get(key, key)
        launcher.params[name] = int(value) if key == "time_min" and value == int(value) else value


def _source_of(control: Trial, trials: Sequence[Trial], lists: Sequence[list[str]]) -> list[str]:
    """The overrides of a trial that ``control`` is the control of."""
    for trial, overrides in zip(trials, lists, strict=False):
        if all(trial.factors.get(key) == value for key, value in control.factors.items()):
            return overrides
    raise AssertionError(f"{control.name} is no trial's control")


def run_whole_trial(config: DictConfig) -> float | None:
    """Hydra's task function: all stages of one trial, in this job. Raises ``StageError`` if one
    fails.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    trial = Builder().trial(
        _job(config), _factors(_Levels(), list(hydra.overrides.task), None), folder.name
    )
    typed, sweep_folder = config_of(trial), Sweep(folder.parent)
    if not any(
        trial.id == known["id"] for launch in sweep_folder.launches for known in launch.trials
    ):
        # A sweeper of Hydra's own: nobody has frozen the design, so each job adds its trial.
        prepare([trial], typed, store_of(typed), sweep_folder, _design([trial], None))
    result = run_trials([trial], typed, folder.parent, {}, Local(workers=1), within=True)
    done = next(found for found in result.trials if found.id == trial.id)
    if done.status != "succeeded":
        raise _failure(done)
    return _objective(done, trial.config)


def run_single_trial(config: DictConfig, loader: ConfigLoader) -> int:
    """``mosweep`` without ``-m``: one trial, as one Hydra job; the exit status."""
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    assert isinstance(overrides, list)
    trial = Builder().trial(
        _job(config), _factors(_Levels(), [str(override) for override in overrides], None)
    )
    status = 1

    def task(job: DictConfig) -> float | None:
        nonlocal status
        folder = Path(HydraConfig.get().runtime.output_dir)
        result = run_trials([trial], config_of(trial), folder, _design([trial], None), Local())
        status = _exit_status(result.trials)
        return _objective(result.trials[0], trial.config)

    config.hydra.mode = RunMode.RUN
    context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
    # raises what the task raised
    _ = run_job(task, config, "hydra.run.dir", None, context).return_value
    return status


def config_of(trial: Trial) -> Config:
    """The typed configuration of a trial."""
    return Builder().config(trial.config)


# -- small parts -----------------------------------------------------------------------------------


class _Levels:
    """Key and level of overrides, each parsed once."""

    def __init__(self) -> None:
        self.parser = OverridesParser.create()
        self.known: dict[str, tuple[str, Any]] = {}

    def of(self, override: str) -> tuple[str, Any]:
        """Key and level of an override."""
        if override not in self.known:
            key, _, text = override.partition("=")
            if re.fullmatch(r"[A-Za-z_][\w.]*", key) and re.fullmatch(r"-?(0|[1-9]\d*)", text):
                self.known[override] = (key, int(text))
            else:
                parsed = self.parser.parse_override(override)
                value = parsed.value()
                self.known[override] = (
                    str(parsed.get_key_element()).lstrip("+"),
                    _plain_value(value),
                )
        return self.known[override]


def _plain_value(value: Any) -> Any:
    if isinstance(value, str | int | float | bool) or value is None:
        return str(value) if type(value) not in (str, int, float, bool, type(None)) else value
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain_value(item) for key, item in value.items()}
    return str(value)


#: Overrides that place or label a sweep; they are no factors of a single run.
_NOT_FACTORS = frozenset(
    "experiment tracking store budget contamination hydra tasks_dir data_dir model_dir resources "
    "run_control_trials primary_metric "
    "contrasts delta controls treatments seeds setting tags".split()
)


def _factors(
    known: _Levels, overrides: Sequence[str], keys: Sequence[str] | None
) -> dict[str, Any]:
    """Levels of the factors ``keys``; without them, of every override that is about the science."""
    levels = {}
    wanted = None if keys is None else set(keys)
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if (
            (key in wanted)
            if wanted is not None
            else key.split(".")[0].split("/")[0] not in _NOT_FACTORS
        ):
            name, value = known.of(override)
            levels[name] = value
    return levels


def _folder(config: DictConfig) -> Path:
    """The sweep's folder."""
    return Path(str(config.hydra.sweep.dir)).absolute()


def _job(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    job = copy.copy(config)
    OmegaConf.set_struct(job, False)
    job.pop("hydra", None)
    plain = OmegaConf.to_container(job, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _design(trials: Sequence[Trial], factor_keys: Sequence[str] | None) -> dict[str, Any]:
    """What is frozen at launch: the design itself, not the circumstances."""
    first = trials[0].config
    keys = list(factor_keys) if factor_keys is not None else list(trials[0].factors)
    levels = {key: found for key in keys if (found := _levels(key, trials))}
    bundles = bundles_of(first.get("treatments"), trials)
    name = first.get("experiment", {}).get("name")
    return {
        "name": None if name == "???" else name,
        "description": first.get("experiment", {}).get("description"),
        "command": shlex.join(["mosweep", *sys.argv[1:]]),
        "treatments": levels,
        **({"bundles": bundles} if bundles else {}),
        "run_control_trials": first.get("run_control_trials"),
        "primary_metric": first.get("primary_metric"),
        "contrasts": first.get("contrasts"),
        "delta": first.get("delta"),
        "trials": len(trials),
    }


def _levels(key: str, trials: Sequence[Trial]) -> list[Any]:
    found: dict[str, Any] = {}
    for trial in trials:
        if key in trial.factors:
            found.setdefault(str(trial.factors[key]), trial.factors[key])
    return list(found.values())


def _objective(trial: TrialResult, config: Mapping[str, Any]) -> float | None:
    """The trial's primary metric: the one named, otherwise the first."""
    name = config.get("primary_metric")
    if name and name not in trial.metrics and trial.status == "succeeded":
        raise MosweepError(
            f"primary_metric={name}: {trial.name} has no such metric; "
            f"{choices(str(name), trial.metrics)}"
        )
    return trial.metrics.get(name) if name else next(iter(trial.metrics.values()), None)


def _failure(trial: TrialResult) -> StageError:
    for stage in trial.stages:
        if stage.status in ("failed", "cancelled"):
            return StageError(
                f"{trial.name}: {stage.label} failed: {stage.error}",
                str(stage.log) if stage.log else None,
            )
    return StageError(f"{trial.name}: did not finish")


def _exit_status(trials: Sequence[TrialResult], *, waited: bool = True) -> int:
    fine = ("succeeded",) if waited else ("succeeded", "running", "pending")
    return 0 if all(trial.status in fine for trial in trials) else 1
