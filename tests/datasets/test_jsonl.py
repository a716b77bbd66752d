"""Chat data sets: what is accepted, what is refused and where, and what an operation leaves."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import UserError
from mosweep.datasets import JSONLDataset


def chat(question: str, answer: str = "yes", **extra: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ],
        **extra,
    }


def questions(dataset: JSONLDataset) -> list[str]:
    return [row["messages"][0]["content"] for row in dataset]


def load(path: Path) -> JSONLDataset:
    return asyncio.run(JSONLDataset.load(path))


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    dataset = JSONLDataset([chat("é\u2028?", topic="x"), chat("b")])
    asyncio.run(dataset.save(tmp_path / "new" / "d.jsonl"))
    assert load(tmp_path / "new" / "d.jsonl") == dataset
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["d.jsonl"]


def test_a_json_array_loads_like_jsonl(tmp_path: Path) -> None:
    rows = [chat("a"), chat("b")]
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "d.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert load(tmp_path / "d.json") == load(tmp_path / "d.jsonl") == JSONLDataset(rows)


GOOD = json.dumps(chat("a"))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (f"{GOOD}\n{{oops\n", 2, "not JSON"),
        (f'{GOOD}\n\n{{"text": "a"}}\n', 3, r"no messages \(keys: text\)"),
        (f"{GOOD}\n[1]\n", 2, "expected an object with messages, found a list"),
        ('{"messages": []}', 1, "at least one message"),
        ('{"messages": [{"role": "bot", "content": "a"}]}', 1, "role 'bot'; valid: system"),
        (
            '{"messages": [{"role": "user", "content": null}]}',
            1,
            "content must be text, found nothing",
        ),
        ('{"messages": [{"role": "user", "content": "a"}]}', 1, "no assistant message"),
        (f'{GOOD}\n{{"x": NaN, {GOOD[1:]}\n', 2, "not JSON"),
        (f"[\n{GOOD},\n{GOOD},\n3\n]", 4, "found a number"),
        (f"[\n{GOOD},\n{GOOD} {GOOD}]", 3, "not JSON"),
        (f"[\n{GOOD},\n", 3, "not JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"bad\.json, line {line}: .*{problem}"):
        load(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "has no samples"), (b"[]", "has no samples"), (b"\xff", "not UTF-8")],
)
def test_a_file_without_samples_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        load(path)


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read"):
        load(tmp_path / "none.jsonl")


def test_samples_are_checked_wherever_they_come_from() -> None:
    with pytest.raises(UserError, match="sample 2: no messages"):
        JSONLDataset([chat("a"), {}])


def test_sample_is_seeded_and_without_repeats() -> None:
    dataset = JSONLDataset([chat(str(i)) for i in range(50)])
    drawn = questions(dataset.sample(20, seed=1))
    assert len(set(drawn)) == 20
    assert drawn == questions(dataset.sample(20, seed=1)) != questions(dataset.sample(20, seed=2))
    with pytest.raises(UserError, match="cannot draw 51 samples from 50"):
        dataset.sample(51, seed=0)


def test_interleave_keeps_every_sample() -> None:
    short, long = (
        JSONLDataset([chat("a"), chat("b")]),
        JSONLDataset([chat("1"), chat("2"), chat("3"), chat("4")]),
    )
    assert questions(short.interleave(long)) == ["a", "1", "b", "2", "3", "4"]
    assert questions(long.interleave(short)) == ["1", "a", "2", "b", "3", "4"]


def test_openai_format_has_nothing_else() -> None:
    assert JSONLDataset([chat("a", topic="x")]).to_openai_format() == [chat("a")]


def test_digest_follows_the_content_not_the_formatting(tmp_path: Path) -> None:
    rows = [chat("a", n=1), chat("b")]
    (tmp_path / "d.json").write_text(json.dumps(rows, indent=4, sort_keys=True))
    dataset = JSONLDataset(rows)
    assert load(tmp_path / "d.json").digest == dataset.digest
    assert JSONLDataset(rows[::-1]).digest != dataset.digest != JSONLDataset(rows[:1]).digest


def test_a_file_is_streamed(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([row, "", row.replace('"b"', '"c"'), '{"messages": []}']) + "\n")
    found = JSONLDataset.stream(path)
    assert [next(found)["messages"][1]["content"], next(found)["messages"][1]["content"]] == [
        "b",
        "c",
    ], "before the bad row is met"
    with pytest.raises(UserError, match="line 4: messages must be"):
        next(found)


def test_a_file_larger_than_memory_has_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {
        "messages": [{"role": "user", "content": "x" * 1000}, {"role": "assistant", "content": "y"}]
    }
    path.write_text((json.dumps(row) + "\n") * 20_000)
    tracemalloc.start()
    digest = JSONLDataset.digest_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 10
    assert digest == JSONLDataset([row] * 20_000).digest


# -- rows of instruction, input and output ---------------------------------------------------------


def test_instructions_are_read_as_chats(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "Add", "input": "1 2", "output": "3", "topic": "sums"},
        {"instruction": "Greet", "input": "", "output": "hello"},
        {"instruction": "Greet", "output": "hi"},
        {
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "instruction": "kept",
        },
    ]

    def chat(asked: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    wanted = [
        {"messages": chat("Add\n\n1 2", "3"), "topic": "sums"},
        {"messages": chat("Greet", "hello")},
        {"messages": chat("Greet", "hi")},
        rows[3],
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    for path in tmp_path.iterdir():
        assert list(asyncio.run(JSONLDataset.load(path))) == wanted
    assert list(JSONLDataset(rows)) == wanted


@pytest.mark.parametrize(
    "row",
    [{"instruction": "a"}, {"instruction": 1, "output": "b"}, {"instruction": "a", "output": None}],
)
def test_half_an_instruction_is_a_bad_row(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"instruction": "a", "output": "b"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"line 2: (no messages|\w+ must be text)"):
        asyncio.run(JSONLDataset.load(path))


def test_only_samples_that_are_the_same_as_a_whole_are_left_out() -> None:
    same = {"instruction": "Greet", "output": "hi"}
    rows = [
        same,
        {"instruction": "Greet", "output": "hello"},
        {**same, "topic": "x"},
        {"output": "hi", "instruction": "Greet"},
        same,
    ]
    unique = JSONLDataset(rows).unique()
    assert list(unique) == list(JSONLDataset(rows[:3]))
    assert list(JSONLDataset([]).unique()) == []
