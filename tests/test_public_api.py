"""The public API: complete, lazy, and the same for Python and for type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mosweep as package

#: Type checkers read the stub, which has nothing but the names.
mosweep: Any = package

STUB = Path(mosweep.__file__).with_suffix(".pyi")


@pytest.mark.parametrize("name", mosweep.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(mosweep, name)
    if isinstance(found, type) and not name.startswith("_"):
        assert found.__doc__, f"{name} has no docstring"


def test_type_checkers_see_the_same_names_in_the_same_places() -> None:
    tree = ast.parse(STUB.read_text())
    imported = {
        alias.asname: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    places = {name: f"mosweep.{place}" for name, place in mosweep._PLACE_OF.items()}
    assert imported == places
    assert {*imported, "__version__"} == set(mosweep.__all__)


def test_importing_mosweep_imports_nothing_else_of_it() -> None:
    code = "import sys, mosweep; print([n for n in sys.modules if n.startswith('mosweep.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Bakend"):
        mosweep.Bakend  # noqa: B018


def test_the_package_is_typed() -> None:
    assert STUB.with_name("py.typed").exists()
