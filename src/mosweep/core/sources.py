"""Source files as the keys of stages see them: by syntax, with what they import and which files
they name.

The form is the same for every Python from 3.11 to 3.14. Comments and formatting do not count.
Docstrings do, because Inspect shows those of tools to models. This module must not run the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mosweep.core.fingerprint import digest_bytes

__all__ = ["Import", "Source", "read_source", "syntax"]

#: Strings that may name a file: not too long, and on one line.
_NAME = re.compile(r"[^\n\r\0]{1,200}")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,6}")
#: Calls whose text arguments are paths.
_PATH_CALLS = frozenset("Path PurePath join joinpath open glob rglob iglob read_text".split())
#: Calls that read whatever is in a folder.
_LISTING_CALLS = frozenset("iterdir listdir scandir walk rglob glob".split())
#: Calls that write to what they are called on, or to their first argument.
_WRITING_CALLS = frozenset(
    "write_text write_bytes touch unlink rename replace mkdir makedirs remove save savetxt to_csv "
    "to_json to_parquet to_pickle".split()
)
_FILE_ARGUMENTS = frozenset("file path fname path_or_buf".split())
_WRITING_MODE = re.compile(r"[wax][bt+]*|r[bt]*\+[bt]*")
_MODULE_CALLS = frozenset({"import_module", "__import__"})
#: Fields that differ between versions of Python, or say nothing about the result.
_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True)
class Import:
    """One import: ``module`` and the ``names`` taken from it, ``level`` packages up."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0


@dataclass(frozen=True)
class Source:
    """One source file.

    - ``digest``: of its syntax, or of its bytes if it is not Python
    - ``imports``: its imports, also those within functions and by ``import_module("…")``
    - ``names``: text in it that may name a file. ``*`` stands for what is computed.
    - ``folders``: text in it that is used as a path and may name a folder
    - ``lists``: it lists its own folder
    - ``written``: text in it that names a file which it writes itself
    """

    digest: str
    imports: tuple[Import, ...] = ()
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    lists: bool = False
    written: tuple[str, ...] = ()


def read_source(text: bytes) -> Source:
    """Read a Python file. A file that cannot be parsed is covered by its bytes."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return Source(digest_bytes(text))
    imports: list[Import] = []
    names: set[str] = set()
    folders: set[str] = set()
    written: set[str] = set()
    lists = own = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [Import(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = tuple(alias.name for alias in node.names)
            imports.append(Import(node.module or "", named, node.level))
        elif isinstance(node, ast.Call):
            called = _called(node)
            lists = lists or called in _LISTING_CALLS
            given = [*_texts(node.args), *_texts([keyword.value for keyword in node.keywords])]
            if called in _PATH_CALLS:
                folders.update(given)
            if called in _WRITING_CALLS or (called == "open" and _for_writing(node)):
                written.update(_written(node))
            if called in _MODULE_CALLS:
                imports += [Import(name) for name in given[:1]]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            folders.update(_texts([node.left, node.right]))
        elif isinstance(node, ast.Name) and node.id == "__file__":
            own = True
        names.update(_file_names(node))
    return Source(
        digest_bytes(syntax(tree).encode("utf-8", "surrogatepass")),
        tuple(imports),
        tuple(sorted(names)),
        tuple(sorted(folders)),
        lists and own,
        tuple(sorted(written)),
    )


def syntax(node: Any) -> str:
    """The syntax tree as text that does not depend on the version of Python."""
    return "".join(_pieces(node))


def _pieces(node: Any) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        node = ast.JoinedStr(values=_merged(node.values))
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name in node._fields:
            value = getattr(node, name, None)
            if name not in _IGNORED and value is not None and value != []:
                yield f"{name}="
                yield from _pieces(value)
                yield ","
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _pieces(item)
            yield ","
        yield "]"
    elif type(node) is int:  # Python refuses to write a long one in decimal.
        yield f"int:{node:x}"
    else:
        yield f"{type(node).__name__}:{node!r}"


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with adjacent text joined: Python versions split it differently."""
    merged: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant):
            last = merged[-1] if merged else None
            if isinstance(last, ast.Constant):
                merged[-1] = ast.Constant(str(last.value) + str(value.value))
            elif value.value != "":
                merged.append(value)
        else:
            merged.append(value)
    return merged


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _for_writing(node: ast.Call) -> bool:
    """Whether a call of ``open`` has a mode that writes."""
    return any(_WRITING_MODE.fullmatch(text) for text in _texts([*node.args, *_values(node)]))


def _values(node: ast.Call) -> list[ast.expr]:
    return [keyword.value for keyword in node.keywords]


def _written(node: ast.Call) -> Iterator[str]:
    """The texts in what a writing call is called on, or in its first argument."""
    targets = [node.func.value] if isinstance(node.func, ast.Attribute) else []
    named = [keyword.value for keyword in node.keywords if keyword.arg in _FILE_ARGUMENTS]
    for target in [*targets, *node.args[:1], *named]:
        for inner in ast.walk(target):
            yield from _file_names(inner)
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                yield inner.value


def _texts(nodes: list[ast.expr]) -> list[str]:
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _NAME.fullmatch(node.value)
    ]


def _file_names(node: ast.AST) -> Iterator[str]:
    """Text that may name a file: ``words.txt``, ``data/*.csv``, ``*.jsonl`` for a suffix."""
    if isinstance(node, ast.JoinedStr):
        text = "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "*"
            for part in node.values
        )
        if "." in text.rpartition("*")[2] and _NAME.fullmatch(text):
            yield text
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
        if _SUFFIX.fullmatch(text):
            yield f"*{text}"
        elif _NAME.fullmatch(text) and ("." in text or "/" in text):
            yield text
