"""Imports of a task's code from the task's own folder.

A worker process runs the stages of many tasks, and two of them may both have a ``helpers.py``. So
the modules of a task's folder are loaded again for every stage, into a package of that stage. For
the task's own ``import`` statements, at the top of a file or within a function, they come before
libraries of the same name. For all other imports (other code, ``importlib.import_module``) the
folder comes last on ``sys.path``, and only while the stage runs.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

__all__ = ["TaskModules", "task_modules"]


@dataclass(frozen=True, eq=False)
class TaskModules:
    """The modules of a task's ``folder``.

    In ``sys.modules`` they are below the package ``root``. While a stage runs, this object is on
    ``sys.meta_path``.
    """

    folder: Path
    root: ModuleType

    @property
    def package(self) -> str:
        """The package's name."""
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
        """The loader of the file ``path`` as module ``name``."""
        return (
            _Loader(name, path, self)
            if Path(path).is_relative_to(self.folder)
            else SourceFileLoader(name, path)
        )

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find module ``name`` if it is one of these. Part of Python's import protocol."""
        if not name.startswith(f"{self.package}."):
            return None
        details: Any = (self.loader, SOURCE_SUFFIXES)
        # New finders, because an existing one caches the folder's content for a moment.
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
        """``__import__`` for the task's code: the modules of the folder come first."""
        top = name.partition(".")[0]
        if level or not self._has(top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if sys.modules.get(self.package) is not self.root:
            raise ImportError(
                f"{name} of {self.folder} is imported by code that was left running when its "
                "stage ended",
                name=name,
            )
        builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
        return sys.modules[f"{self.package}.{name if fromlist else top}"]

    def _has(self, name: str) -> bool:
        path = self.folder / name
        if (self.folder / f"{name}.py").is_file() or (path / "__init__.py").is_file():
            return True
        # A folder without __init__.py may hold data, under the name of the library that wrote it.
        return path.is_dir() and not _is_library(name)


class _Loader(SourceFileLoader):
    """Loads a task's file from its source, never from a ``.pyc``.

    A ``.pyc`` would also be used for a changed source of the same size and the same second.
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
    """The modules of a task's folder, while its code runs.

    Afterwards they are removed, however they were imported.
    """
    folder = folder.resolve()
    package = next(
        name for number in count(1) if (name := f"mosweep_task_{number}") not in sys.modules
    )
    root = sys.modules[package] = ModuleType(package)
    root.__path__ = [str(folder)]
    modules = TaskModules(folder, root)
    original_path = sys.path[:]
    original_modules = set(sys.modules)
    sys.meta_path.insert(0, modules)
    sys.path += [place for place in [str(folder)] if place not in sys.path]
    try:
        yield modules
    finally:
        sys.meta_path.remove(modules)
        added = [
            place
            for place in sys.path
            if place not in original_path and Path(os.path.abspath(place)).is_relative_to(folder)
        ]
        sys.path[:] = [place for place in sys.path if place not in added]
        places = {str(folder), *added}
        for name, module in list(sys.modules.items()):
            if f"{name}.".startswith(f"{package}.") or (
                name not in original_modules
                and any(_is_from(place, name, module) for place in places)
            ):
                del sys.modules[name]


def _is_library(name: str) -> bool:
    """Whether ``name`` is an importable library, and more than a folder without __init__.py."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # It is imported, but has no ``__spec__``.
        return True
    return spec is not None and spec.origin is not None


def _is_from(place: str, name: str, module: ModuleType) -> bool:
    path = os.path.join(os.path.abspath(place), *name.split("."))
    return getattr(module, "__file__", None) in (f"{path}.py", f"{path}/__init__.py")
