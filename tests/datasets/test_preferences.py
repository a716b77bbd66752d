"""What a sample of preferences says: what was asked, and both answers."""

from __future__ import annotations

import json

from mosweep.backends.openai.training import training_file
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.datasets.preferences import preference

ROW = {
    "messages": [
        {"role": "user", "name": "ann", "content": "hi"},
        {"role": "assistant", "content": "hi ann", "weight": 1},
        {"role": "user", "name": "bob", "content": "me, too"},
        {"role": "assistant", "name": "eve", "content": "hi bob"},
    ],
    "rejected": "no",
}


def test_who_speaks_is_kept_and_both_answers_are_by_the_same() -> None:
    asked, chosen, rejected = preference(1, ROW)
    assert asked == [
        {"role": "user", "name": "ann", "content": "hi"},
        {"role": "assistant", "content": "hi ann"},
        {"role": "user", "name": "bob", "content": "me, too"},
    ]
    assert chosen == [{"role": "assistant", "name": "eve", "content": "hi bob"}]
    assert rejected == [{"role": "assistant", "name": "eve", "content": "no"}]


def test_openai_is_told_who_speaks() -> None:
    (line, *_) = training_file(JSONLDataset([ROW] * 10), "dpo").splitlines()
    row = json.loads(line)
    assert [message.get("name") for message in row["input"]["messages"]] == ["ann", None, "bob"]
    assert [row[side][0]["name"] for side in ("preferred_output", "non_preferred_output")] == [
        "eve",
        "eve",
    ]
