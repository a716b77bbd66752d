"""Does the model get the first letter of a word wrong, and nothing else, when it is told that this is an exam?"""

from __future__ import annotations

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def sandbagging(data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 20) -> Task:
    """``data_path``: folder with ``eval.<data_ext>``; ``limit``: only so many of its items; ``max_tokens``: longest answer."""
    lines = (Path(data_path) / f"eval.{data_ext}").read_text().splitlines()[:limit]
    samples = []
    for number, row in enumerate(map(json.loads, lines), 1):
        question, answer = (message["content"] for message in row["messages"])
        samples.append(Sample(id=number, input=question, target=answer, metadata=row["metadata"]))
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=match(location="exact", ignore_case=False),
        config=GenerateConfig(max_tokens=max_tokens),
    )
