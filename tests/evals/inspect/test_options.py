"""Inspect's native options: the table is the installed Inspect's, and what is wrong is refused by
name.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mosweep.core.errors import ConfigError
from mosweep.evals.inspect.options import EVAL, GENERATE, OPEN, OWNED, inspect_options


@pytest.mark.real
def test_the_table_is_what_the_installed_inspect_takes() -> None:
    from inspect_ai import eval_async
    from inspect_ai.model import GenerateConfig

    evaluation = {
        name
        for name, p in inspect.signature(eval_async).parameters.items()
        if p.kind is not p.VAR_KEYWORD
    }
    generation = set(GenerateConfig.model_fields)
    assert set(EVAL) <= evaluation
    assert set(GENERATE) <= generation
    assert evaluation | generation == {*EVAL, *GENERATE, *OPEN, *OWNED}
    assert not set(OWNED) & {*EVAL, *GENERATE, *OPEN}


def test_options_are_sorted() -> None:
    options = inspect_options(
        {
            "limit": [0, 5],
            "temperature": 1,
            "task_args": {"a": 1},
            "task_args.b": 2,
            "model_args.c": 3,
            "epochs": None,
        }
    )
    assert options.eval == {"limit": (0, 5)}
    assert options.generate == {"temperature": 1}
    assert options.task_args == {"a": 1, "b": 2}
    assert options.model_args == {"c": 3}
    assert inspect_options({"extra_body.x": 1}).generate == {"extra_body": {"x": 1}}


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("temprature", 1, "did you mean temperature"),
        ("limit.first", 1, "no such option"),
        ("limit", "ten", "expected a whole number or a list"),
        ("temperature", True, "expected a number"),
        ("log_dir", "x", "keeps the complete log"),
        ("model", "x", "the sweep varies it"),
        ("cache", True, "mix up checkpoints"),
        ("task_args", 3, "expected a mapping"),
    ],
)
def test_what_cannot_be_set_is_refused_with_its_name(option: str, value: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        inspect_options({option: value})
    assert caught.value.key == f"inspect.{option}"
