"""The design of one command: its trials, its factors, and the design that a launch freezes."""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from mosweep.config.groups import Config
from mosweep.core.errors import ConfigError
from mosweep.core.types import Trial
from mosweep.design.compose import Composer
from mosweep.design.factors import bundles_of, design_overrides
from mosweep.design.interpolations import decode_numbers, is_interpolated, resolved_levels
from mosweep.design.overrides import Levels, key_of, plain_value
from mosweep.design.trials import Builder
from mosweep.sweep.folder import Sweep
from mosweep.sweep.launches import UNKNOWN, level_of

__all__ = [
    "Composed",
    "Design",
    "compose_trials",
    "config_of",
    "factors_of",
    "frozen_design",
    "job_config",
    "sweep_folder",
]


class Design:
    """The override lists of one command, one per trial, and the keys of its factors."""

    def __init__(self, loader: Any, master: DictConfig, arguments: Sequence[str]) -> None:
        self._master = master
        job = job_config(master, resolve=False)
        designed, factor_keys = design_overrides(
            job.get("controls"),
            job.get("treatments"),
            job.get("seeds"),
            job.get("setting"),
            job.get("tags"),
        )
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        _refuse_evaluations_as_factor(parsed, factor_keys)
        written = BasicSweeper.split_arguments(parsed, None)[0]
        swept = [key_of(override) for override in parsed if override.is_sweep_override()]
        self.factor_keys = list(dict.fromkeys([*factor_keys, *swept]))
        # The command line wins over the design.
        overridden = {key_of(override) for override in parsed}
        base = list(
            {
                tuple(
                    override for override in overrides if key_of(override) not in overridden
                ): None
                for overrides in designed
            }
        )
        self.overrides = [[*overrides, *extra] for overrides in base for extra in written]

    @cached_property
    def _plain(self) -> dict[str, Any]:
        return job_config(self._master)

    def factors_in(self, folder: Path) -> list[str]:
        """The keys of the design's factors, given the trials that ``folder`` already has.

        These are the design's own factors, the factors of earlier launches, and the keys in which
        this command differs from an earlier launch.
        """
        sweep = Sweep(folder)
        launches = [launch for launch in sweep.launches if launch.trials]
        earlier_keys = (
            key for launch in launches for trial in launch.trials for key in trial["factors"]
        )
        keys = dict.fromkeys([*self.factor_keys, *earlier_keys])
        earlier_configs = [sweep.config(launch.trials[0]["name"]) for launch in launches]
        overrides = self.overrides[0] if earlier_configs else []
        plain = self._plain if any(map(is_interpolated, overrides)) else {}
        for key, level in resolved_levels(factors_of(Levels(), overrides, None), plain).items():
            if any(
                (earlier := level_of(config, key)) is not UNKNOWN and earlier != level
                for config in earlier_configs
                if config
            ):
                keys[key] = None
        return list(keys)


@dataclass(frozen=True)
class Composed:
    """The trials of a command, control trials last, and for each override list its trial's id.

    Override lists that differ only in settings that the trial does not read are one trial.
    """

    trials: list[Trial]
    ids: list[str]


def compose_trials(
    config: DictConfig,
    loader: Any,
    overrides: Sequence[Sequence[str]],
    factor_keys: Sequence[str] | None,
) -> Composed:
    """The checked trials of the override lists, with their control trials."""
    composer, builder, levels = Composer(loader, config), Builder(), Levels()
    trials: dict[str, Trial] = {}
    ids: list[str] = []
    for index, override_list in enumerate(overrides):
        written = factors_of(levels, override_list, factor_keys)
        plain = composer.compose(override_list)
        factors = resolved_levels(written, plain)
        trial = builder.trial(plain, factors)
        name = trial.name
        ids.append(trial.id)
        same = name in trials and trial.id == trials[name].id
        if same and (len(trial.factors) < len(factors) or factors != written):
            continue  # It differs in settings that neither reads, or in how a level is written.
        if name in trials:
            name = f"{name}~{index}"
            trial = builder.trial(trial.config, trial.factors, name)
        trials[name] = trial
    builder.refuse_unread()
    return Composed(builder.with_controls(list(trials.values())), ids)


