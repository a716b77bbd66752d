"""Where the files of the user's modules are, found without importing anything."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from mosweep.core.paths import cached_here
from mosweep.core.sources import Import

__all__ = [
    "dotted",
    "files_below",
    "has_module",
    "is_own",
    "located",
    "module_file",
    "module_name",
    "package_of",
    "paths_of",
]


def module_file(name: str) -> Path | None:
    """The file of the module ``name``, found without importing anything."""
    files = list(located(name))
    return files[-1] if files and _stem(files[-1]) == name.rpartition(".")[2] else None


def paths_of(each: Import) -> Iterator[list[str]]:
    """The dotted paths that an import may load: the module, and the names that may be modules."""
    base = each.module.split(".") if each.module else []
    if base:
        yield base
    for name in each.names:
        if name != "*":
            yield [*base, name]


def located(name: str) -> Iterator[Path]:
    """The existing files of module ``name`` and the packages above it, outermost first."""
    top, *below = name.split(".")
    if not top or top in sys.stdlib_module_names or top == "mosweep":
        return
    for place in _top_level(top):
        if place.is_file():
            yield place
            folder = place.parent if _stem(place) == top and place.name == "__init__.py" else None
        else:
            folder = place
        if folder is not None and below:
            yield from files_below(folder, below)


@cached_here
def _top_level(name: str) -> tuple[Path, ...]:
    """The file of a top-level module, or the folders of a namespace package."""
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = PathFinder.find_spec(name, [*sys.path, os.getcwd()]) or find_spec(name)
        if spec is not None and spec.origin not in (None, "built-in", "frozen", "namespace"):
            return (Path(str(spec.origin)),) if str(spec.origin).endswith(".py") else ()
        if spec is not None and spec.submodule_search_locations:
            return tuple(Path(place) for place in spec.submodule_search_locations)
    return ()


def files_below(folder: Path, names: list[str]) -> Iterator[Path]:
    """The files of a dotted path below ``folder``, outermost first."""
    for number, name in enumerate(names):
        if (folder / name / "__init__.py").is_file():
            yield folder / name / "__init__.py"
        elif (folder / f"{name}.py").is_file():
            yield folder / f"{name}.py"
            return
        elif not (folder / name).is_dir() or number == len(names) - 1:
            return
        folder = folder / name


def has_module(folder: Path, name: str) -> bool:
    """Whether ``folder`` has a module ``name``, or a folder of modules."""
    return (folder / f"{name}.py").is_file() or (
        (folder / name).is_dir() and any((folder / name).glob("*.py"))
    )


def is_own(path: Path) -> bool:
    """Whether a file is the user's: neither installed nor Python's own."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    library = Path(os.__file__).resolve().parent
    return not path.resolve().is_relative_to(library)


def _stem(path: Path) -> str:
    return path.parent.name if path.name == "__init__.py" else path.stem


def module_name(requested: str, path: Path) -> str:
    """The dotted name of ``path``, which is ``requested`` or a package above it."""
    names = requested.split(".")
    while len(names) > 1 and names[-1] != _stem(path):
        names.pop()
    return ".".join(names)


def package_of(module: str, path: Path, level: int) -> str:
    """The package that a relative import of ``level`` in ``module`` starts from."""
    names = module.split(".") if module else []
    if path.name == "__init__.py":
        level -= 1
    return ".".join(names[: len(names) - level] if level else names)


def dotted(package: str, folder: Path, path: Path) -> str:
    """The dotted name of ``path``, which is below ``folder``, the folder of ``package``."""
    if not package:
        return ""
    names = [*path.relative_to(folder).parts[:-1], "" if path.name == "__init__.py" else path.stem]
    return ".".join([package, *(name for name in names if name)])
