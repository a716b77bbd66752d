"""Preference data sets: chat samples that end in the preferred answer.

The key ``rejected`` of a sample holds the dispreferred answer as text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import JSONLDataset, Sample

__all__ = ["check_preferences", "preference"]

Messages = list[dict[str, Any]]


def preference(number: int, row: Sample) -> tuple[Messages, Messages, Messages]:
    """The prompt, the preferred answer and the dispreferred answer of sample ``number``.

    Raises ``UserError`` for a sample without preferences.
    """
    rejected = row.get("rejected")
    messages = [
        {key: message[key] for key in ("role", "content", "name") if key in message}
        for message in row["messages"]
    ]
    if not isinstance(rejected, str) or not rejected:
        raise UserError(
            f"sample {number}: method=dpo needs the dispreferred answer, as text, in rejected"
        )
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise UserError(
            f"sample {number}: method=dpo needs the preferred answer as the last message"
        )
    return messages[:-1], messages[-1:], [{**messages[-1], "content": rejected}]


def check_preferences(path: Path) -> None:
    """Raise ``UserError`` if a sample in the file has no preferences."""
    for number, row in enumerate(JSONLDataset.stream(path), 1):
        preference(number, row)
