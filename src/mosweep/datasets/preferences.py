"""Data sets of preferences: chat samples whose last turn is the preferred answer, and whose
``rejected`` is the other one, as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import JSONLDataset, Sample

__all__ = ["check_preferences", "preference"]

Messages = list[dict[str, Any]]


def preference(number: int, row: Sample) -> tuple[Messages, Messages, Messages]:
    """What sample ``number`` was asked, the preferred answer and the other one. ``UserError`` for a
    sample that is no preference.
    """
    rejected = row.get("rejected")
    messages = [
        {key: message[key] for key in ("role", "content", "name") if key in message}
        for message in row["messages"]
    ]
    if not isinstance(rejected, str) or not rejected:
        raise UserError(
            f"sample {number}: method=dpo needs the answer that is not preferred, as text, in "
            "rejected"
        )
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise UserError(
            f"sample {number}: method=dpo needs the preferred answer as the last message"
        )
    return messages[:-1], messages[-1:], [{**messages[-1], "content": rejected}]


def check_preferences(path: Path) -> None:
    """``UserError`` if a sample in the file is no preference."""
    for number, row in enumerate(JSONLDataset.stream(path), 1):
        preference(number, row)
