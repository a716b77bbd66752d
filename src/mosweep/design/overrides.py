"""Overrides in Hydra's grammar: read their keys and levels, and write values as overrides."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from mosweep.core.errors import ConfigError

__all__ = ["Levels", "as_override", "as_value", "key_of", "plain_value", "quoted"]


def key_of(override: str | Override) -> str:
    """The key that an override sets, without a leading ``+``."""
    if isinstance(override, str):
        return override.partition("=")[0].lstrip("+")
    return str(override.get_key_element()).lstrip("+")


class Levels:
    """Reads keys and levels of overrides. Each override is parsed once."""

    def __init__(self) -> None:
        self.parser = OverridesParser.create()
        self.known: dict[str, tuple[str, Any]] = {}

    def of(self, override: str) -> tuple[str, Any]:
        """The key and the level of an override."""
        if override not in self.known:
            key, _, text = override.partition("=")
            if re.fullmatch(r"[A-Za-z_][\w.]*", key) and re.fullmatch(r"-?(0|[1-9]\d*)", text):
                self.known[override] = (key, int(text))
            else:
                parsed = self.parser.parse_override(override)
                self.known[override] = (key_of(parsed), plain_value(parsed.value()))
        return self.known[override]


def plain_value(value: Any) -> Any:
    """A parsed override's value as plain data."""
    if isinstance(value, str | int | float | bool) or value is None:
        return str(value) if type(value) not in (str, int, float, bool, type(None)) else value
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain_value(item) for key, item in value.items()}
    return str(value)


def as_override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar."""
    return f"{key}={as_value(value)}"


def as_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(as_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{_escaped(str(key))}:{as_value(item)}" for key, item in value.items())
            + "}"
        )
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w.-]*", text, re.ASCII) and text.lower() not in (
        "true",
        "false",
        "null",
        "nan",
        "inf",
    ):
        return text
    return (
        "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + (match[2] and r"\'"), text) + "'"
    )


def _escaped(key: str) -> str:
    """A mapping's key in Hydra's override grammar, which does not allow quotes there."""
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", key)


def quoted(argument: str) -> str:
    """An argument such as ``treatments={"model": ["a"]}`` with its JSON quoted.

    Hydra's grammar does not accept JSON as a value.
    """
    key, equals, text = argument.partition("=")
    if equals and key.lstrip("+") in ("controls", "treatments") and text[:1] in "{[":
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            if '":' in text.replace('" :', '":'):
                raise ConfigError(
                    key, text, f"is not JSON: {error.msg} at column {error.colno}"
                ) from None
            return argument  # This is Hydra's own grammar: treatments={model:[a,b]}.
        return f"{key}='" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"
    if equals and key.lstrip("+") in ("controls", "treatments") and text.startswith("@"):
        return f"{key}='{text}'"
    return argument
