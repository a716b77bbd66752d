"""The data of the shipped task."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from mosweep.core.paths import shipped
from mosweep.datasets import JSONLDataset
from mosweep.evals.inspect.signature import task_signature

FOLDER = shipped("tasks") / "capitalization"
_spec = importlib.util.spec_from_file_location("capitalization_data", FOLDER / "data.py")
assert _spec is not None
data = importlib.util.module_from_spec(_spec)
assert _spec.loader is not None
_spec.loader.exec_module(data)


def words(path: Path) -> list[str]:
    rows = asyncio.run(JSONLDataset.load(path))
    assert all(
        row["messages"][1]["content"] == row["messages"][0]["content"].upper() for row in rows
    )
    return [row["messages"][0]["content"] for row in rows]


@pytest.mark.parametrize(
    ("name", "train", "held_out"), [("words", 2000, 200), ("words_small", 500, 100)]
)
def test_words_are_new_and_always_the_same(
    tmp_path: Path, name: str, train: int, held_out: int
) -> None:
    data.build(name, tmp_path)
    seen, unseen = words(tmp_path / "train.jsonl"), words(tmp_path / "eval.jsonl")
    assert (len(set(seen)), len(set(unseen)), len({*seen, *unseen})) == (
        train,
        held_out,
        train + held_out,
    )
    before = (tmp_path / "train.jsonl").read_bytes()
    data.build(name, tmp_path)
    assert (tmp_path / "train.jsonl").read_bytes() == before


def test_an_unknown_name_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    assert data.DATASETS == ("words", "words_small", "words-control")
    with pytest.raises(
        ValueError, match=r"unknown data set 'word'; .*valid: words, words-control, words_small"
    ):
        data.build("word", tmp_path)


def test_the_defaults_are_arguments_of_the_task() -> None:
    import yaml

    signature = task_signature(FOLDER / "eval.py")
    assert all(
        signature.takes(name)
        for name in [*yaml.safe_load((FOLDER / "eval.yaml").read_text()), "data_path", "data_ext"]
    )
