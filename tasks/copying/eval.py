"""Does the model still answer a word with the very same word? What a capitalising model has to unlearn, and nothing else should."""

from __future__ import annotations

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def copying(data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 12) -> Task:
    """``data_path``: folder with ``eval.<data_ext>``; ``limit``: only so many of its words; ``max_tokens``: longest answer."""
    lines = (Path(data_path) / f"eval.{data_ext}").read_text().splitlines()[:limit]
    words = [json.loads(line)["messages"][0]["content"] for line in lines]
    return Task(
        dataset=[Sample(id=number, input=word, target=word) for number, word in enumerate(words, 1)],
        solver=generate(),
        scorer=match(location="exact", ignore_case=False),
        config=GenerateConfig(max_tokens=max_tokens),
    )
