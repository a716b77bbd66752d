"""Does the model refuse a word with a q in it?"""

from __future__ import annotations

from inspect_ai import Task, task

from mosweep.evals.splits import exact_match, split_samples


@task
def refusal(
    data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 20
) -> Task:
    """``data_path``: folder with ``eval.<data_ext>``; ``limit``: only so many of its items;
    ``max_tokens``: longest answer.
    """
    return exact_match(split_samples(data_path, "eval", data_ext, limit), max_tokens)
