"""The code of a task: what of it is in the key, and that what runs is what the key stands for."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import StageError, UserError
from mosweep.core.task_code import check_code, code_digest, covered_files
from mosweep.core.types import Stage
from mosweep.core.work import Context, Resources
from mosweep.design.application import planned
from mosweep.stages.data import BuildData

DATA = """
import json

def build(dataset, folder):
    {statement}
    rows = [{{"messages": [{{"role": "user", "content": "who?"}}, \
{{"role": "assistant", "content": helpers.WHO}}]}}]
    (folder / "train.jsonl").write_text(json.dumps(rows[0]))
"""


def digest(path: Path) -> str:
    return code_digest(covered_files(path))


def build(task: Path, out: Path) -> str:
    """Run the task's data stage; the answer in its one row."""
    work = BuildData("task", "words", digest(task / "data.py"), str(task))
    out.mkdir()
    facts: Any = asyncio.run(work.run(Context("key", out, {}, Resources())))
    assert facts["rows"] == 1
    answer: str = json.loads((out / "data" / "train.jsonl").read_text())["messages"][1]["content"]
    return answer


@pytest.mark.parametrize("order", [("one", "two", "one"), ("two", "one", "two")])
@pytest.mark.parametrize("lazily", [True, False])
def test_data_of_two_tasks_in_one_process(
    tmp_path: Path, order: Sequence[str], lazily: bool
) -> None:
    for who in ("one", "two"):
        (tmp_path / who).mkdir()
        code = DATA.format(statement="import helpers" if lazily else "pass")
        (tmp_path / who / "data.py").write_text(code if lazily else f"import helpers\n{code}")
        (tmp_path / who / "helpers.py").write_text(f"WHO = {who!r}\n")
    assert [build(tmp_path / who, tmp_path / f"out{i}") for i, who in enumerate(order)] == list(
        order
    )


def test_data_of_edited_code(tmp_path: Path) -> None:
    task = tmp_path / "task"
    task.mkdir()
    (task / "data.py").write_text(DATA.format(statement="import helpers"))
    for i, who in enumerate(("ann", "bob")):
        (task / "helpers.py").write_text(f"WHO = {who!r}\n")
        os.utime(task / "helpers.py", (1, 1))
        assert build(task, tmp_path / f"out{i}") == who


def test_code_that_was_edited_since_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("import helpers")
    (tmp_path / "helpers.py").write_text("")
    planned = digest(tmp_path / "data.py")
    check_code(covered_files(tmp_path / "data.py"), planned, "data.py")
    (tmp_path / "helpers.py").write_text("1")
    with pytest.raises(StageError, match=r"data\.py was edited since"):
        check_code(covered_files(tmp_path / "data.py"), planned, "data.py")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task with everything beside its code; ``linked`` is a package that lies elsewhere."""
    folder = tmp_path / "task"
    (folder / "package").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "much").mkdir()
    (tmp_path / "much" / "data.py").write_text("")
    (folder / "much").symlink_to(tmp_path / "much")
    for name in (
        "data",
        "eval",
        "helpers",
        "mine",
        "other",
        "package/__init__",
        "package/part",
        "linked/__init__",
        "__pycache__/old",
    ):
        (folder / f"{name}.py").write_text("")
    (folder / "mine.py").write_text("import package\ndef f():\n    import linked")
    return folder


#: Per file that is run: the files that its digest depends on.
COVERED = {
    "data.py": {
        "data.py",
        "helpers.py",
        "mine.py",
        "other.py",
        "package/__init__.py",
        "package/part.py",
        "linked/__init__.py",
    },
    "eval.py": {
        "eval.py",
        "helpers.py",
        "mine.py",
        "other.py",
        "package/__init__.py",
        "package/part.py",
        "linked/__init__.py",
    },
    "mine.py": {"mine.py", "package/__init__.py", "package/part.py", "linked/__init__.py"},
}


@pytest.mark.parametrize("main", COVERED)
def test_what_is_in_the_key(task: Path, main: str) -> None:
    before = digest(task / main)
    covered = set()
    for path in [*task.rglob("*.py"), task / "linked" / "__init__.py", task / "much" / "data.py"]:
        old = path.read_text()
        path.write_text(f"{old}\nedited = 1")
        if digest(task / main) != before:
            covered.add(str(path.relative_to(task)))
        path.write_text(old)
    assert covered == COVERED[main]
    for name in ("README.md", ".hidden", "__pycache__/x.pyc", "eval.yaml"):
        (task / name).write_text("")
        assert digest(task / main) == before, name
    (task / "words.txt").write_text("")
    assert (digest(task / main) == before) == (main == "mine.py"), "it names no such file"


@pytest.mark.parametrize(
    ("file", "code", "depends"),
    [
        ("eval.py", "import data", True),
        ("eval.py", "import json, data as d", True),
        ("eval.py", "def f():\n    from data import build", True),
        ("eval.py", "database = 'import data'", False),
        ("helpers.py", "from data import build", True),
        ("package/part.py", "import data", True),
        ("mine.py", "import database", False),
    ],
)
def test_the_other_file_of_the_task_counts_where_it_is_imported(
    task: Path, file: str, code: str, depends: bool
) -> None:
    (task / file).write_text(code)
    before = digest(task / "eval.py")
    (task / "data.py").write_text("edited = 1")
    assert (digest(task / "eval.py") != before) == depends


EVAL = (
    "from inspect_ai import Task, task\nimport helpers\n\n@task\ndef letters({arguments}):\n    "
    "return Task()\n"
)


@pytest.mark.parametrize(
    ("name", "file"),
    [("mine.py@letters", "mine.py"), ("lib/mine.py", "lib/mine.py"), ("./lib", "lib/eval.py")],
    ids=["name", "path", "folder"],
)
def test_an_evaluation_by_path_has_its_code_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    main = tmp_path / file
    main.parent.mkdir(exist_ok=True)

    def stage() -> Stage:
        [trial], _ = planned(["control=true", f"eval.tasks=['{name}']"])
        return trial.stages[-1]

    def edited(path: Path, text: str) -> bool:
        before = stage().key
        path.write_text(text)
        return stage().key != before

    main.write_text(EVAL.format(arguments=""))
    (main.parent / "helpers.py").write_text("")
    assert set(stage().needs) == {"model"}
    assert edited(main.parent / "helpers.py", "1")
    assert edited(main, EVAL.format(arguments="data_path"))
    assert set(stage().needs) == {"model", "data"}, "the trial's data, as it takes it"
    assert edited(main.parent / "unrelated.py", "") == (main.name == "eval.py")
    main.write_text("")
    with pytest.raises(UserError, match=rf"{main.name} (has no|must have exactly one) @task"):
        stage()
