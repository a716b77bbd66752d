"""The reference of all settings: the fields of the configuration dataclasses.

The schemas are the only source of names, types, defaults and bounds. A field's meaning is the
string literal right below it (an attribute docstring). Python discards it, so it is read from the
source.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["Option", "all_options", "meanings", "options"]

_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "anything"}


@dataclasses.dataclass(frozen=True)
class Option:
    """One key that can be set.

    ``type``, ``default`` and ``bounds`` are readable text. ``keyed``: another value gives another
    stage. ``meaning`` is empty if the class does not give one. ``choice`` is the only choice of a
    group that has the key, such as ``backend=tinker``.
    """

    key: str
    type: str
    default: str
    bounds: str
    keyed: bool
    meaning: str
    choice: str = ""


def options(cls: type[Any], section: str = "", *, keyed: bool = True) -> list[Option]:
    """The keys of ``section``, whose schema is ``cls``. Dataclasses in it are expanded."""
    hints = get_type_hints(cls)
    docs = meanings(cls)
    result = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        key = f"{section}.{field.name}" if section else field.name
        is_keyed = keyed and field.metadata.get("resolved", field.metadata.get("key", True))
        inner = _dataclass_in(hints[field.name])
        if inner is not None:
            result += options(inner, key, keyed=is_keyed)
            continue
        result.append(
            Option(
                key,
                _type(hints[field.name]),
                _default(field),
                _bounds(field.metadata.get("bounds")),
                is_keyed,
                docs.get(field.name, ""),
            )
        )
    return result


def meanings(cls: type[Any]) -> dict[str, str]:
    """The docstrings below the fields of ``cls`` and its bases, each as one paragraph."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            docs |= _meanings(base)
    return docs


@functools.cache
def _meanings(cls: type[Any]) -> dict[str, str]:
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass if ``hint`` is one, or is one or ``None``."""
    [inner, *others] = [part for part in _parts(hint) if part is not type(None)]
    single: bool = not others and isinstance(inner, type) and dataclasses.is_dataclass(inner)
    return inner if single else None


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _type(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_type_name(part) for part in _parts(hint)))


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return "mapping"
        if issubclass(origin, Sequence):
            return "list" if arguments[0] is Any else f"list of {_plural(_type(arguments[0]))}"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _plural(name: str) -> str:
    return name if name in ("text", "anything") or " or " in name else f"{name}s"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is not dataclasses.MISSING:
        value = field.default
    else:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bounds(bounds: tuple[float | None, ...] | None) -> str:
    if bounds is None:
        return ""
    words = ("≥", ">", "≤", "<")
    return ", ".join(
        f"{word} {bound:g}" for word, bound in zip(words, bounds, strict=True) if bound is not None
    )


def all_options() -> list[Option]:
    """All keys of a trial's configuration, of the choices of ``backend`` and ``eval``, and of
    ``resources``.
    """
    from mosweep.config.choices import choices_of
    from mosweep.config.groups import Config
    from mosweep.config.resources import Request

    found = [one for one in options(Config) if one.key not in ("backend", "eval", "resources")]
    for group in ("backend", "eval"):
        for name, cls in choices_of(group).items():
            own = options(cls, group)
            found += [dataclasses.replace(one, choice=f"{group}={name}") for one in own]
    return [*found, *options(Request, "resources", keyed=False)]
