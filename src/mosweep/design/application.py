"""The Hydra application, with mosweep's search path and one-line errors.

Hydra parses, composes, prints ``--cfg`` and ``--info`` and completes in the shell. This module does
not run trials: ``sweeping`` and ``jobs`` do, and they are imported only when trials run.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from mosweep.config.choices import conf_folders, use_folder
from mosweep.config.primary import PRIMARY, foreign_primary
from mosweep.config.secrets import refuse_secrets
from mosweep.core.errors import ConfigError, UserError, choices
from mosweep.core.paths import home
from mosweep.design.hydra_options import check_hydra_options, has_own_sweeper, sweeper_params
from mosweep.design.overrides import quoted
from mosweep.design.wording import (
    explain_grammar,
    explain_levels,
    explain_package,
    explain_text,
    explain_yaml,
)

if TYPE_CHECKING:
    from mosweep.config.groups import Config
    from mosweep.core.types import Trial

__all__ = ["hydra_main", "planned"]

#: The class that hands all trials of a sweep to one of mosweep's launchers.
PLANNING_LAUNCHER = "hydra_plugins.mosweep.plugin.PlanningLauncher"


def hydra_main(arguments: Sequence[str]) -> int:
    """Run the Hydra application and return the exit status.

    Raises ``UserError`` for every mistake that the user can fix.
    """
    arguments = [quoted(argument) for argument in arguments]
    refuse_secrets(arguments)
    # Hydra runs jobs in other folders: they use the same home.
    os.environ["MOSWEEP_HOME"] = str(home())
    parser = get_args_parser()
    parser.error = _wrong_options  # type: ignore[method-assign]
    args = parser.parse_args(arguments)
    _refuse_dropped(args)
    name = args.config_name or PRIMARY
    session = _Session(args.config_dir, args.config_name)
    with session as hydra, explained(hydra, name, args.overrides):
        if args.help:
            loader: Any = hydra.config_loader
            # Hydra copies its whole repository to list one group.
            loader.get_group_options = loader.repository.get_group_options
            hydra.app_help(config_name=name, args_parser=parser, args=args)
        elif args.hydra_help:
            hydra.hydra_help(config_name=name, args_parser=parser, args=args)
        elif args.cfg:
            hydra.show_cfg(name, args.overrides, args.cfg, args.package, args.resolve)
        elif args.info:
            hydra.show_info(args.info, config_name=name, overrides=args.overrides)
        elif args.shell_completion:
            hydra.shell_completion(config_name=name, overrides=args.overrides)
        elif args.multirun or any(
            override.strip() == "hydra.mode=MULTIRUN" for override in args.overrides
        ):
            return _multirun(hydra, name, args.overrides)
        else:
            return _single_run(hydra, name, args.overrides)
    return 0


def _wrong_options(message: str) -> NoReturn:
    """Raise ``UserError`` for options that are not Hydra's, instead of printing all of them."""
    raise UserError(f"{message}; see mosweep --help")


def _refuse_dropped(args: Namespace) -> None:
    """Raise ``UserError`` for Hydra's options that mosweep does not support."""
    if args.config_path is not None:
        raise UserError(
            f"--config-path {args.config_path}: is not supported; --config-dir "
            f"{args.config_path} adds a folder of configurations"
        )
    if args.experimental_rerun is not None:
        raise UserError(
            f"--experimental-rerun {args.experimental_rerun}: is not supported; `mosweep run "
            "SWEEP` goes on with a sweep"
        )


