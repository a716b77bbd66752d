"""Which files of the user's a task's result depends on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mosweep.core.digests import file_digest
from mosweep.core.paths import forget_files
from mosweep.core.task_code import covered_files, covered_module


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project, where the command is given."""
    monkeypatch.chdir(tmp_path)
    forget_files()
    return tmp_path


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_every_file_of_a_tasks_folder_counts(project: Path) -> None:
    task = project / "tasks" / "mine"
    for name in ("eval.py", "helpers.py", "questions.jsonl", "lists/a.txt", "prompts/b"):
        write(task / name)
    for name in ("data.py", "README.md", "readme.txt", ".note", ".cache/x", "__pycache__/y.pyc"):
        write(task / name)
    write(task / "eval.yaml", "limit: 3")
    assert set(covered_files(task / "eval.py")) == {
        *("eval.py", "helpers.py", "questions.jsonl", "lists/a.txt", "prompts/b")
    }
    write(task / "lists/README.md")
    assert "lists/README.md" in covered_files(task / "eval.py"), "only the task's own describes it"


def test_git_ignored_files_count_only_if_the_code_names_them(project: Path) -> None:
    task = project / "tasks" / "mine"
    write(task / "eval.py", "open('named.jsonl')")
    for name in ("named.jsonl", "scratch.jsonl", "kept.jsonl", "words.txt"):
        write(task / name, name)
    write(project / ".gitignore", "*.jsonl\n")
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(["git", "add", "-f", "tasks/mine/kept.jsonl"], check=True)
    found = set(covered_files(task / "eval.py"))
    assert found == {"eval.py", "named.jsonl", "kept.jsonl", "words.txt"}


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("json_dataset('q.jsonl')", "q.jsonl"),
        ("Path(__file__).parent / 'q.jsonl'", "q.jsonl"),
        ("Path(__file__).with_suffix('.csv')", "free.csv"),
        ("f'{split}.jsonl'", "train.jsonl"),
        ("glob('*.txt')", "a.txt"),
        ("Path(__file__).parent / 'lists'", "lists/deep/a"),
        ("[p for p in Path(__file__).parent.iterdir()]", "anything"),
        ("os.path.join(HERE, 'lists', 'a.txt')", "lists/a.txt"),
        ("open('../other/q.json')", "../other/q.json"),
        ("import rules", "rules.py"),
        ("def f():\n    from rules import x", "rules.py"),
        ("import_module('rules')", "rules.py"),
    ],
)
def test_files_that_a_task_outside_a_task_folder_names(project: Path, code: str, file: str) -> None:
    write(project / "evals" / file, "one")
    write(project / "evals" / "unrelated.log", "one")
    free = write(project / "evals" / "free.py", code)
    before = covered_files(free)
    write(project / "evals" / file, "two = 2")
    assert covered_files(free) != before, file
    if "iterdir" not in code:
        before = covered_files(free)
        write(project / "evals" / "unrelated.log", "two")
        assert covered_files(free) == before


def test_modules_from_outside_the_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = project / "tasks" / "mine"
    write(task / "eval.py", "import json, torch, mosweep.core\nfrom ours.scoring import scorer\n")
    write(project / "ours/__init__.py")
    write(project / "ours/scoring.py", "from . import words\nfrom .deep.rules import RULES\n")
    write(project / "ours/words.py", "open(Path(__file__).parent / 'list.txt')")
    write(project / "ours/list.txt", "a")
    write(project / "ours/deep/__init__.py")
    write(project / "ours/deep/rules.py", "import elsewhere.part")
    write(project / "ours/unused.py")
    write(project / "lib/elsewhere/part.py", "import ours.scoring")
    monkeypatch.setattr(sys, "path", [*sys.path, str(project / "lib")])
    assert set(covered_files(task / "eval.py")) == {
        "eval.py",
        *(f"ours{name} (module)" for name in ("", ".scoring", ".words", ".deep", ".deep.rules")),
        "elsewhere.part (module)",
        "./ours/list.txt",
    }
    assert set(covered_module("ours.scoring") or ()) >= {"ours (module)", "ours.scoring (module)"}
    assert covered_module("torch") is None
    assert covered_module("no.such.module") is None


def test_names_do_not_depend_on_the_place(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("here", "there"):
        home = project / name
        write(home / "tasks/mine/eval.py", "from ours import x\nopen('data/q.txt')")
        write(home / "ours.py", "x = 1")
        write(home / "data/q.txt", "a")
        monkeypatch.chdir(home)
        forget_files()
        found.append(covered_files(home / "tasks/mine/eval.py"))
    assert found[0] == found[1]
    assert set(found[0]) == {"eval.py", "ours (module)", "./data/q.txt"}


def test_a_large_file_is_read_once_and_again_after_an_edit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import time

    from mosweep.core import digests, fingerprint

    path = project / "weights.bin"
    path.write_bytes(b"0" * (2 << 20))
    reads: list[Path] = []
    original = fingerprint.digest_file

    def counted(path: Path) -> str:
        reads.append(path)
        return original(path)

    monkeypatch.setattr(fingerprint, "digest_file", counted)
    first = file_digest(path)
    assert file_digest(path) == first
    assert len(reads) == 2, "it is too new to be trusted"
    monkeypatch.setattr(digests, "_UNSETTLED", 0)
    time.sleep(0.01)
    file_digest(path)
    assert file_digest(path) == first
    assert len(reads) == 3
    status = path.stat()
    with open(path, "r+b") as file:
        file.write(b"1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(path) != first, "same inode, size and time of modification"


@pytest.mark.parametrize(
    "code",
    [
        "with open('log.txt', 'a') as log: log.write(x)",
        "open(file='log.txt', mode='w')",
        "(Path(__file__).parent / 'log.txt').write_text(x)",
        "with Path('log.txt').open('wb') as log: pass",
        "frame.to_csv('log.txt')",
    ],
)
def test_what_the_code_writes_does_not_count(project: Path, code: str) -> None:
    for path in (project / "tasks/mine/data.py", project / "free.py"):
        write(path, f"{code}\nopen('words.txt')")
        write(path.parent / "words.txt", "a")
        before = covered_files(path)
        write(path.parent / "log.txt", "written")
        write(project / "log.txt", "written")
        assert covered_files(path) == before, path
        write(path.parent / "words.txt", "b")
        assert covered_files(path) != before
