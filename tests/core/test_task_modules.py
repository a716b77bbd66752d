"""Tasks whose files have the same names, in one process: each gets its own, and nobody else gets
any.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.task_modules import task_modules


def write(folder: Path, files: Mapping[str, str] | None = None, **more: str) -> Path:
    """A folder with Python ``files``."""
    for name, text in {**(files or {}), **more}.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def built(folder: Path, *arguments: Any) -> Any:
    """What ``build`` in the folder's ``data.py`` returns."""
    with task_modules(folder) as modules:
        return modules.load(folder / "data.py").build(*arguments)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    path, finders, modules = sys.path[:], sys.meta_path[:], set(sys.modules)
    yield
    assert (sys.path, sys.meta_path) == (path, finders)
    assert not {
        name
        for name in set(sys.modules) - modules
        if "mosweep_task" in name or name in ("helpers", "data", "common")
    }


WAYS = {
    "at the top": "import helpers\ndef build(): return helpers.WHO",
    "by name": "from helpers import WHO\ndef build(): return WHO",
    "all names": "from helpers import *\ndef build(): return WHO",
    "when called": "def build():\n    import helpers as h\n    return h.WHO",
    "relative": "from . import helpers\nfrom .helpers import WHO\ndef build(): return helpers.WHO",
    "through another": "import other\ndef build(): return other.helpers.WHO",
    "from a package": "from common import WHO\ndef build(): return WHO",
    "from within a package": "import common.deep.inner as inner\ndef build(): return inner.who()",
    "from a folder without __init__": "import plain.inner\ndef build(): return plain.inner.WHO",
    "by a name made up": "import importlib\n"
    "def build(): return importlib.import_module('help' + 'ers').WHO",
    "from a path of its own": "import sys\nsys.path.append(__file__[:-7] + 'plain')\n"
    "def build():\n    import inner\n    return inner.WHO",
}


def siblings(who: str) -> dict[str, str]:
    return {
        "helpers": f"WHO = {who!r}",
        "other": "import helpers",
        "common/__init__": "from .deep.inner import who\nWHO = who()",
        "common/deep/__init__": "",
        "common/deep/inner": "def who():\n    from ...helpers import WHO\n    import helpers\n"
        "    return WHO and helpers.WHO",
        "plain/inner": f"WHO = {who!r}",
    }


@pytest.mark.parametrize("way", WAYS)
def test_two_tasks_do_not_mix(tmp_path: Path, way: str) -> None:
    one, two = (write(tmp_path / who, siblings(who), data=WAYS[way]) for who in ("one", "two"))
    assert [built(folder) for folder in (one, two, one)] == ["one", "two", "one"]


def test_two_tasks_at_once_do_not_mix(tmp_path: Path) -> None:
    code = (
        "def build():\n    import helpers, common.deep.inner\n    return helpers.WHO + "
        "common.deep.inner.who()"
    )
    one, two = (write(tmp_path / who, siblings(who), data=code) for who in ("one", "two"))
    with task_modules(one) as first, task_modules(two) as second:
        builds = [modules.load(modules.folder / "data.py").build for modules in (first, second)] * 8
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda build: build(), builds)) == ["oneone", "twotwo"] * 8


def test_a_task_without_the_file_does_not_get_anothers(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one",
        data="import sys; sys.path.insert(0, __file__[:-8])\nimport helpers\ndef build(): ...",
        helpers="",
    )
    two = write(tmp_path / "two", data="def build():\n    import helpers")
    built(one)
    with pytest.raises(ModuleNotFoundError, match="helpers"):
        built(two)


def test_an_edit_is_seen_whatever_its_time_and_size(tmp_path: Path) -> None:
    for number in "123":
        write(
            tmp_path,
            data=f"import helpers\ndef build(): return {number}, helpers.N",
            helpers=f"N = {number}",
        )
        for name in ("data.py", "helpers.py"):
            os.utime(tmp_path / name, (1, 1))
        assert built(tmp_path) == (int(number), int(number))
    assert not list(tmp_path.rglob("__pycache__"))


def test_libraries_and_files_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task gets its file, the library the library: loaded before, while or after the task
    runs.
    """
    for name in ("shelf", "keeper", "late"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    library = write(
        tmp_path / "library",
        shelf="WHOSE = 'library'",
        keeper="import shelf\ndef late():\n    import late\n    return late.WHOSE",
    )
    write(library, late="WHOSE = 'library'")
    monkeypatch.syspath_prepend(str(library))
    code = (
        "import keeper, shelf, late, json\ndef build(): return shelf.WHOSE, keeper.shelf.WHOSE, "
        "keeper.late(), late.WHOSE, json.WHOSE"
    )
    task = write(
        tmp_path / "task",
        data=code,
        shelf="WHOSE = 'task'",
        late="WHOSE = 'task'",
        json="WHOSE = 'task'",
    )
    for _ in range(2):
        assert built(task) == ("task", "library", "library", "task", "task")
        assert importlib.import_module("shelf").WHOSE == "library"
        assert importlib.import_module("json").loads("1") == 1


def test_a_folder_of_data_called_like_a_library(tmp_path: Path) -> None:
    task = write(
        tmp_path,
        {"yaml/old": ""},
        data="import yaml, sqlite3\ndef build(): return yaml.safe_load('1'), bool(sqlite3.connect)",
    )
    (task / "sqlite3").mkdir()
    assert built(task) == (1, True)


def test_what_a_stage_leaves_running_gets_nothing_of_the_next(tmp_path: Path) -> None:
    code = "def build(): return late\ndef late():\n    import helpers\n    return helpers.WHO"
    one, two = (
        write(tmp_path / who, data=code, helpers=f"WHO = {who!r}") for who in ("one", "two")
    )
    late = built(one)
    with task_modules(two) as modules:
        assert modules.load(two / "data.py").late() == "two"
        with pytest.raises(ImportError, match="left running when its stage ended"):
            late()


def test_dataclasses_and_the_modules_own_name(tmp_path: Path) -> None:
    code = (
        "from __future__ import annotations\nfrom dataclasses import "
        "dataclass\n@dataclass\nclass A:\n    x: int\n"
    )
    task = write(
        tmp_path,
        helpers=code,
        data=f"{code}\nimport helpers\ndef build(): return A(1).x + helpers.A(2).x, __name__",
    )
    assert [built(task) for _ in range(2)] == [(3, "mosweep_task_1.data")] * 2


def test_code_that_fails_leaves_nothing(tmp_path: Path) -> None:
    task = write(
        tmp_path,
        data="import helpers\nimport sys\nsys.path.append(__file__[:-8])\nraise KeyError('lost')",
        helpers="",
    )
    with pytest.raises(KeyError):
        built(task)
