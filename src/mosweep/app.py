"""The Hydra application: everything between the command line and the trials. Hydra is imported here and in ``compose`` only.

Hydra parses, composes, prints ``--cfg`` and ``--info`` and completes in the shell. What it does not do is here: composing a sweep
once instead of once per trial, checking everything before anything is written, and saying in one line what is wrong.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mosweep.compose import Composer, missing_key
from mosweep.config import Config
from mosweep.core.errors import ConfigError, StageError, UserError, choices
from mosweep.core.results import SweepResult, TrialResult
from mosweep.core.types import Trial
from mosweep.experiment import Builder, design_overrides
from mosweep.launchers.local import Local
from mosweep.paths import home, own_and_shipped, shipped
from mosweep.secrets import refuse_secrets

__all__ = ["Design", "compose_design", "hydra_main", "launch", "planned", "sweep"]

CONFIG_NAME = "config"


def hydra_main(arguments: Sequence[str]) -> int:
    """Run the Hydra application; returns the exit status. ``UserError`` for whatever the user can mend."""
    arguments = [_json_quoted(argument) for argument in arguments]
    refuse_secrets(arguments)
    os.environ["MOSWEEP_HOME"] = str(home())  # the same for jobs that Hydra runs in another folder
    parser = get_args_parser()
    args = parser.parse_args(arguments)
    with _Session(args.config_dir) as hydra:
        name = args.config_name or CONFIG_NAME
        if args.help:
            hydra.app_help(config_name=name, args_parser=parser, args=args)
        elif args.hydra_help:
            hydra.hydra_help(config_name=name, args_parser=parser, args=args)
        elif args.cfg:
            hydra.show_cfg(name, args.overrides, args.cfg, args.package, args.resolve)
        elif args.info:
            hydra.show_info(args.info, config_name=name, overrides=args.overrides)
        elif args.shell_completion:
            hydra.shell_completion(config_name=name, overrides=args.overrides)
        elif args.multirun or any(override.strip() == "hydra.mode=MULTIRUN" for override in args.overrides):
            return _multirun(hydra, name, args.overrides)
        else:
            return _single_run(hydra, name, args.overrides)
    return 0


class _Session:
    """Hydra, initialised with mosweep's search path: the user's ``./conf`` first, then the shipped one."""

    def __init__(self, config_dir: str | None = None) -> None:
        self.config_dir = config_dir

    def __enter__(self) -> Hydra:
        main = shipped("conf")
        path = create_config_search_path(str(main))
        own = [folder for folder in own_and_shipped("conf") if folder != main and not folder.samefile(main)]
        if self.config_dir is not None:
            folder = Path(self.config_dir).absolute()
            if not folder.is_dir():
                raise UserError(f"--config-dir {self.config_dir}: no such folder")
            own.insert(0, folder)
        for folder in reversed(own):
            path.prepend("user", f"file://{folder}", "main")
        path.prepend("mosweep", "mosweep-names://", "schema")
        GlobalHydra.instance().clear()
        version.setbase("1.3")
        return Hydra.create_main_hydra2("mosweep", path)

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()


# -- one trial ---------------------------------------------------------------------------------------------------------


def _single_run(hydra: Hydra, name: str, overrides: list[str]) -> int:
    with explained(hydra, name, overrides):
        config = hydra.compose_config(name, overrides, RunMode.RUN)
    if config.hydra.mode == RunMode.MULTIRUN:
        return _multirun(hydra, name, overrides)
    task_overrides = OmegaConf.to_container(config.hydra.overrides.task)
    assert isinstance(task_overrides, list)
    factors = _factors(_Choices(hydra, config), task_overrides, None)
    builder = Builder()
    trial = builder.trial(_job(config), factors)
    from hydra._internal.callbacks import Callbacks

    from mosweep.run import run_trials

    status = 1

    def task(job: DictConfig) -> float | None:
        nonlocal status
        folder = Path(_hydra_config().runtime.output_dir)
        result = run_trials([trial], builder.config(trial.config), folder, _design(job, [trial], None), Local())
        status = _exit_status(result.trials)
        return _objective(result.trials[0], trial.config)

    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    config.hydra.mode = RunMode.RUN
    _ = run_job(task, config, "hydra.run.dir", None, context).return_value
    return status


def _hydra_config() -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


# -- sweeps ------------------------------------------------------------------------------------------------------------


def _multirun(hydra: Hydra, name: str, overrides: list[str]) -> int:
    if not any(override.startswith("hydra.mode=") for override in overrides):
        overrides = [*overrides, "hydra.mode=MULTIRUN"]
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins

    with explained(hydra, name, overrides):
        config = hydra.compose_config(name, overrides, RunMode.MULTIRUN)
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name=name)
        sweeper = Plugins.instance().instantiate_sweeper(
            config=config,
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
            task_function=run_whole_trial,
        )
        arguments = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(arguments, list)
        returned = sweeper.sweep(arguments=arguments)
        callbacks.on_multirun_end(config=config, config_name=name)
    return returned if isinstance(returned, int) else 0


def planned(overrides: Sequence[str]) -> tuple[list[Trial], Config]:
    """The trials that ``mosweep -m overrides`` would run; writes nothing."""
    overrides = [_json_quoted(override) for override in overrides]
    refuse_secrets(overrides)
    with _Session() as hydra, explained(hydra, CONFIG_NAME, overrides):
        config = hydra.compose_config(CONFIG_NAME, [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        arguments = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(arguments, list)
        design = Design(hydra.config_loader, config, arguments)
        trials = compose_design(config, hydra.config_loader, design.overrides, design.factor_keys)
        return trials, Builder().config(trials[0].config)


class Design:
    """The trials of one command: override lists, and what varies among them."""

    def __init__(self, loader: Any, master: DictConfig, arguments: Sequence[str]) -> None:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.override_parser.overrides_parser import OverridesParser

        job = _job(master, resolve=False)
        designed, factor_keys = design_overrides(job.get("controls"), job.get("treatments"), job.get("seeds"))
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        written = BasicSweeper.split_arguments(parsed, None)[0]
        swept = [str(override.get_key_element()) for override in parsed if override.is_sweep_override()]
        self.factor_keys = list(dict.fromkeys([*factor_keys, *swept]))
        # What is written on the command line wins over the design.
        given = {str(override.get_key_element()) for override in parsed}
        base = list({tuple(o for o in overrides if o.partition("=")[0] not in given): None for overrides in designed})
        self.overrides = [[*overrides, *extra] for overrides in base for extra in written]


def sweep(config: DictConfig, context: HydraContext, launcher: Any, arguments: Sequence[str]) -> Any:
    """What ``hydra/sweeper=mosweep`` does: the command's trials, launched together."""
    from hydra_plugins.mosweep.plugin import LocalLauncher

    design = Design(context.config_loader, config, arguments)
    if isinstance(launcher, LocalLauncher):
        launcher.factor_keys = design.factor_keys
        return _launch(launcher, design.overrides)
    return _launch_stock(config, context, launcher, design)


