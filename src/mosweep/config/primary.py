"""The primary configuration: mosweep's own, unless the user's folder has one for mosweep."""

from __future__ import annotations

from pathlib import Path

from mosweep.config.choices import conf_folders
from mosweep.core.yaml_text import load_yaml

__all__ = ["PRIMARY", "foreign_primary"]

#: The name of the primary configuration.
PRIMARY = "config"
#: In the defaults of every primary configuration for mosweep.
_MARK = "mosweep_open"


def foreign_primary() -> Path | None:
    """The ``config.yaml`` of another Hydra application that hides mosweep's, if there is one."""
    for folder in conf_folders()[:-1]:
        path = folder / f"{PRIMARY}.yaml"
        if path.is_file():
            return None if _is_ours(path) else path
    return None


def _is_ours(path: Path) -> bool:
    import yaml

    try:
        data = load_yaml(path.read_bytes())
    except yaml.YAMLError:
        return False
    defaults = data.get("defaults") if isinstance(data, dict) else None
    return isinstance(defaults, list) and _MARK in defaults
