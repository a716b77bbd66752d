"""Hydra's errors in the user's words: one line with the override or the file, and what is valid."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.config.choices import conf_folders
from mosweep.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from hydra.errors import OverrideParseException

__all__ = ["explain_grammar", "explain_levels", "explain_package", "explain_text", "explain_yaml"]

_PAIRS = {"[": "]", "{": "}", "(": ")"}
_HEADER = re.compile(r"^\s*#\s*@package\s+_global_\s*$", re.MULTILINE)


def explain_grammar(error: OverrideParseException) -> UserError:
    """The error for an override that is not in Hydra's grammar."""
    override = str(error.override)
    key, equals, value = override.partition("=")
    if not equals:
        problem = "expected key=value, without spaces around = and after commas"
    elif value.rstrip().endswith(","):
        problem = "a level is missing after the comma; write levels without spaces, such as a=1,2"
    elif opened := next((o for o, c in _PAIRS.items() if value.count(o) != value.count(c)), None):
        problem = f"{opened} and {_PAIRS[opened]} do not match"
    else:
        problem = f"put the value in quotes: '{key}=\"{value}\"'"
    return UserError(f"{override}: {problem}")


def explain_levels(message: str) -> UserError | None:
    """The error for several levels without ``-m``, if ``message`` is about them."""
    match = re.match(r"Ambiguous value for argument '(.*)'\n", message)
    if match is None:
        return None
    key, _, value = match[1].partition("=")
    return UserError(
        f"{match[1]}: several levels make a sweep; did you forget -m? "
        f"(For one list, write {key}=[{value}])"
    )


def explain_yaml(error: Any) -> UserError:
    """The error for a file that is not YAML, from PyYAML's."""
    mark = error.problem_mark or error.context_mark
    place = f"{_shown(Path(mark.name))}, line {mark.line + 1}" if mark else "a configuration"
    problem = error.problem or error.context or "cannot be read"
    hint = "; indent with spaces, not tabs" if r"'\t'" in problem else ""
    return UserError(f"{place}: is not YAML: {problem}{hint}")


def explain_text() -> UserError:
    """The error for a configuration that is not UTF-8."""
    for path in (path for folder in conf_folders() for path in sorted(folder.rglob("*.yaml"))):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return UserError(f"{_shown(path)}: is not text in UTF-8; save it as UTF-8")
    return UserError("a configuration is not text in UTF-8")


def explain_package(error: ConfigError, overrides: Sequence[str]) -> ConfigError:
    """The error, or a better one if an experiment lacks the line ``# @package _global_``."""
    if not error.problem.startswith("no such key"):
        return error
    chosen = next((o.partition("=")[2] for o in overrides if o.startswith("experiment=")), None)
    for folder in conf_folders() if chosen else ():
        path = folder / "experiment" / f"{chosen}.yaml"
        if not path.is_file():
            continue
        if _HEADER.search(path.read_text(encoding="utf-8")):
            break
        return ConfigError(
            "experiment", chosen, f"{_shown(path)} needs the first line # @package _global_"
        )
    return error


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
