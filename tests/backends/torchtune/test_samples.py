"""Samples that are longer than the recipe's limit: counted, and named as the cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mosweep.backends.torchtune.child import check_losses
from mosweep.backends.torchtune.config import load_recipe
from mosweep.backends.torchtune.run_config import complete
from mosweep.backends.torchtune.samples import check_lengths, count, lengths_of
from mosweep.core.paths import shipped

TINY = load_recipe(shipped("recipes") / "torchtune" / "tiny.yaml")


def chat(question: str, answer: str = "yes") -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def config(folder: Path, base: Path, *rows: Any, **tokenizer: Any) -> dict[str, Any]:
    (folder / "run").mkdir()
    data = folder / "run" / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {**TINY, "tokenizer": {**TINY["tokenizer"], **tokenizer}}
    return complete(recipe, base=base, data=data, output=folder / "out")


LONG = chat("x" * 300)


def test_a_limit_that_cuts_off_every_answer_is_named(tmp_path: Path, base: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        check_lengths(tmp_path, config(tmp_path, base, LONG, LONG))
    said = str(caught.value)
    assert "nothing to learn: 2 of 2 samples are longer than tokenizer.max_seq_len=128" in said
    assert "2 have no answer left (set torchtune.tokenizer.max_seq_len=" in said


def test_some_that_are_too_long_are_a_warning(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [chat("short"), LONG, chat("short", "y" * 300)]
    check_lengths(tmp_path, config(tmp_path, base, *rows))
    assert "warning: 2 of 3 samples are longer than" in capsys.readouterr().out
    lengths = lengths_of(tmp_path)
    assert lengths is not None
    assert (lengths["cut"], lengths["empty"], lengths["samples"]) == (2, 1, 3)
    with pytest.raises(RuntimeError, match="nan at step 2: a batch may have had nothing to learn"):
        check_losses([[1, 0.5], [2, float("nan")]], lengths)


def test_what_fits_exactly_is_not_too_long(tmp_path: Path, base: Path) -> None:
    made = config(tmp_path, base, LONG, max_seq_len=64)
    longest = (count(made) or {})["longest"]
    for limit, cut in ((longest, 0), (longest - 1, 1)):
        found = count({**made, "tokenizer": {**made["tokenizer"], "max_seq_len": limit}})
        assert (found or {})["cut"] == cut


def test_without_a_limit_nothing_is_cut(tmp_path: Path, base: Path) -> None:
    check_lengths(tmp_path, config(tmp_path, base, LONG, max_seq_len=None))
    assert lengths_of(tmp_path) is None