def compose_design(config: DictConfig, loader: Any, overrides: Sequence[Sequence[str]], factor_keys: Sequence[str] | None) -> list[Trial]:
    """The trials of override lists, with their control trials, all checked."""
    composer, builder = Composer(loader, config), Builder()
    chosen = _Choices(loader=loader, config=config)
    trials: dict[str, Trial] = {}
    for index, override_list in enumerate(overrides):
        trial = builder.trial(composer.compose(override_list), _factors(chosen, override_list, factor_keys))
        name = trial.name if trial.name not in trials else f"{trial.name}~{index}"
        trials[name] = trial if name == trial.name else builder.trial(trial.config, trial.factors, name)
    return builder.with_controls(list(trials.values()))


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
    """What ``hydra/launcher=local`` does for other sweepers: one ``JobReturn`` per trial, holding its primary metric."""
    returns: list[JobReturn] = []
    result, trials = _run_local(launcher, job_overrides)
    by_id = {trial.id: trial for trial in result.trials}  # names may have changed in the sweep's folder
    for overrides, trial in zip(job_overrides, trials, strict=False):
        done = by_id[trial.id]
        value = _objective(done, trial.config) if done.status == "succeeded" else _failure(done)
        returned = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED if done.status == "succeeded" else JobStatus.FAILED)
        returned.return_value = value
        returns.append(returned)
    return returns


