"""Keys: the identity of a result.

A key is ``sha256(canonical JSON)`` of a payload: the kind and version of the work, its typed
configuration, the keys or digests of its inputs, and the digest of the user's code that it runs.
``1`` and ``1.0`` are the same number. A field that is ``None`` is left out, so an optional field
can be added to a dataclass without changing any key. Values that JSON cannot represent faithfully
are refused.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import IO, Any

__all__ = [
    "canonical",
    "canonical_json",
    "differences",
    "digest_bytes",
    "digest_file",
    "digest_stream",
    "digest_tree",
    "fingerprint",
    "unkeyed",
]

#: Metadata of a field that is not part of the key: a path, an interpreter, a device, or anything
#: else that does not define the result.
unkeyed: dict[str, Any] = {"key": False}


def canonical(value: Any, path: str = "") -> Any:
    """The canonical form of ``value``, as data for JSON.

    Raises ``TypeError`` for a value without one. The error names its path and how to fix it.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(
                f"{path or 'value'} is {value}: a key needs finite numbers; leave the field None "
                "instead"
            )
        return int(value) if value.is_integer() else value
    if dataclasses.is_dataclass(kind):
        return _canonical_dataclass(value, path)
    if kind is dict or isinstance(value, Mapping):
        result = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(
                    f"{path or 'value'} has the key {key!r}: keys must be text; write str({key!r})"
                )
            if item is not None:
                result[key] = canonical(item, f"{path}.{key}" if path else key)
        return result
    if isinstance(value, list | tuple):
        return [canonical(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, enum.Enum):
        return canonical(value.value, path)
    for base in (str, int, float):  # Subclasses, such as NumPy's float64.
        if isinstance(value, base):
            return canonical(base(value), path)
    if isinstance(value, PurePath):
        raise TypeError(
            f"{path or 'value'} is a path: a key must not depend on where files are; use the "
            "digest of the content"
        )
    raise TypeError(
        f"{path or 'value'} is a {kind.__name__}, which has no canonical form; use text, "
        "numbers, lists, mappings or dataclasses"
    )


def _canonical_dataclass(value: Any, path: str) -> dict[str, Any]:
    """The canonical form of a dataclass.

    It is kept on a frozen object inside a payload: trials share most settings, so this saves time
    and memory.
    """
    kind: Any = type(value)
    form = value.__dict__.get("_canonical") if hasattr(value, "__dict__") else None
    if form is None:
        form = {
            name: canonical(item, f"{path}.{name}" if path else name)
            for name in _keyed_fields(kind)
            if (item := getattr(value, name)) is not None
        }
        if path and kind.__dataclass_params__.frozen and hasattr(value, "__dict__"):
            value.__dict__["_canonical"] = form
    return form


@functools.cache
def _keyed_fields(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls) if f.metadata.get("key", True))


def canonical_json(payload: Any) -> str:
    """The canonical form as compact JSON with sorted keys."""
    return json.dumps(canonical(payload), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(payload: Any) -> str:
    """The key of ``payload``: 64 hexadecimal digits."""
    try:
        return digest_bytes(canonical_json(payload).encode())
    except UnicodeEncodeError as error:
        raise TypeError(
            f"{error.object[max(error.start - 20, 0) : error.end + 20]!r} is not Unicode text: "
            "it has no canonical form"
        ) from None


def digest_bytes(data: bytes) -> str:
    """The SHA-256 of ``data``, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. The file is read in blocks."""
    with open(path, "rb") as file:
        return digest_stream(file)


def digest_stream(file: IO[bytes]) -> str:
    """The SHA-256 of the rest of ``file``, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def digest_tree(folder: Path, names: Iterable[str]) -> str:
    """One digest for the files ``names`` of ``folder``.

    It depends on their relative names and contents, not on their order or times.
    """
    return fingerprint({name: digest_file(folder / name) for name in sorted(set(names))})


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The differences of two canonical payloads: ``(dotted path, old, new)``.

    A missing value is ``None``.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        rows = []
        for key in sorted(set(old) | set(new)):
            rows += differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return rows
    # Not ``==``, for which True equals 1.
    return [] if canonical_json(old) == canonical_json(new) else [(path, old, new)]