class _Session:
    """Hydra, initialised with mosweep's search path.

    The user's ``./conf`` comes first, then the folders of plug-in packages (entry points in
    ``mosweep.plugins``), then the shipped one.
    """

    def __init__(self, config_dir: str | None = None, config_name: str | None = None) -> None:
        self.config_dir, self.config_name = config_dir, config_name

    def __enter__(self) -> Hydra:
        config_dir = Path(self.config_dir).absolute() if self.config_dir is not None else None
        if config_dir is not None and not config_dir.is_dir():
            raise UserError(f"--config-dir {self.config_dir}: no such folder")
        use_folder(config_dir)
        *others, main = conf_folders()
        path = create_config_search_path(str(main))
        for folder in others:
            path.prepend("user", f"file://{folder}", "main")
        path.prepend("mosweep", "mosweep-names://", "schema")
        if self.config_name is None and (foreign := foreign_primary()):
            print(
                f"mosweep: {os.path.relpath(foreign)} is not a configuration of mosweep's; its own "
                "is used, with the groups of both",
                file=sys.stderr,
            )
            path.prepend("mosweep-primary", "mosweep-names://primary", "user")
        GlobalHydra.instance().clear()
        version.setbase("1.3")
        return Hydra.create_main_hydra2("mosweep", path)

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()


def _single_run(hydra: Hydra, name: str, overrides: list[str]) -> int:
    config = hydra.compose_config(name, overrides, RunMode.RUN)
    if config.hydra.mode == RunMode.MULTIRUN:
        return _multirun(hydra, name, overrides)
    check_hydra_options(config, ours=True, named=False)
    from mosweep.design.jobs import run_single_trial

    return run_single_trial(config, hydra.config_loader)


def _multirun(hydra: Hydra, name: str, overrides: list[str]) -> int:
    if not any(override.startswith("hydra.mode=") for override in overrides):
        overrides = [*overrides, "hydra.mode=MULTIRUN"]
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins

    from mosweep.design.jobs import run_whole_trial

    config = _composed(hydra, name, overrides)
    ours = _wrap_launcher(config)
    check_hydra_options(config, ours=ours, named=ours or has_own_sweeper(config))
    callbacks = Callbacks(config)
    callbacks.on_multirun_start(config=config, config_name=name)
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config,
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=run_whole_trial,
    )
    returned = sweeper.sweep(arguments=_task_overrides(config))
    callbacks.on_multirun_end(config=config, config_name=name)
    # mosweep's sweeper returns the exit status. Hydra's own raise if a job failed.
    return returned if isinstance(returned, int) else 0


def _composed(hydra: Hydra, name: str, overrides: list[str]) -> DictConfig:
    """The configuration of a sweep. A sweep in ``hydra.sweeper.params`` joins the overrides."""
    config = hydra.compose_config(name, overrides, RunMode.MULTIRUN)
    params = sweeper_params(config)
    return hydra.compose_config(name, [*params, *overrides], RunMode.MULTIRUN) if params else config


def _wrap_launcher(config: DictConfig) -> bool:
    """Wrap a mosweep launcher in ``hydra.launcher`` so that Hydra can instantiate it.

    Returns whether it is one.
    """
    chosen = config.hydra.launcher
    if str(chosen.get("_target_", "hydra.")).startswith(("hydra.", "hydra_plugins.")):
        return False
    wrapped = {"_target_": PLANNING_LAUNCHER, "_recursive_": False, "options": chosen}
    with open_dict(config.hydra):
        config.hydra.launcher = wrapped
    return True


def planned(
    overrides: Sequence[str], config_dir: str | None = None, config_name: str | None = None
) -> tuple[list[Trial], Config]:
    """The trials that ``mosweep -m overrides`` would run, and the first one's configuration.

    ``config_dir`` and ``config_name`` are Hydra's ``--config-dir`` and ``--config-name``. Writes
    nothing.
    """
    from mosweep.design.designs import Design, compose_trials, config_of, sweep_folder

    overrides = [quoted(override) for override in overrides]
    refuse_secrets(overrides)
    name = config_name or PRIMARY
    with _Session(config_dir, config_name) as hydra, explained(hydra, name, overrides):
        config = _composed(hydra, name, [*overrides, "hydra.mode=MULTIRUN"])
        ours = _wrap_launcher(config)
        check_hydra_options(config, ours=ours, named=ours or has_own_sweeper(config))
        design = Design(hydra.config_loader, config, _task_overrides(config))
        factor_keys = design.factors_in(sweep_folder(config))
        trials = compose_trials(config, hydra.config_loader, design.overrides, factor_keys).trials
        return trials, config_of(trials[0])


