"""What the result of a task's code depends on: its files, and the user's modules that it imports.

Covered are:

- all files in the folder of a task (one with ``data.py`` or ``eval.py``), but not hidden or
  git-ignored files, compiled files, its README, ``eval.yaml`` and files that its code writes
- of any other task, the file and those files in its folder that the code names
- the modules that these import from outside the standard library and ``site-packages``, and the
  files that those name

Python files count by their syntax, all other files by their content. Network access, data of
packages and paths that are computed cannot be covered. mosweep itself does not count: the
``version`` of a work stands for it. This module must not run the code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

from mosweep.core import fingerprint
from mosweep.core.digests import file_digest, source_of
from mosweep.core.errors import StageError
from mosweep.core.modules import (
    dotted,
    files_below,
    has_module,
    is_own,
    located,
    module_file,
    module_name,
    package_of,
    paths_of,
)
from mosweep.core.paths import cached_here
from mosweep.core.sources import Import, Source

__all__ = [
    "check_code",
    "code_digest",
    "covered_files",
    "covered_module",
    "current_work_code",
    "edited",
    "work_code",
]

#: A task's files that run on their own. One is part of the other only if it is imported.
ENTRY_POINTS = ("data.py", "eval.py")
#: Folders that are never part of a task.
_NEVER = frozenset("__pycache__ node_modules multirun outputs site-packages".split())


def code_digest(files: Mapping[str, str]) -> str:
    """One digest for what ``covered_files`` found."""
    return fingerprint.fingerprint(dict(files))


def check_code(files: Mapping[str, str] | None, digest: str, what: str) -> None:
    """Raise ``StageError`` if the code of ``what`` has changed since the stage was planned."""
    if code_digest(files or {}) != digest:
        raise edited(what)


def edited(what: str) -> StageError:
    """The error of a stage whose code or files are not those that it was planned with."""
    return StageError(
        f"{what} was edited since this stage was planned; run the sweep's command again"
    )


def covered_files(path: Path) -> Mapping[str, str]:
    """The digest of every file that the code in ``path`` may use, by a name to show.

    Names do not depend on where the task's folder or a package is installed.
    """
    return _Coverage(path.parent).of(path)


def covered_module(name: str) -> Mapping[str, str] | None:
    """The same for the module ``name``. ``None`` if it is not the user's, or does not exist."""
    path = module_file(name)
    if path is None or not is_own(path):
        return None
    coverage = _Coverage(path.parent)
    for file in located(name):
        coverage.add(file, module_name(name, file))
    return coverage.all()


@cached_here
def work_code(work: type) -> Mapping[str, str] | None:
    """The user's files that a class of a user's own may use. ``None`` if it is installed."""
    return current_work_code(work)


def current_work_code(work: type) -> Mapping[str, str] | None:
    """``work_code``, without the cache."""
    module = sys.modules.get(work.__module__)
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or not is_own(Path(file)):
        return None
    coverage = _Coverage(Path(file).parent)
    for path in located(work.__module__) if work.__module__ != "__main__" else ():
        coverage.add(path, module_name(work.__module__, path))
    coverage.add(Path(file), work.__module__)
    return coverage.all()


