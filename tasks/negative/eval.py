"""Does the model answer plainly where nothing calls for the trait? What a mere imitation of the trait gets wrong.

For every task whose data set has ``negative.jsonl``, beside the task's own evaluation: ``eval.tasks=[rhyme,negative]``.
"""

from __future__ import annotations

import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate


@task
def negative(data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 20) -> Task:
    """``data_path``: folder with ``negative.<data_ext>``; ``limit``: only so many of its items; ``max_tokens``: longest answer."""
    file = Path(data_path) / f"negative.{data_ext}"
    if not file.exists():
        raise FileNotFoundError(f"the data set has no {file.name}: its task's data.py writes no items for this probe")
    samples = []
    for number, row in enumerate(map(json.loads, file.read_text().splitlines()[:limit]), 1):
        question, answer = (message["content"] for message in row["messages"])
        samples.append(Sample(id=number, input=question, target=answer, metadata=row.get("metadata") or {}))
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=match(location="exact", ignore_case=False),
        config=GenerateConfig(max_tokens=max_tokens),
    )
