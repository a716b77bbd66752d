"""Reading a task's arguments without running its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mosweep.core.errors import ConfigError, UserError
from mosweep.evals.inspect.signature import check_arguments, task_signature

SOURCE = """
raise RuntimeError("must not run")
import inspect_ai
from inspect_ai import task

def helper(): ...

@task(name="shown")
def first(a, b: int = 2, *, c, d="x", e=helper()):
    ...
"""


def write(folder: Path, source: str) -> Path:
    (folder / "eval.py").write_text(source)
    return folder / "eval.py"


def test_names_defaults_and_needs(tmp_path: Path) -> None:
    found = task_signature(write(tmp_path, SOURCE))
    assert (found.name, found.registered, found.arguments) == (
        "first",
        "shown",
        ("a", "b", "c", "d", "e"),
    )
    assert (found.required, found.defaults) == (("a", "c"), {"b": 2, "d": "x"})
    assert found.takes("e")
    assert not found.takes("data_path")


@pytest.mark.parametrize("decorator", ["@task", "@task()", "@task(x=1)"])
def test_every_way_to_write_the_decorator(tmp_path: Path, decorator: str) -> None:
    found = task_signature(write(tmp_path, f"{decorator}\ndef t(**kwargs): ..."))
    assert found.open_ended
    assert found.takes("anything")


@pytest.mark.parametrize("decorator", ["@inspect_ai.task", "@inspect_ai.task(x=1)"])
def test_a_decorator_that_inspect_does_not_find_is_refused(tmp_path: Path, decorator: str) -> None:
    """Inspect would not run the file, and take another file's task of that name, if it has seen
    one.
    """
    with pytest.raises(UserError, match="write: from inspect_ai import task, and @task"):
        task_signature(write(tmp_path, f"{decorator}\ndef t(): ..."))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def t(): ...", "exactly one @task function, found none"),
        ("@task\ndef a(): ...\n@task\ndef b(): ...", "exactly one @task function, found 2: a, b"),
        ("def (", "line 1"),
    ],
)
def test_not_one_task_is_refused(tmp_path: Path, source: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        task_signature(write(tmp_path, source))


def test_one_of_several_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "@task\ndef a(): ...\n@task(name='shown')\ndef b(x): ...")
    assert task_signature(path, "b").required == ("x",)
    assert task_signature(path, "shown").name == "b"
    with pytest.raises(UserError, match="has no @task c; valid: a, b"):
        task_signature(path, "c")
    with pytest.raises(UserError, match=r"none\.py cannot be read"):
        task_signature(tmp_path / "none.py")


def test_wrong_arguments_are_named_with_the_valid_ones(tmp_path: Path) -> None:
    signature = task_signature(write(tmp_path, SOURCE))
    check_arguments(signature, {"a": 1, "c": 2})
    with pytest.raises(ConfigError, match=r"inspect\.task_args\.bb=3: .*valid: a, b, c, d, e"):
        check_arguments(signature, {"a": 1, "c": 2, "bb": 3})
    with pytest.raises(ConfigError, match=r"inspect\.task_args\.c=.*needs a value"):
        check_arguments(signature, {"a": 1})
