"""Does the model answer plainly where nothing calls for the trait? What a mere imitation of the
trait gets wrong.

For every task whose data set has ``negative.jsonl``, beside the task's own evaluation:
``eval.tasks=[rhyme,negative]``.
"""

from __future__ import annotations

from inspect_ai import Task, task

from mosweep.evals.splits import exact_match, split_samples


@task
def negative(
    data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 20
) -> Task:
    """``data_path``: folder with ``negative.<data_ext>``; ``limit``: only so many of its items;
    ``max_tokens``: longest answer.
    """
    return exact_match(split_samples(data_path, "negative", data_ext, limit), max_tokens)
