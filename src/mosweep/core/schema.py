"""Build frozen dataclasses from plain data, strictly, with errors that name the key.

``build(Lora, {"rank": "abc"}, "lora")`` raises ``ConfigError: lora.rank=abc: expected a whole
number``. OmegaConf cannot do this: it does not merge into nested frozen dataclasses, refuses
``Literal``, and does not say what would be valid. It must be fast, because a sweep of ten thousand
trials is checked in full before its first job starts.

Supported annotations: ``bool int float str Any``, ``X | None``, ``Literal[…]``,
``list/tuple/Mapping`` of these, and dataclasses of these. Bounds are in a field's metadata
(``between``). Other checks are in ``__post_init__``, which raises ``ConfigError`` with a key
relative to its own section.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mosweep.core.errors import ConfigError, choices
from mosweep.core.yaml_text import parse_number

__all__ = ["between", "build", "build_target", "load_target", "plain"]

T = TypeVar("T")
Converter = Callable[[Any, str], Any]

TARGET = "_target_"


def between(
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> dict[str, Any]:
    """Field metadata with bounds of a number: ``ge`` ≥, ``gt`` >, ``le`` ≤, ``lt`` <.

    NaN is never within bounds.
    """
    return {"bounds": (ge, gt, le, lt)}


def build(cls: type[T], data: Any, path: str = "") -> T:
    """Build a ``cls`` from the mapping ``data``, checking names, types and bounds.

    ``path`` is the section's dotted name. Raises ``ConfigError``.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(
            path or cls.__name__, data, f"expected a section with the keys {', '.join(_plan(cls))}"
        )
    plan = _plan(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == TARGET:
            continue
        entry = plan.get(key)
        full_key = f"{path}.{key}" if path else str(key)
        if entry is None:
            raise ConfigError(full_key, value, f"no such key; {choices(str(key), plan)}")
        values[key] = entry.convert(value, full_key)
    for key, entry in plan.items():
        if entry.required and key not in values:
            raise ConfigError(f"{path}.{key}" if path else key, "???", "a value is required")
    try:
        return cls(**values)
    except ConfigError as error:
        if path and not error.key.startswith(f"{path}."):
            raise ConfigError(f"{path}.{error.key}", error.value, error.problem) from None
        raise
    except ValueError as error:
        raise ConfigError(path or cls.__name__, dict(data), str(error)) from None


def build_target(data: Any, path: str) -> Any:
    """Build the dataclass that ``data['_target_']`` names (``package.module.Class``)."""
    if not isinstance(data, Mapping) or TARGET not in data:
        raise ConfigError(path, data, f"expected a section with a {TARGET}")
    return build(load_target(str(data[TARGET]), f"{path}.{TARGET}"), data, path)


@functools.cache
def load_target(name: str, path: str) -> type[Any]:
    """Import the dataclass named ``package.module.Class``."""
    module, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(path, name, f"cannot be imported ({error})") from error
    if not (isinstance(target, type) and dataclasses.is_dataclass(target)):
        raise ConfigError(path, name, "is not a dataclass")
    return target


def plain(value: Any) -> Any:
    """A dataclass, with those inside it, as plain data for JSON. The inverse of ``build``.

    The result is shared: never write to it.
    """
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        return {name: _plain(getattr(value, name)) for name in _plan(kind)}
    return _plain(value)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return value
    if dataclasses.is_dataclass(kind):
        data = value.__dict__.get("_plain")
        if data is None:
            data = plain(value)
            if kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
                # Trials share the object, so this saves time and memory.
                value.__dict__["_plain"] = data
        return data
    if kind is dict or isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


@dataclasses.dataclass(frozen=True)
class _Entry:
    convert: Converter
    required: bool


def _plan(cls: type[Any]) -> dict[str, _Entry]:
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _make_plan(cls)
    return plan


_PLANS: dict[type[Any], dict[str, _Entry]] = {}


def _make_plan(cls: type[Any]) -> dict[str, _Entry]:
    hints = get_type_hints(cls)
    plan = {}
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        convert = _converter(hints[f.name])
        bounds = f.metadata.get("bounds")
        if bounds is not None:
            convert = _bounded(convert, bounds)
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        plan[f.name] = _Entry(convert, required)
    return plan


def _bounded(convert: Converter, bounds: tuple[float | None, ...]) -> Converter:
    ge, gt, le, lt = bounds
    words = [
        f"{word} {bound:g}"
        for word, bound in zip(("≥", ">", "≤", "<"), bounds, strict=True)
        if bound is not None
    ]

    def check(value: Any, path: str) -> Any:
        number = convert(value, path)
        if number is None:
            return None
        inside = (
            not math.isnan(number)
            and (ge is None or number >= ge)
            and (gt is None or number > gt)
            and (le is None or number <= le)
            and (lt is None or number < lt)
        )
        if not inside:
            raise ConfigError(path, value, f"must be {' and '.join(words)}")
        return number

    return check


def _converter(hint: Any) -> Converter:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return lambda value, path: value
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is Literal:
        return _literal(args)
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin in (list, tuple, Sequence, typing.Sequence) or (
        origin and issubclass(origin, Sequence)
    ):
        return _sequence(_converter(args[0]), tuple if origin is tuple else list)
    if origin in (dict, Mapping) or (origin and issubclass(origin, Mapping)):
        return _mapping(_converter(args[1]))
    if dataclasses.is_dataclass(hint):
        section: type[Any] = hint  # type: ignore[assignment]
        return lambda value, path: (
            value if isinstance(value, section) else build(section, value, path)
        )
    raise TypeError(f"schema does not support the annotation {hint!r}")


def _bool(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(path, value, "expected true or false")


def _int(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ConfigError(path, value, f"expected a whole number{_but_text(value)}")


def _float(value: Any, path: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ConfigError(path, value, f"expected a number{_but_text(value)}")


def _but_text(value: Any) -> str:
    """A hint for a number in quotes."""
    if not isinstance(value, str) or parse_number(value.strip()) is None:
        return ""
    return f', not the text "{value}"; leave out the quotes, or write ${{oc.decode:…}}'


def _str(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # Hydra reads a name such as 2024 as a number.
    raise ConfigError(path, value, "expected text")


_SCALARS: dict[Any, Converter] = {bool: _bool, int: _int, float: _float, str: _str}


def _literal(options: tuple[Any, ...]) -> Converter:
    def convert(value: Any, path: str) -> Any:
        for option in options:
            if value == option and type(value) is type(option):
                return value
        raise ConfigError(path, value, choices(str(value), map(str, options)))

    return convert


def _union(options: tuple[Any, ...]) -> Converter:
    converters = [_converter(option) for option in options if option is not type(None)]
    nullable = type(None) in options

    def convert(value: Any, path: str) -> Any:
        if value is None and nullable:
            return None
        problem: ConfigError | None = None
        for converter in converters:
            try:
                return converter(value, path)
            except ConfigError as error:
                problem = problem or error
        if problem is None:
            raise ConfigError(path, value, "must be null")
        raise problem

    return convert


def _sequence(item: Converter, make: Callable[[list[Any]], Any]) -> Converter:
    def convert(value: Any, path: str) -> Any:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(path, value, "expected a list")
        return make([item(v, f"{path}[{i}]") for i, v in enumerate(value)])

    return convert


def _mapping(item: Converter) -> Converter:
    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise ConfigError(path, value, "expected a mapping")
        return {str(k): item(v, f"{path}.{k}") for k, v in value.items()}

    return convert
