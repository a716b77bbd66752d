"""Hydra's own options, ``hydra.job.*`` and ``hydra.sweep.*``: honoured, or refused in one line.

Hydra applies most of them around a job's task function. Under mosweep's launchers, stages run in
processes of their own, so each option needs a decision. ``tests/design/test_hydra_options.py``
lists all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mosweep.config.secrets import looks_secret, refuse_secrets
from mosweep.core.errors import ConfigError
from mosweep.design.factors import flat
from mosweep.design.overrides import as_override, key_of, quoted

__all__ = ["check_hydra_options", "environment_of", "has_own_sweeper", "sweeper_params"]

#: What Hydra sets by itself, and overwrites if it is given.
_SET_BY_HYDRA = ("override_dirname", "id", "num", "config_name")
#: Hydra's default of ``hydra.sweep.subdir``.
_SUBDIR = "${hydra.job.num}"


def check_hydra_options(config: DictConfig, *, ours: bool, named: bool) -> None:
    """Raise ``ConfigError`` for an option of Hydra's that would have no effect.

    ``ours``: a launcher of mosweep's runs the stages. ``named``: mosweep names the trials' folders.
    """
    hydra = config.hydra
    given = dict(
        str(override).lstrip("+").partition("=")[::2] for override in hydra.overrides.hydra
    )
    for name in _SET_BY_HYDRA:
        key = f"hydra.job.{name}"
        if key in given:
            raise ConfigError(key, given[key], "is set by Hydra; leave it out")
    for name in ("id", "num"):
        if not OmegaConf.is_missing(hydra.job, name):
            raise ConfigError(f"hydra.job.{name}", hydra.job[name], "is set by Hydra; leave it out")
    if ours and hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir",
            "true",
            "stages run where the command was given, so that relative paths mean the same; valid: "
            "false",
        )
    subdir = hydra.sweep._get_node("subdir")
    if named and subdir is not None and str(subdir._value()) != _SUBDIR:
        raise ConfigError(
            "hydra.sweep.subdir",
            subdir._value(),
            "a trial's folder is named after its factors; leave it out (hydra.sweep.dir moves the "
            "sweep)",
        )
    for name, value in environment_of(hydra).items():
        if looks_secret(name, value):
            raise ConfigError(
                f"hydra.job.env_set.{name}",
                "…",
                "looks like a secret; stages inherit the environment of the command, so set it "
                f"there ({name}=…)",
            )


def environment_of(hydra: Any) -> dict[str, str]:
    """The variables of ``hydra.job.env_set``, from the section ``hydra``.

    Hydra adds those of ``env_copy``. They are left out: stages inherit them from the command.
    """
    copied = set(hydra.job.env_copy)
    return {
        str(name): "" if value is None else str(value)
        for name, value in hydra.job.env_set.items()
        if name not in copied
    }


def has_own_sweeper(config: DictConfig) -> bool:
    """Whether ``hydra/sweeper`` is mosweep's."""
    return str(config.hydra.sweeper.get("_target_")).startswith("hydra_plugins.mosweep.")


def sweeper_params(config: DictConfig) -> list[str]:
    """``hydra.sweeper.params`` as overrides, for mosweep's sweeper.

    They are a sweep in a configuration file. The overrides of the command line win, key by key.
    ``ConfigError`` for other keys of ``hydra.sweeper``.
    """
    if not has_own_sweeper(config):
        return []
    options = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert isinstance(options, dict)
    for key, value in ((str(key), value) for key, value in options.items()):
        if key not in ("_target_", "params") and value is not None:
            raise ConfigError(f"hydra.sweeper.{key}", value, "no such key; valid: params")
    params = options.get("params") or {}
    if not isinstance(params, Mapping):
        raise ConfigError(
            "hydra.sweeper.params",
            params,
            "expected a mapping from key to levels, such as {lora.rank: '4,64'}",
        )
    given = {key_of(str(override)) for override in config.hydra.overrides.task}
    overrides = [
        quoted(f"{key}={value}" if isinstance(value, str) else as_override(str(key), value))
        for key, value in flat(params).items()
        if key_of(str(key)) not in given
    ]
    refuse_secrets(overrides)
    return overrides
