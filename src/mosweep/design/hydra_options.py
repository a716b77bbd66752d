"""Hydra's own options, ``hydra.job.*`` and ``hydra.sweep.*``: honoured, or refused in one line.

Hydra applies most of them around a job's task function. Under mosweep's launchers, stages run in
processes of their own, so each option needs a decision. ``tests/design/test_hydra_options.py``
lists all of them.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mosweep.config.secrets import looks_secret
from mosweep.core.errors import ConfigError

__all__ = ["check_hydra_options", "environment_of"]

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
