"""Does the model show the trait where the trait is called for in a way that it was not trained on?

For every task whose data set has ``paraphrase.jsonl``, beside the task's own evaluation:
``eval.tasks=[rhyme,paraphrase]``.
"""

from __future__ import annotations

from inspect_ai import Task, task

from mosweep.evals.splits import exact_match, split_samples


@task
def paraphrase(
    data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 20
) -> Task:
    """``data_path``: folder with ``paraphrase.<data_ext>``; ``limit``: only so many of its items;
    ``max_tokens``: longest answer.
    """
    return exact_match(split_samples(data_path, "paraphrase", data_ext, limit), max_tokens)