def _task_overrides(config: DictConfig) -> list[str]:
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


class explained:  # noqa: N801 - reads as a statement
    """Turns Hydra's errors about the user's input into a ``UserError`` of one or two lines."""

    def __init__(self, hydra: Hydra, name: str, overrides: Sequence[str]) -> None:
        self.hydra, self.name, self.overrides = hydra, name, overrides

    def __enter__(self) -> None:
        warnings.filterwarnings("ignore", category=UserWarning, module="hydra")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            return
        if isinstance(error, MarkedYAMLError):
            raise explain_yaml(error) from None
        if isinstance(error, UnicodeDecodeError) and _read_by_hydra(error):
            raise explain_text() from None
        if isinstance(error, ConfigError):
            raise explain_package(error, self.overrides) from None
        if isinstance(error, OverrideParseException) and error.override:
            raise explain_grammar(error) from None
        if isinstance(error, HydraException) and (levels := explain_levels(str(error))):
            raise levels from None
        if isinstance(error, MissingConfigException):
            raise UserError(self._missing(error)) from None
        if isinstance(error, ConfigCompositionException) and (
            match := re.match(r"Could not override '([^']+)'", str(error))
        ):
            raise self._unknown_key(match[1]) from None
        if isinstance(error, KeyError) and _module_of(error) == "os":
            # Hydra reads the variables of env_copy while it composes.
            raise ConfigError(
                "hydra.job.env_copy", error.args[0], "is not set in this environment"
            ) from None
        if isinstance(error, OmegaConfBaseException) and (
            match := re.search(r"Environment variable '(\w+)' not found", str(error))
        ):
            raise ConfigError(
                str(error.full_key), f"${{oc.env:{match[1]}}}", "is not set in this environment"
            ) from None
        if isinstance(error, HydraException | OmegaConfBaseException) or _raised_by_hydra(error):
            raise UserError(_first_lines(error)) from None

    def _missing(self, error: MissingConfigException) -> str:
        text = str(error)
        if error.missing_cfg_file and error.options is not None and "/" in error.missing_cfg_file:
            group, _, choice = error.missing_cfg_file.rpartition("/")
            return f"{group}={choice}: no such choice; {choices(choice, error.options)}"
        return text.splitlines()[0]

    def _unknown_key(self, key: str) -> ConfigError:
        choices_made = [
            override
            for override in self.overrides
            if "." not in override.partition("=")[0] and not override.startswith(("hydra.", "~"))
        ]
        rejected = next((o for o in self.overrides if o.partition("=")[0] == key), f"{key}=")
        try:
            config = self.hydra.compose_config(
                self.name, [o for o in choices_made if o != rejected], RunMode.MULTIRUN
            )
        except HydraException:
            config = self.hydra.compose_config(self.name, [], RunMode.MULTIRUN)
        from mosweep.design.compose import missing_key

        return missing_key(key, rejected.partition("=")[2], config)


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether the error is a plain ``ValueError`` of Hydra's.

    Hydra raises one for a group choice that is not a name.
    """
    return isinstance(error, ValueError) and _module_of(error).startswith("hydra.")


def _read_by_hydra(error: BaseException) -> bool:
    """Whether Hydra was reading a file."""
    frame, modules = error.__traceback__, []
    while frame is not None:
        modules.append(str(frame.tb_frame.f_globals.get("__name__", "")))
        frame = frame.tb_next
    return any(name.startswith("hydra._internal.core_plugins") for name in modules)


def _module_of(error: BaseException) -> str:
    """The module that raised the error."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return str(frame.tb_frame.f_globals.get("__name__", "")) if frame is not None else ""


def _first_lines(error: BaseException) -> str:
    """The first line of a Hydra error, and the first line of its cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__ or error.__context__
    if cause is not None and str(cause).strip():
        lines = [*lines[:1], str(cause).strip().splitlines()[0]]
    return "\n".join(dict.fromkeys(lines[:2]))
