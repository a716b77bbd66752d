"""Tables: one row is one line, and long cells keep what tells them apart."""

from __future__ import annotations

import json

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.table import format_table, one_line, shortened

LONG = "Answer as a helpful assistant would. " * 20


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\rb", "a\u2028b", "a\x85b", "a\x0bb"])
def test_line_breaks_are_a_sign(text: str) -> None:
    assert one_line(text) == "a↵b"
    assert len(format_table([text], [[text], [1]]).splitlines()) == 4


def test_a_table_cannot_write_to_the_terminal() -> None:
    assert "\x1b" not in format_table(["level"], [["\x1b[31mred"], ["a\tb"]])


@pytest.mark.parametrize(
    "texts",
    [
        [f"{LONG}A", f"{LONG}B", "short"],
        [f"A{LONG}", f"B{LONG}"],
        [f"{LONG}A{LONG}", f"{LONG}B{LONG}", f"{LONG}"],
        [LONG, LONG, LONG[:-1]],
        [f"{LONG}{number}" for number in range(40)],
        ["x" * length for length in range(60, 90)],
        ["é" * 300, "é" * 299 + "e"],
    ],
)
@pytest.mark.parametrize("longest", [20, 48])
def test_long_texts_are_shortened_and_remain_distinct(texts: list[str], longest: int) -> None:
    short = shortened(texts, longest)
    assert all(len(text) <= longest for text in short)
    assert len(set(short)) == len(set(texts))
    assert [short[texts.index(text)] for text in texts] == short


def test_what_differs_is_shown() -> None:
    one, two = shortened([f"{LONG}Be kind.", f"{LONG}Be rude."], 48)
    assert one.endswith("kind.") and two.endswith("rude.")


def test_the_summary_is_narrow_and_json_is_whole(shell: Shell) -> None:
    levels = [f"{LONG}A", f"{LONG}B", "one line\nand another"]
    (shell.folder / "t.json").write_text(json.dumps({"inspect.system_message": levels}))
    done = shell("-m", "treatments=@t.json", "primary_metric=null", "experiment.name=a", *DRY)
    assert done.status == 0, done.err
    said = shell("summary", "a").out.splitlines()
    assert all(len(line) < 200 for line in said)
    rows = [line for line in said if line.startswith("tuned")]
    assert len(set(rows)) == 3 and any("one line↵and another" in row for row in rows)
    found = {
        trial["factors"].get("inspect.system_message") for trial in shell.summary("a").values()
    }
    assert found >= set(levels)
