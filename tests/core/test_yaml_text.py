"""YAML reads and writes numbers as YAML 1.2 has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import mosweep
from mosweep.backends.tinker.recipe import _load as tinker_recipe
from mosweep.backends.torchtune.config import load_recipe
from mosweep.core.errors import ConfigError
from mosweep.core.yaml_text import dump_yaml, load_yaml, parse_number
from mosweep.datasets.zoo import _parsed as front_matter
from mosweep.evals.inspect.evaluation import _defaults as task_arguments


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5e1", 5.0),
        ("3.", 3.0),
        ("0.10", 0.1),
        ("12", 12),
        ("-7", -7),
    ],
)
def test_numbers(text: str, number: float) -> None:
    for value in (load_yaml(f"a: {text}")["a"], parse_number(text)):
        assert value == number
        assert type(value) is type(number)


@pytest.mark.parametrize("text", ["1e", "e5", "1e-3x", "v1.5", "1.2.3", "1-3", "a"])
def test_words(text: str) -> None:
    assert load_yaml(f"a: {text}")["a"] == text
    assert parse_number(text) is None


@pytest.mark.parametrize("value", ["1e-3", "1e5", ".5", "12", "null", 1e-5, 0.1, 7, None, True])
def test_what_is_written_is_read(value: Any) -> None:
    assert load_yaml(dump_yaml({"a": value})) == {"a": value}


def test_in_every_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("threshold: 1e-3\nmodel: {_component_: x}\n")
    for data in (
        task_arguments(file),
        tinker_recipe(file),
        load_recipe(file),
        front_matter(file, file.read_text()),
    ):
        assert data["threshold"] == 0.001


def test_no_other_reader() -> None:
    """Only files that mosweep wrote with PyYAML itself may be read with it."""
    folder = Path(str(mosweep.__file__)).parent
    readers = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"yaml\.(safe_)?load\(", path.read_text())
    }
    assert readers == {
        "core/yaml_text.py",
        "archive/verify.py",
        "backends/torchtune/child.py",
    }


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "eval.yaml"
    file.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not YAML"):
        task_arguments(file)
    with pytest.raises(yaml.YAMLError):
        load_yaml(file.read_bytes())