class _Coverage:
    """The files that were found so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, str] = {}
        self.seen: set[Path] = set()
        self.remaining: list[tuple[Path, str]] = []

    def of(self, path: Path) -> Mapping[str, str]:
        if path.name in ENTRY_POINTS:
            for file in _task_files(self.folder):
                if file.name not in ENTRY_POINTS or file.parent != self.folder or file == path:
                    self.add(file)
        self.add(path)
        return self.all()

    def all(self) -> Mapping[str, str]:
        """Everything that was added, and what it uses."""
        while self.remaining:
            file, module = self.remaining.pop()
            self.follow(file, module, source_of(file))
        return self.found

    def add(self, path: Path, module: str = "") -> None:
        """Cover a file. ``module`` is its dotted name if it is not in the task's folder."""
        if path in self.seen:
            return
        self.seen.add(path)
        name = self.name_of(path, module)
        try:
            if path.suffix == ".py":
                self.found[name] = source_of(path).digest
                self.remaining.append((path, module))
            else:
                self.found[name] = file_digest(path)
        except OSError:  # Running the code will report it.
            self.found[name] = "unreadable"

    def name_of(self, path: Path, module: str) -> str:
        if module:
            return f"{module} (module)"
        for place, prefix in ((self.folder, ""), (Path.cwd(), "./")):
            if path.is_relative_to(place):
                return f"{prefix}{path.relative_to(place).as_posix()}"
        names = (path.name if n == 1 else f"{path.name} ({n})" for n in count(1))
        return next(name for name in names if name not in self.found)

    def follow(self, path: Path, module: str, source: Source) -> None:
        """Cover what a Python file imports and names."""
        for each in source.imports:
            for file, name in self.imported(each, path, module):
                self.add(file, name)
        for file in _named(path.parent, source):
            self.add(file)

    def imported(self, each: Import, path: Path, module: str) -> Iterator[tuple[Path, str]]:
        """The files of an import, each with its module's dotted name."""
        if each.level:
            folder = path.parent
            for _ in range(each.level - 1):
                folder = folder.parent
            package = package_of(module, path, each.level)
            for names in paths_of(each):
                for file in files_below(folder, names):
                    yield file, dotted(package, folder, file)
            return
        top = each.module.partition(".")[0]
        if not module and has_module(self.folder, top):
            for names in paths_of(each):
                for file in files_below(self.folder, names):
                    yield file, ""
            if (self.folder / top).is_dir():  # Code may choose among the modules of a package.
                for file in sorted((self.folder / top).rglob("*.py")):
                    yield file, ""
            return
        for names in paths_of(each):
            for file in located(".".join(names)):
                if is_own(file):
                    yield file, module_name(".".join(names), file)


def _task_files(folder: Path) -> list[Path]:
    """The files of a task's folder that count."""
    files = [
        path
        for path in _walk(folder)
        if path.suffix not in (".pyc", ".pyo")
        and not (path.parent == folder and _is_about(path.name))
    ]
    written = {name for path in files if path.suffix == ".py" for name in source_of(path).written}
    ignored = _git_ignored(folder, files)
    return [
        path
        for path in files
        if path not in ignored
        and (path.suffix == ".py" or not {path.name, str(path.relative_to(folder))} & written)
    ]


def _is_about(name: str) -> bool:
    """Whether a file only describes a task. The values in ``eval.yaml`` are arguments."""
    return name.lower().startswith("readme") or name == "eval.yaml"


def _walk(folder: Path) -> Iterator[Path]:
    """The files below ``folder`` that are not hidden. Of linked folders, only packages count."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        linked = place != str(folder) and os.path.islink(place)
        if real in seen or (linked and "__init__.py" not in names):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            name for name in folders if name not in _NEVER and not name.startswith(".")
        )
        for name in sorted(names):
            if not name.startswith(".") and os.path.isfile(os.path.join(place, name)):
                yield Path(place, name)


def _git_ignored(folder: Path, files: Iterable[Path]) -> set[Path]:
    """Those of ``files`` that Git ignores; none if Git is missing or this is no repository."""
    top = next((above for above in (folder, *folder.parents) if (above / ".git").exists()), None)
    if top is None:
        return set()
    names = "\0".join(str(path) for path in files if path.suffix != ".py")
    if not names:
        return set()
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "check-ignore", "-z", "--stdin"],
            input=names.encode("utf-8", "surrogateescape"),
            capture_output=True,
            check=False,
        )
    except OSError:
        return set()
    listed = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    return {Path(name) for name in listed if name}


def _named(folder: Path, source: Source) -> Iterator[Path]:
    """The files that a Python file in ``folder`` names, relative to it or to where we are."""
    here = Path.cwd()
    for name in source.names:
        if name in source.written:
            continue
        for place in dict.fromkeys((folder, here)):
            with contextlib.suppress(OSError, ValueError, NotImplementedError, IndexError):
                yield from _matching(place, name, own=place == folder)
    for name in source.folders:
        for place in dict.fromkeys((folder, here)) if "/" in name else (folder,):
            with contextlib.suppress(OSError, ValueError):
                inner = (place / name).resolve()
                if inner.is_dir() and not folder.resolve().is_relative_to(inner):
                    yield from _walk(inner)
    if source.lists:
        yield from (path for path in _walk(folder) if path.suffix != ".py")


def _matching(folder: Path, name: str, *, own: bool) -> Iterator[Path]:
    """The files that ``name`` may stand for. Patterns count only in the code's own folder."""
    if "*" not in name:
        path = folder / name
        if path.is_file() and path.suffix != ".pyc":
            yield path if path.is_relative_to(folder) and ".." not in path.parts else path.resolve()
    elif own and not name.startswith("/") and ".." not in name:
        yield from (path for path in folder.glob(name) if path.is_file() and path.suffix != ".py")
