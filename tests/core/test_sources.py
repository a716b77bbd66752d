"""Python files as keys see them: what counts as a change, on every version of Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mosweep.core import sources
from mosweep.core.sources import Import, read_source

CODE = b'''
"""Module."""
import a.b, c
from .d import e
from f import *
import importlib

def build(x: int = -1, *args, y=(1, 2.5, 3j, b"x", None, ...), **more) -> "str":
    """Docstring."""
    m = importlib.import_module("g.h")
    text = f"{x!r:>{y}} and {x=}" f"tail" "more" rf"\\{x}"
    match x:
        case {"k": [1, *_]} | int(): pass
    async def inner():
        async with x as z, y: yield (n := 3)
    return [i for i in range(0x10) if i if not i], {**more}, lambda: x[1:2, ...]

class C(object, metaclass=type): z: int
'''


def digest(text: str) -> str:
    return read_source(text.encode()).digest


#: Changes this value only together with ``digests._VERSION``: every key with code changes then.
GOLDEN = "f0ada22f891ed95d61edeb63197e946eaac2048b0b20943c257acfc69bc80a17"


def test_the_form_is_the_same_on_every_python() -> None:
    assert read_source(CODE).digest == GOLDEN


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_another_python_reads_the_same(version: str, tmp_path: Path) -> None:
    pythons = [shutil.which(f"python{version}")]
    pythons += map(str, Path.home().glob(f".pyenv/versions/{version}*/bin/python"))
    python = next((path for path in pythons if path and _works(path)), None)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    files = sorted(Path(sources.__file__).parents[1].rglob("*.py"))
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(sources.__file__).parents[2])!r})\n"
        "from mosweep.core.sources import read_source\n"
        "for path in sys.stdin.read().split():\n"
        "    print(read_source(open(path, 'rb').read()).digest)\n"
    )
    done = subprocess.run(
        [python, str(script)],
        input="\n".join(map(str, files)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [read_source(path.read_bytes()).digest for path in files]


def _works(python: str) -> bool:
    done = subprocess.run([python, "-c", "import ast"], capture_output=True, check=False)
    return done.returncode == 0 and python != sys.executable


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 1  # why"),
        ("x = 1", "\n\n# why\nx = (\n    1\n)\n"),
        ("x = 'a'", 'x = "a"'),
        ("x = 'a' 'b'", "x = 'ab'"),
        ("x = f'a{y}' 'b'", "x = f'a{y}b'"),
        ("def f(a, b): pass", "def f(\n    a,\n    b,\n):\n    pass"),
        ("x = 16", "x = 0x10"),
        ("x: int  # type: ignore\n", "x: int\n"),
    ],
)
def test_what_does_not_count(before: str, after: str) -> None:
    assert digest(before) == digest(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = f'a{y}'", "x = f'a{y!r}'"),
        ("x = f'a{y}'", "x = 'a{y}'"),
        ("def f():\n    'Say a.'", "def f():\n    'Say b.'"),
        ("def f(a, b): pass", "def f(a, *, b): pass"),
        ("def f(a, /, b): pass", "def f(a, b): pass"),
        ("from a import b", "from .a import b"),
        ("x = a - (b - c)", "x = a - b - c"),
        ("x = ()", "x = []"),
        ("if x: pass\nelse: y", "if x: pass\ny"),
        ("x = 10 ** 5000", "x = 10 ** 5001"),
    ],
)
def test_what_counts(before: str, after: str) -> None:
    assert digest(before) != digest(after)


def test_a_number_of_5000_digits_and_a_file_that_is_not_python() -> None:
    assert digest("x = " + hex(7**6000)) != digest("x = " + hex(7**6001))
    assert digest("x = (") != digest("x = ( ")


def test_what_a_file_imports_and_names() -> None:
    source = read_source(
        b"import os.path, own\n"
        b"from pkg.sub import one as two, three\n"
        b"from .. import up\n"
        b"importlib.import_module('late.part')\n"
        b"open('words.txt'); Path(__file__).parent / 'lists' / name\n"
        b"read(f'{split}.jsonl'); path.with_suffix('.csv'); 'A sentence.'; 'plain'\n"
        b"for each in Path(__file__).parent.iterdir(): pass\n"
    )
    assert set(source.imports) == {
        Import("os.path"),
        Import("own"),
        Import("pkg.sub", ("one", "three")),
        Import("", ("up",), 2),
        Import("late.part"),
    }
    assert {"*.csv", "*.jsonl", "words.txt"} <= set(source.names)
    assert "lists" in source.folders
    assert "plain" not in source.names
    assert source.lists