#: The key of the evaluation tasks. They are not a factor: every trial has all of them.
EVALUATIONS = "eval.tasks"


def _refuse_evaluations_as_factor(parsed: Sequence[Override], designed: Sequence[str]) -> None:
    problem = "evaluations are not a factor: each trial is evaluated on all of them"
    for override in parsed:
        if override.is_sweep_override() and key_of(override) == EVALUATIONS:
            lists = [plain_value(value) for value in override.sweep_iterator()]
            tasks = dict.fromkeys(
                str(task) for item in lists for task in (item if isinstance(item, list) else [item])
            )
            hint = f"{problem}; give {EVALUATIONS}=[{','.join(tasks)}]"
            raise ConfigError(EVALUATIONS, (override.input_line or "").partition("=")[2], hint)
    if EVALUATIONS in designed:
        raise ConfigError(f"treatments.{EVALUATIONS}", "…", f"{problem}; give it under controls")


#: Overrides that place or label a sweep. They are not factors of a single run.
_NOT_FACTORS = frozenset(
    "experiment tracking store budget contamination hydra tasks_dir data_dir model_dir resources "
    "run_control_trials primary_metric "
    "contrasts delta controls treatments seeds setting tags".split()
)


def factors_of(
    known: Levels, overrides: Sequence[str], keys: Sequence[str] | None
) -> dict[str, Any]:
    """The levels of the factors ``keys``, by default of all overrides but ``_NOT_FACTORS``."""
    levels = {}
    for override in overrides:
        key = key_of(override)
        section = key.split(".")[0].split("/")[0]
        if (key in keys) if keys is not None else (section not in _NOT_FACTORS):
            name, value = known.of(override)
            levels[name] = value
    levels.pop(EVALUATIONS, None)
    return levels


#: Bytes of a folder's name, with room for what is added to it.
LONGEST_NAME = 200


def sweep_folder(config: DictConfig) -> Path:
    """The sweep's folder. Raises ``ConfigError`` if no folder can have its name."""
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    for name in folder.parts:
        if (size := len(name.encode(errors="surrogateescape"))) > LONGEST_NAME:
            given = OmegaConf.select(config, "experiment.name", throw_on_missing=False)
            key = "experiment.name" if given and name in str(given) else "hydra.sweep.dir"
            raise ConfigError(
                key, name, f"has {size} bytes; a folder's name may have {LONGEST_NAME}"
            )
    return folder


def job_config(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The configuration without Hydra's own part, as plain data."""
    job = copy.deepcopy(config) if resolve else copy.copy(config)
    OmegaConf.set_struct(job, False)
    job.pop("hydra", None)
    if resolve:
        decode_numbers(job)
    plain = OmegaConf.to_container(job, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def frozen_design(
    trials: Sequence[Trial], factor_keys: Sequence[str] | None, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The design that a launch freezes. It does not say where and how the launch runs.

    ``environment``: variables to set where stages run.
    """
    first = trials[0].config
    keys = list(factor_keys) if factor_keys is not None else list(trials[0].factors)
    treatments = {key: levels for key in keys if (levels := _levels(key, trials))}
    bundles = bundles_of(first.get("treatments"), trials)
    name = first.get("experiment", {}).get("name")
    return {
        "name": None if name == "???" else name,
        "description": first.get("experiment", {}).get("description"),
        "command": shlex.join(["mosweep", *sys.argv[1:]]),
        "treatments": treatments,
        **({"bundles": bundles} if bundles else {}),
        "run_control_trials": first.get("run_control_trials"),
        "primary_metric": first.get("primary_metric"),
        "contrasts": first.get("contrasts"),
        "delta": first.get("delta"),
        "trials": len(trials),
        **({"environment": dict(environment)} if environment else {}),
    }


def _levels(key: str, trials: Sequence[Trial]) -> list[Any]:
    """The distinct levels of a factor, in the order of the trials."""
    levels: dict[str, Any] = {}
    for trial in trials:
        if key in trial.factors:
            levels.setdefault(str(trial.factors[key]), trial.factors[key])
    return list(levels.values())


def config_of(trial: Trial) -> Config:
    """The typed configuration of a trial."""
    return Builder().config(trial.config)
