from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosweep.core.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def test_what_was_appended_is_read_in_order(journal: Journal) -> None:
    journal.append("started", key="a", log=None)
    journal.append("failed", key="a", error="boom", log=Path("x") / "log.txt")
    first, second = journal.read()
    assert (first["event"], first["key"]) == ("started", "a")
    assert "log" not in first, "None fields are left out"
    assert (second["error"], second["log"]) == ("boom", str(Path("x") / "log.txt"))
    assert second["time"] >= first["time"] > 1.7e9


def test_events_are_told_apart_by_name_not_by_what_they_mention(journal: Journal) -> None:
    journal.append("note", text='"event": "launch"')
    journal.append("note", inner={"event": "launch"})
    journal.append("launch", file="a.json")
    assert [event["file"] for event in journal.read("launch")] == ["a.json"]
    assert len(list(journal.read())) == 3


def test_no_journal_is_an_empty_one(journal: Journal) -> None:
    assert list(journal.read()) == []
    assert not journal.path.exists(), "reading makes no file"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(), max_size=20))
def test_any_text_comes_back(journal: Journal, text: str) -> None:
    journal.path.unlink(missing_ok=True)
    journal.append("failed", error=text)
    journal.append("finished")
    assert [event.get("error") for event in journal.read()] == [text, None]


@pytest.mark.parametrize(
    "character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e", "\r", "\n", "\udc80"]
)
def test_characters_that_end_lines_elsewhere_do_not_here(journal: Journal, character: str) -> None:
    journal.append("failed", error=f"a{character}b")
    assert [event["error"] for event in journal.read("failed")] == [f"a{character}b"]


def test_a_torn_last_line_is_left_out_wherever_it_tore(journal: Journal) -> None:
    journal.append("started", key="a")
    whole = journal.path.read_bytes()
    journal.append("failed", key="é", error='a "quoted" word')
    both = journal.path.read_bytes()
    for cut in range(len(whole), len(both) - 1):
        journal.path.write_bytes(both[:cut])
        assert [event["event"] for event in journal.read()] == ["started"], both[:cut]


def test_what_is_appended_after_a_torn_line_is_read(journal: Journal) -> None:
    journal.append("started", key="a")
    journal.append("failed", key="a", error="b")
    whole = journal.path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start + 1, len(whole) - 1):
        journal.path.write_bytes(whole[:cut])
        journal.append("launch", file="next.json")
        assert [event["event"] for event in journal.read()] == ["started", "launch"], whole[:cut]
        assert [event["file"] for event in journal.read("launch")] == ["next.json"]


def test_lines_that_are_no_events_are_skipped(journal: Journal) -> None:
    journal.path.write_text('[]\n"text"\n12\nnull\n\n{"time": 1, "event": "launch"}\n')
    assert [event["event"] for event in journal.read() if event] == ["launch"]
    assert len(list(journal.read("launch"))) == 1


def test_many_processes_append_at_once(journal: Journal, spawn: Callable[..., Any]) -> None:
    code = """
        import sys
        from pathlib import Path
        from mosweep.core.journal import Journal
        journal = Journal(Path(sys.argv[1]))
        print("ready", flush=True)
        input()
        for number in range(200):
            journal.append("tick", who=int(sys.argv[2]), number=number, \
filler="x" * (number * 37 % 5000))
    """
    processes = [spawn(code, journal.path, who) for who in range(6)]
    for process in processes:
        process.hear()
    for process in processes:
        process.tell()
    for process in processes:
        process.rest()
    lines = journal.path.read_text().splitlines()
    assert len(lines) == 6 * 200
    events = [json.loads(line) for line in lines]
    for who in range(6):
        assert [event["number"] for event in events if event["who"] == who] == list(range(200))
