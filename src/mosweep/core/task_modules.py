"""The modules beside a task's code, for that code alone.

A worker process runs the stages of many tasks, and two of them may both have a ``helpers.py``. So
what lies in a task's folder is loaded anew for every stage, into a package of the stage's own. The
task's code finds it there before any library of the same name, whether it imports it at the top of
a file or within a function, and no other code does: for that, and for names made up at run time
(``importlib.import_module``), the folder comes last on ``sys.path``, and only while the stage runs.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

__all__ = ["TaskModules", "imported_files", "python_files", "task_modules"]


@dataclass(frozen=True, eq=False)
class TaskModules:
    """The modules in ``folder``, in ``sys.modules`` below the package ``root``. On
    ``sys.meta_path`` while a stage runs.
    """

    folder: Path
    root: ModuleType

    @property
    def package(self) -> str:
        """Name of the package."""
        return self.root.__name__

    def load(self, path: Path) -> ModuleType:
        """Run the file ``path`` and return its module."""
        name = f"{self.package}.{path.stem}"
        spec = importlib.util.spec_from_file_location(
            name, path, loader=self.loader(name, str(path))
        )
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def loader(self, name: str, path: str) -> SourceFileLoader:
        """What loads the file ``path`` as module ``name``."""
        return (
            _Loader(name, path, self)
            if Path(path).is_relative_to(self.folder)
            else SourceFileLoader(name, path)
        )

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where module ``name`` is, if it is one of these; part of Python's import protocol."""
        if not name.startswith(f"{self.package}."):
            return None
        details: Any = (self.loader, SOURCE_SUFFIXES)
        # new ones: they do not look again within a moment
        finders = (FileFinder(place, details) for place in path or ())
        return next((spec for finder in finders if (spec := finder.find_spec(name))), None)

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What ``import`` does in the task's code: ``__import__``, with the modules of the folder
        first.
        """
        top = name.partition(".")[0]
        if level or not self._has(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if sys.modules.get(self.package) is not self.root:
            raise ImportError(
                f"{name} is wanted from {self.folder} by code that was left running when its "
                "stage ended",
                name=name,
            )
        builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
        return sys.modules[f"{self.package}.{name if fromlist else top}"]

    def _has(self, name: str) -> bool:
        path = self.folder / name
        if (self.folder / f"{name}.py").is_file() or (path / "__init__.py").is_file():
            return True
        # a mere folder may as well hold data and be called like what made them
        return path.is_dir() and not _is_library(name)


class _Loader(SourceFileLoader):
    """Loads a task's file from its source: a ``.pyc`` also serves a source of the same size and
    second.
    """

    def __init__(self, name: str, path: str, modules: TaskModules) -> None:
        super().__init__(name, path)
        self._modules = modules

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._modules.import_}
        super().exec_module(module)


@contextlib.contextmanager
def task_modules(folder: Path) -> Iterator[TaskModules]:
    """The modules of a task's folder, for as long as its code runs. Then they are gone, however
    they came to be imported.
    """
    folder = folder.resolve()
    package = next(
        name for number in count(1) if (name := f"mosweep_task_{number}") not in sys.modules
    )
    root = sys.modules[package] = ModuleType(package)
    root.__path__ = [str(folder)]
    modules = TaskModules(folder, root)
    path, known = sys.path[:], set(sys.modules)
    sys.meta_path.insert(0, modules)
    sys.path += [place for place in [str(folder)] if place not in sys.path]
    try:
        yield modules
    finally:
        sys.meta_path.remove(modules)
        added = [
            place
            for place in sys.path
            if place not in path and Path(os.path.abspath(place)).is_relative_to(folder)
        ]
        sys.path[:] = [place for place in sys.path if place not in added]
        places = {str(folder), *added}
        for name, module in list(sys.modules.items()):
            if f"{name}.".startswith(f"{package}.") or (
                name not in known and any(_lies_in(place, name, module) for place in places)
            ):
                del sys.modules[name]


def _is_library(name: str) -> bool:
    """Whether ``name`` is a module for everybody, other than a mere folder."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # imported, with no word of where from
        return True
    return spec is not None and spec.origin is not None


def _lies_in(place: str, name: str, module: ModuleType) -> bool:
    path = os.path.join(os.path.abspath(place), *name.split("."))
    return getattr(module, "__file__", None) in (f"{path}.py", f"{path}/__init__.py")


def python_files(folder: Path) -> list[Path]:
    """Every Python file in ``folder`` and below; behind a link only if it is to a package."""
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or (
            place != str(folder) and os.path.islink(place) and "__init__.py" not in names
        ):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found += [Path(place, name) for name in names if name.endswith(".py")]
    return found


def imported_files(folder: Path, files: Iterable[Path]) -> set[Path]:
    """The ``files`` and those of ``folder`` that their ``import`` statements lead to, from one to
    the next; of a package all.
    """
    found: set[Path] = set()
    todo = list(files)
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            for name in _imports(path):
                single = folder / f"{name}.py"
                todo += [single] if single.is_file() else []
                todo += python_files(folder / name) if (folder / name).is_dir() else []
    return found


def _imports(path: Path) -> set[str]:
    """The first parts of the names that ``path`` imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # running it will say so
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= (
                {node.module.partition(".")[0]}
                if node.module
                else {alias.name for alias in node.names}
            )
    return names
