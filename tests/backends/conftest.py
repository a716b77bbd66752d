"""Words to train on, made once per session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with 64 chats whose rows differ in their extra keys."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = []
    for i in range(64):
        word = f"{i:05d}".translate(str.maketrans("0123456789", "abcdefghij"))
        extra = {"topic": "even"} if i % 2 else {"topic": {"name": "odd"}}
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": word},
                    {"role": "assistant", "content": word.upper()},
                ],
                **extra,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
