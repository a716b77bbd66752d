"""The digest of a step's code: its function, and the user's code that the function uses.

The digest is computed from the parsed source, so comments and layout do not change it. It covers:

- the function itself
- the functions, classes and values of its module that it names, and what those name in turn
- the whole file of every other module in the same folder that it uses

Libraries are not part of it; a record lists their versions. Without source, as in ``python -c``,
the bytecode is used.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.errors import UserError
from mosweep.core.modules import is_own
from mosweep.core.sources import syntax
from mosweep.core.task_code import code_digest, covered_files

__all__ = ["code_of"]

_PLAIN = (str, bytes, int, float, bool, complex, type(None))


def code_of(fn: Callable[..., Any]) -> str:
    """The digest of ``fn``'s code and of the values that are bound to it.

    These are closures, partial arguments and the fields of an instance.
    """
    return fingerprint.fingerprint({"code": list(_described(fn, set()))})


def _described(value: Any, seen: set[int]) -> Iterator[str]:
    """Texts that represent the code of ``value``. Nothing if it is in ``seen``."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        yield from _described(value.func, seen)
        yield from _bound(
            [*value.args, *(item for pair in sorted(value.keywords.items()) for item in pair)], seen
        )
    elif isinstance(value, types.MethodType):
        yield from _described(value.__func__, seen)
        yield from _bound([value.__self__], seen)
    elif isinstance(value, types.FunctionType):
        wrapped = inspect.unwrap(value)
        if wrapped is not value:
            yield from _described(wrapped, seen)
        yield from _function(value, seen)
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif callable(value) and not isinstance(value, types.BuiltinFunctionType):
        yield from _described(type(value), seen)
        yield from _bound([value], seen)
    else:
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"


def _function(fn: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield _source(fn.__code__)
    yield from _bound(
        [
            *(fn.__defaults__ or ()),
            *(cell.cell_contents for cell in fn.__closure__ or () if _filled(cell)),
        ],
        seen,
    )
    yield from _named(set(_names(fn.__code__)), fn.__globals__, seen)


def _class(cls: type, seen: set[int]) -> Iterator[str]:
    module = sys.modules.get(cls.__module__)
    if module is None or not _own(module):
        yield f"{cls.__module__}.{cls.__qualname__}"
        return
    for member in vars(cls).values():
        member = getattr(member, "__func__", getattr(member, "fget", member))
        if isinstance(member, types.FunctionType) and member.__module__ == cls.__module__:
            yield from _described(member, seen)
    try:
        yield _parsed(inspect.getsource(cls))
    except (OSError, TypeError, SyntaxError):
        yield cls.__qualname__
    for base in cls.__bases__:
        yield from _described(base, seen)


def _named(names: set[str], scope: dict[str, Any], seen: set[int]) -> Iterator[str]:
    """Texts for the global names that a function uses.

    Names of its own module stand for their definitions, other modules in the folder for their
    files.
    """
    definitions = _definitions(scope.get("__file__"))
    for name in sorted(names & scope.keys()):
        value = scope[name]
        module = (
            value
            if isinstance(value, types.ModuleType)
            else sys.modules.get(getattr(value, "__module__", None) or "")
        )
        if isinstance(value, types.FunctionType | type) and value.__module__ == scope.get(
            "__name__"
        ):
            yield from _described(value, seen)
        elif module is not None and _beside(module, scope):
            yield from _file(module)
        elif name in definitions:
            yield f"{name} = {definitions[name]}"
        elif isinstance(value, _PLAIN):
            yield f"{name} = {value!r}"


@functools.cache
def _definitions(file: str | None) -> dict[str, str]:
    """The top-level assignments of a module, by name."""
    if file is None or not Path(file).is_file():
        return {}
    definitions: dict[str, str] = {}
    for node in ast.parse(Path(file).read_bytes()).body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign | ast.AugAssign)
            else []
        )
        for target in targets:
            for name in (each.id for each in ast.walk(target) if isinstance(each, ast.Name)):
                definitions[name] = definitions.get(name, "") + syntax(node)
    return definitions


def _bound(values: list[Any], seen: set[int]) -> Iterator[str]:
    """Texts for values that are bound to the code.

    Lists and dictionaries are left out, as they may change while the program runs.
    """
    for value in values:
        if isinstance(value, _PLAIN):
            yield repr(value)
        elif isinstance(value, tuple | frozenset):
            yield from _bound(
                sorted(value, key=repr) if isinstance(value, frozenset) else list(value), seen
            )
        elif isinstance(value, types.FunctionType | types.MethodType | functools.partial | type):
            yield from _described(value, seen)
        else:
            try:
                yield (
                    fingerprint.canonical_json(value)
                    if hasattr(type(value), "__dataclass_fields__")
                    else type(value).__qualname__
                )
            except TypeError as error:
                raise UserError(
                    f"a step's function is bound to a {type(value).__name__} that has no key: "
                    f"{error}"
                ) from error


@functools.cache
def _source(code: types.CodeType) -> str:
    try:
        return _parsed(inspect.getsource(code))
    # There is no source for interactive code, or for a lambda within a line.
    except (OSError, TypeError, SyntaxError):
        inner = [
            _source(item) if isinstance(item, types.CodeType) else repr(item)
            for item in code.co_consts
        ]
        return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {inner}"


def _parsed(text: str) -> str:
    tree = ast.parse(textwrap.dedent(text))
    for node in ast.walk(tree):  # Nobody reads the docstring of a step.
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return syntax(tree)


def _names(code: types.CodeType) -> Iterator[str]:
    """Global names that ``code``, or a function within it, uses."""
    yield from code.co_names
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _names(item)


def _own(module: types.ModuleType) -> bool:
    """Whether a module is the user's: not installed, not mosweep, not the standard library."""
    if module.__name__.partition(".")[0] in {*sys.stdlib_module_names, "mosweep"}:
        return module.__name__ == "__main__"
    file = getattr(module, "__file__", None)
    return file is None or is_own(Path(file))


def _beside(module: types.ModuleType, scope: dict[str, Any]) -> bool:
    """Whether ``module`` is another file of the user in or below the folder of a module.

    ``scope`` holds the global variables of that module.
    """
    own, other = scope.get("__file__"), getattr(module, "__file__", None)
    return bool(
        own
        and other
        and own != other
        and _own(module)
        and Path(other).resolve().is_relative_to(Path(own).resolve().parent)
    )


def _file(module: types.ModuleType) -> Iterator[str]:
    yield code_digest(covered_files(Path(str(module.__file__)).resolve()))


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises ValueError while the variable has no value
    except ValueError:
        return False
    return True
