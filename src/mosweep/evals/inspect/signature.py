"""The arguments of an Inspect task, read from its source without running it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosweep.core.errors import ConfigError, UserError, choices

__all__ = ["TaskSignature", "check_arguments", "task_signature"]


@dataclass(frozen=True)
class TaskSignature:
    """The signature of a task function.

    - ``defaults``: default values, as far as they are literals
    - ``required``: the arguments without a default
    - ``open_ended``: the function takes any keyword argument
    - ``registered``: Inspect's name for the task: ``@task(name=…)``, or else the function's name
    """

    name: str
    arguments: tuple[str, ...]
    defaults: Mapping[str, Any]
    required: tuple[str, ...]
    open_ended: bool
    registered: str

    def takes(self, argument: str) -> bool:
        """Whether the task takes ``argument``."""
        return self.open_ended or argument in self.arguments


def task_signature(path: Path, name: str | None = None) -> TaskSignature:
    """The signature of the only ``@task`` in ``path``, or of the task ``name``.

    Raises ``UserError``, with the tasks of the file, if there is no such task.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"the task file {path} cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
    tasks = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(map(_is_task, node.decorator_list))
    ]
    names = [task.name for task in tasks]
    if name is not None:
        tasks = [task for task in tasks if name in (task.name, _registered(task))]
        if not tasks:
            raise UserError(f"{path} has no @task {name}; {choices(name, names)}")
    if len(tasks) != 1:
        present = f"{len(names)}: {', '.join(names)}" if names else "none"
        raise UserError(f"{path} must have exactly one @task function, found {present}")
    if not any(
        isinstance(_called(decorator), ast.Name)
        for decorator in tasks[0].decorator_list
        if _is_task(decorator)
    ):
        raise UserError(
            f"{path}: Inspect does not recognise the decorator of {tasks[0].name}; write: from "
            "inspect_ai import task, and @task"
        )
    return _signature(tasks[0])


def check_arguments(
    signature: TaskSignature, given: Mapping[str, Any], where: str = "inspect.task_args"
) -> None:
    """Raise ``ConfigError`` for an argument that the task does not take or that is missing."""
    for argument, value in given.items():
        if not signature.takes(argument):
            problem = (
                f"the task {signature.name} takes no such argument; "
                f"{choices(argument, signature.arguments)}"
            )
            raise ConfigError(f"{where}.{argument}", value, problem)
    for argument in signature.required:
        if argument not in given:
            raise ConfigError(
                f"{where}.{argument}", "???", f"the task {signature.name} needs a value"
            )


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _is_task(decorator: ast.expr) -> bool:
    """``@task``, ``@task(…)``, ``@inspect_ai.task`` …"""
    called = _called(decorator)
    return (isinstance(called, ast.Name) and called.id == "task") or (
        isinstance(called, ast.Attribute) and called.attr == "task"
    )


def _registered(function: ast.FunctionDef) -> str:
    for decorator in function.decorator_list:
        if _is_task(decorator) and isinstance(decorator, ast.Call):
            for keyword in decorator.keywords:
                if (
                    keyword.arg == "name"
                    and isinstance(keyword.value, ast.Constant)
                    and isinstance(keyword.value.value, str)
                ):
                    return keyword.value.value
    return function.name


def _signature(function: ast.FunctionDef) -> TaskSignature:
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = list(
        zip(
            positional,
            [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults),
            strict=True,
        )
    )
    pairs += zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    defaults = {}
    for argument, default in pairs:
        if default is not None:
            try:
                defaults[argument.arg] = ast.literal_eval(default)
            except ValueError:
                continue  # computed at run time: the argument is optional, its default is unknown
    return TaskSignature(
        name=function.name,
        arguments=tuple(argument.arg for argument, _ in pairs),
        defaults=defaults,
        required=tuple(argument.arg for argument, default in pairs if default is None),
        open_ended=spec.kwarg is not None,
        registered=_registered(function),
    )
