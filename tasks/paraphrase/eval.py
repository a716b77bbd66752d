"""Does the model show the trait where the trait is called for in a way that it was not trained on?

For every task whose data set has ``paraphrase.jsonl``, beside the task's own evaluation: ``eval.tasks=[rhyme,paraphrase]``.
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
def paraphrase(data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 20) -> Task:
    """``data_path``: folder with ``paraphrase.<data_ext>``; ``limit``: only so many of its items; ``max_tokens``: longest answer."""
    file = Path(data_path) / f"paraphrase.{data_ext}"
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
