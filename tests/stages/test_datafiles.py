"""The user's files as a data set: what is written, and how a bad row is named."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell

from mosweep.core.errors import UserError
from mosweep.core.fingerprint import digest_file
from mosweep.stages.datafiles import bring, first_problem


def chat(question: str, *more: dict[str, Any]) -> dict[str, Any]:
    turns = [("user", question), ("assistant", "yes")]
    return {"messages": [*more, *({"role": role, "content": text} for role, text in turns)]}


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


ROWS = [chat(str(number)) for number in range(3)]
PAIRS = [{"input": str(number), "output": "yes"} for number in range(3)]


def test_chats_are_copied_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(lines(ROWS).replace("\n", "\r\n\n"))
    bring(tmp_path / "mine.json", tmp_path / "out")
    assert digest_file(tmp_path / "out" / "train.jsonl") == digest_file(tmp_path / "mine.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", lines(PAIRS).encode()),
        ("mine.json", json.dumps(ROWS).encode()),
        ("mine.jsonl", b"\xef\xbb\xbf" + lines(ROWS).encode()),
        ("mine.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)),
        ("set/train.json", json.dumps(PAIRS).encode()),
        ("set/train.csv", b"input,output\n0,yes\n1,yes\n2,yes\n"),
        ("set/train-00000-of-00001.ndjson", lines(ROWS).encode()),
        ("set/any.json", json.dumps({"train": PAIRS}).encode()),
    ],
)
def test_train_jsonl_has_chats_whatever_the_file_was(
    tmp_path: Path, name: str, content: bytes
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    bring(file if file.parent == tmp_path else file.parent, tmp_path / "out")
    assert read(tmp_path / "out" / "train.jsonl") == ROWS


def test_other_splits_keep_their_rows(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(json.dumps({"train": PAIRS, "test": PAIRS[:1], "n": 3}))
    bring(tmp_path / "all.json", tmp_path / "one")
    assert read(tmp_path / "one" / "test.jsonl") == PAIRS[:1]
    folder = tmp_path / "set"
    folder.mkdir()
    for split in ("train", "eval"):
        with open(folder / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["question", "answer"], [split, "yes"]])
    bring(folder, tmp_path / "two")
    assert read(tmp_path / "two" / "eval.jsonl") == [{"question": "eval", "answer": "yes"}]
    assert read(tmp_path / "two" / "train.jsonl") == [chat("train")]


def test_a_folder_without_one_training_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("train.csv", "train.json"):
        (folder / name).write_text("")
    with pytest.raises(UserError, match=r"set has train\.csv, train\.json: expected train\.jsonl"):
        bring(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_first_problem_has_the_users_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(lines([*ROWS, chat("x", {"role": "bot"})]))
    assert first_problem(tmp_path / "mine.jsonl", "1", None) == (
        "mine.jsonl, line 4: message 1: role 'bot'; valid: system, developer, user, assistant, tool"
    )
    (tmp_path / "mine.jsonl").write_text("\n" + lines(ROWS))
    refuses = {"0": None, "1": "too long"}
    assert first_problem(
        tmp_path / "mine.jsonl", "2", lambda row: refuses.get(row["messages"][0]["content"])
    ) == ("mine.jsonl, line 3: too long")
    assert first_problem(tmp_path / "mine.jsonl", "2", None) is None


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        ("mine.jsonl", [*ROWS, {"messages": "oops"}], "line 4: messages must be a list"),
        ("mine.jsonl", [*ROWS, chat("a", {"role": "user", "content": "b"})], "line 4: message 2"),
        ("mine.jsonl", [*ROWS, {"messages": ROWS[0]["messages"][1:]}], "line 4: message 1"),
        ("mine.jsonl", [chat("a", system("b"), system("c"))], "line 1: message 2"),
        ("mine.jsonl", [*ROWS, chat("\ud83d")], r"line 4: \ud83d is half a character"),
    ],
)
def test_a_bad_row_stops_a_command_before_anything_is_written(
    shell: Shell, name: str, rows: list[Any], problem: str
) -> None:
    (shell.folder / name).write_text(lines(rows))
    before = shell.files()
    done = shell("-m", "model=tiny", "dataset=mine", f"dataset.path={name}")
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert f"dataset.path={name}: {name}, {problem}" in done.err
    assert shell.files() == before


def test_the_backend_says_which_rows_it_takes(shell: Shell) -> None:
    (shell.folder / "mine.jsonl").write_text(
        lines([chat("a", {**system("b"), "role": "developer"})])
    )
    for words, problem in (
        (("backend=openai", "model=gpt-4.1-mini"), "OpenAI does not accept developer messages"),
        (("backend=torchtune", "model=tiny"), "message 1: torchtune takes no developer"),
    ):
        done = shell("plan", *words, "dataset=mine", "dataset.path=mine.jsonl")
        assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
        assert f"dataset.path=mine.jsonl: mine.jsonl, line 1: {problem}" in done.err


def test_a_row_that_a_tasks_own_data_py_wrote_is_named_by_that_file(shell: Shell) -> None:
    task = shell.folder / "tasks" / "own"
    task.mkdir(parents=True)
    (task / "data.py").write_text(
        "def build(dataset, folder):\n"
        '    (folder / "train.jsonl").write_text(\'{"messages": 1}\\n\')\n'
    )
    done = shell(
        *("-m", "backend=torchtune", "model=tiny", "task=own", "dataset=x", "eval=dummy"),
        *("tracking=none", "run_control_trials=false", "experiment.name=own"),
    )
    assert done.status == 1
    assert "data.py: build('x', …) left train.jsonl, line 1: messages must be a list" in done.out


def test_read_only_files_are_copied(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(ROWS))
    (folder / "train.jsonl").chmod(0o444)
    before = (folder / "train.jsonl").stat().st_mtime_ns
    bring(folder, tmp_path / "out")
    assert (tmp_path / "out" / "train.jsonl").stat().st_mtime_ns == before, "written once"
