"""The house: every folder is in the import contract, and no module imports itself by a detour."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
#: Folders whose parts have places of their own in the contract.
APART = ("backends", "evals", "launchers", "stages")


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((SOURCE / "mosweep").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of mosweep that a module imports, wherever in it; not for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in for_types or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            if whole in known or node.module in known:
                yield whole if whole in known else node.module


def test_no_module_imports_itself_by_a_detour() -> None:
    known = modules()
    graph = {name: set(imports(path, known)) - {name, "mosweep"} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            pytest.fail(" → ".join([*way[way.index(name) :], name]))
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_folder_is_in_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    named = {place for layer in layers for place in layer.split(" | ")}
    for folder in (SOURCE / "mosweep").iterdir():
        if not folder.is_dir() or folder.name.startswith("__"):
            continue
        parts = [folder]
        if folder.name in APART:
            parts = [p for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__")]
        for part in parts:
            place = ".".join(part.relative_to(SOURCE).with_suffix("").parts)
            assert place in named, f"{place} is in no layer of the import contract"


def test_nothing_lies_loose_at_the_top() -> None:
    loose = {path.name for path in (SOURCE / "mosweep").iterdir() if path.is_file()}
    assert loose == {"__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