def _launch(launcher: Any, overrides: Sequence[Sequence[str]]) -> int:
    result, _ = _run_local(launcher, overrides)
    return _exit_status(result.trials)


def _run_local(launcher: Any, overrides: Sequence[Sequence[str]]) -> tuple[SweepResult, list[Trial]]:
    from mosweep.core import schema
    from mosweep.run import run_trials

    config = launcher.config
    options = schema.build(Local, {"workers": launcher.workers}, "hydra.launcher")
    trials = compose_design(config, launcher.hydra_context.config_loader, overrides, launcher.factor_keys)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    first = Builder().config(trials[0].config)
    return run_trials(trials, first, folder, _design(config, trials, launcher.factor_keys), options), trials


def _launch_stock(config: DictConfig, context: HydraContext, launcher: Any, design: Design) -> int:
    """Under a launcher of Hydra's own every trial is one job, run whole; trials are checked, named and reported here."""
    from mosweep.run import finish, prepare

    trials = compose_design(config, context.config_loader, design.overrides, design.factor_keys)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    first = Builder().config(trials[0].config)
    trials, store, sweep_folder = prepare(trials, first, folder, _design(config, trials, design.factor_keys))
    lists = [list(overrides) for overrides in design.overrides]
    sources = {trial.name: overrides for trial, overrides in zip(trials, lists, strict=False)}
    jobs = []
    for trial in trials:
        overrides = sources.get(trial.name) or [*_source_of(trial, trials, lists), "control=true"]
        jobs.append([*overrides, f"hydra.sweep.subdir='{trial.name}'"])
    for returned in launcher.launch(jobs, initial_job_idx=0):
        if returned.status == JobStatus.FAILED and not isinstance(returned._return_value, StageError):
            raise returned._return_value
    result = finish(trials, first, store, sweep_folder)
    return _exit_status(result.trials)


def _source_of(control: Trial, trials: Sequence[Trial], lists: Sequence[list[str]]) -> list[str]:
    """The overrides of a trial that ``control`` is the control of."""
    for trial, overrides in zip(trials, lists, strict=False):
        if all(trial.factors.get(key) == value for key, value in control.factors.items()):
            return overrides
    raise AssertionError(f"{control.name} is no trial's control")


def run_whole_trial(config: DictConfig) -> float | None:
    """Hydra's task function: all stages of one trial, in this job. Raises ``StageError`` if one fails."""
    from mosweep.run import run_trials

    builder = Builder()
    hydra = _hydra_config()
    plain = _job(config)
    folder = Path(hydra.runtime.output_dir)
    trial = builder.trial(plain, {}, folder.name)
    result = run_trials([trial], builder.config(plain), folder.parent, {}, Local(workers=1), within=True)
    done = next(found for found in result.trials if found.id == trial.id)
    if done.status != "succeeded":
        raise _failure(done)
    return _objective(done, plain)


# -- small parts -------------------------------------------------------------------------------------------------------


class _Choices:
    """Tells group choices from values, and values' types, for naming factors."""

    def __init__(self, hydra: Hydra | None = None, config: DictConfig | None = None, loader: Any = None) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self.parser = OverridesParser.create()
        self.loader = loader or (hydra.config_loader if hydra else None)
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
                self.known[override] = (str(parsed.get_key_element()).lstrip("+"), _plain_value(value))
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
_NOT_FACTORS = frozenset("experiment tracking store hydra tasks_dir data_dir model_dir resources run_control_trials primary_metric".split())


def _factors(chosen: _Choices, overrides: Sequence[str], keys: Sequence[str] | None) -> dict[str, Any]:
    """Levels of the factors ``keys``; without them, of every override that is about the science."""
    levels = {}
    wanted = None if keys is None else set(keys)
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if (key in wanted) if wanted is not None else key.split(".")[0].split("/")[0] not in _NOT_FACTORS:
            name, value = chosen.of(override)
            levels[name] = value
    return levels


