"""Names of Inspect tasks: by folder, file, import path or registered name."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core.causes import reason_of
from mosweep.core.errors import UserError
from mosweep.core.task_code import covered_files, covered_module
from mosweep.core.task_modules import task_modules
from mosweep.evals.inspect.signature import TaskSignature, task_signature

if TYPE_CHECKING:
    from inspect_ai import Task

__all__ = ["code_files", "located", "reference", "signature_of", "with_own_modules"]


def located(spec: str) -> tuple[Path, str | None] | None:
    """``(file, task or None)`` if ``spec`` names a file or a task folder."""
    text, _, name = (
        (spec, "", "")
        if spec.endswith(".py") or "@" not in spec or Path(spec).is_dir()
        else spec.rpartition("@")
    )
    path = Path(text)
    if path.is_dir():
        path /= "eval.py"
    # A link to a file is not followed: the modules next to the link belong to the task.
    return (path.parent.resolve() / path.name, name or None) if path.suffix == ".py" else None


def code_files(spec: str) -> Mapping[str, str] | None:
    """The files of the user's that a task's code may use, with their digests.

    ``None`` if the task belongs to an installed library, or is unknown.
    """
    place = located(spec)
    if place is not None:
        return covered_files(place[0])
    if ":" in spec:
        return covered_module(spec.partition(":")[0])
    package = spec.partition("/")[0]
    points = entry_points(group="inspect_ai", name=package) if "/" in spec else ()
    found = [files for point in points if (files := covered_module(point.module))]
    return found[0] if found else None


@contextlib.contextmanager
def with_own_modules(spec: str) -> Iterator[None]:
    """While Inspect runs the file of ``spec``, the file imports modules from its own folder.

    It never gets a module of another task.
    """
    place = located(spec)
    if place is None:
        yield
        return
    loading: Any = importlib.import_module("inspect_ai._util.module")
    original = loading.SourceFileLoader
    with task_modules(place[0].parent) as modules:
        loading.SourceFileLoader = modules.loader
        try:
            yield
        finally:
            loading.SourceFileLoader = original


def signature_of(spec: str) -> TaskSignature:
    """The signature of a task, from its file, or else from the imported function."""
    place = located(spec)
    if place is not None:
        return task_signature(*place)
    function = _imported(spec) if ":" in spec else _registered(spec)
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return TaskSignature(
        name=spec,
        arguments=tuple(p.name for p in named),
        defaults={p.name: p.default for p in named if p.default is not p.empty},
        required=tuple(p.name for p in named if p.default is p.empty),
        open_ended=any(p.kind is p.VAR_KEYWORD for p in parameters),
        registered=spec,
    )


def _imported(spec: str) -> Any:
    module, _, name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the task {spec} cannot be imported: {reason_of(error)}") from error
    if not callable(function):
        raise UserError(f"the task {spec} is not a function")
    return function


def _registered(spec: str) -> Any:
    from inspect_ai._util.registry import registry_lookup

    function = registry_lookup("task", spec)
    if function is None:
        raise UserError(
            f"no evaluation task {spec}: neither a file, nor a task folder, nor "
            "package.module:function, nor known to Inspect"
        )
    return function


def reference(spec: str, given: Mapping[str, Any]) -> tuple[str | Task, dict[str, Any]]:
    """The task and its arguments for ``eval_async``, such that the log can be run again."""
    place = located(spec)
    if place is not None:
        return f"{place[0]}@{task_signature(*place).registered}", dict(given)
    if ":" in spec:
        task: Task = _imported(spec)(**given)
        return task, {}
    return spec, dict(given)