def _job(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    import copy

    job = copy.copy(config)
    OmegaConf.set_struct(job, False)
    job.pop("hydra", None)
    plain = OmegaConf.to_container(job, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _design(config: DictConfig, trials: Sequence[Trial], factor_keys: Sequence[str] | None) -> dict[str, Any]:
    """What is frozen at launch: the design itself, not the circumstances."""
    first = trials[0].config
    keys = list(factor_keys) if factor_keys is not None else list(trials[0].factors)
    levels = {key: _levels(key, trials) for key in keys}
    name = first.get("experiment", {}).get("name")
    return {
        "name": None if name == "???" else name,
        "description": first.get("experiment", {}).get("description"),
        "command": shlex.join(["mosweep", *sys.argv[1:]]),
        "treatments": levels,
        "run_control_trials": first.get("run_control_trials"),
        "primary_metric": first.get("primary_metric"),
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
        raise ConfigError("primary_metric", name, choices(str(name), trial.metrics))
    return trial.metrics.get(name) if name else next(iter(trial.metrics.values()), None)


def _failure(trial: TrialResult) -> StageError:
    for stage in trial.stages:
        if stage.status in ("failed", "cancelled"):
            return StageError(f"{trial.name}: {stage.label} failed: {stage.error}", str(stage.log) if stage.log else None)
    return StageError(f"{trial.name}: did not finish")


def _exit_status(trials: Sequence[TrialResult]) -> int:
    return 0 if all(trial.status == "succeeded" for trial in trials) else 1


def _json_quoted(argument: str) -> str:
    """``treatments={"model": ["a"]}`` as a quoted string: JSON is no value in Hydra's grammar."""
    key, equals, text = argument.partition("=")
    if equals and key.lstrip("+") in ("controls", "treatments") and text[:1] in "{[":
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            if '":' in text.replace('" :', '":'):
                raise ConfigError(key, text, f"is not JSON: {error.msg} at column {error.colno}") from None
            return argument  # Hydra's own grammar: treatments={model:[a,b]}
        return f"{key}='" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"
    if equals and key.lstrip("+") in ("controls", "treatments") and text.startswith("@"):
        return f"{key}='{text}'"
    return argument


class explained:  # noqa: N801 - reads as a statement
    """Turns Hydra's errors about the user's input into ``UserError`` in one or two lines."""

    def __init__(self, hydra: Hydra, name: str, overrides: Sequence[str]) -> None:
        self.hydra, self.name, self.overrides = hydra, name, overrides

    def __enter__(self) -> None:
        warnings.filterwarnings("ignore", category=UserWarning, module="hydra")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            return
        if isinstance(error, MissingConfigException):
            raise UserError(self._missing(error)) from None
        if isinstance(error, ConfigCompositionException) and (found := re.match(r"Could not override '([^']+)'", str(error))):
            raise self._unknown_key(found[1]) from None
        if isinstance(error, HydraException | OmegaConfBaseException) or _raised_by_hydra(error):
            raise UserError(_first_lines(error)) from None

    def _missing(self, error: MissingConfigException) -> str:
        text = str(error)
        if error.missing_cfg_file and error.options is not None and "/" in error.missing_cfg_file:
            group, _, choice = error.missing_cfg_file.rpartition("/")
            return f"{group}={choice}: no such choice; {choices(choice, error.options)}"
        return text.splitlines()[0]

    def _unknown_key(self, key: str) -> ConfigError:
        groups = [o for o in self.overrides if "." not in o.partition("=")[0] and not o.startswith(("hydra.", "~"))]
        given = next((o for o in self.overrides if o.partition("=")[0] == key), f"{key}=")
        try:
            config = self.hydra.compose_config(self.name, [o for o in groups if o != given], RunMode.MULTIRUN)
        except HydraException:
            config = self.hydra.compose_config(self.name, [], RunMode.MULTIRUN)
        return missing_key(key, given.partition("=")[2], config)


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra refused something with a plain ``ValueError``, as it does for group choices that are no names."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return isinstance(error, ValueError) and frame is not None and str(frame.tb_frame.f_globals.get("__name__", "")).startswith("hydra.")


def _first_lines(error: BaseException) -> str:
    """What is worth showing of a Hydra error: its own words, and the cause's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__ or error.__context__
    if cause is not None and str(cause).strip():
        lines = [*lines[:1], str(cause).strip().splitlines()[0]]
    return "\n".join(dict.fromkeys(lines[:2]))
