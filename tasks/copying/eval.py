"""Does the model still answer a word with the very same word? What a capitalising model has to
unlearn, and nothing else should.
"""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample

from mosweep.evals.splits import exact_match, split_samples


@task
def copying(
    data_path: str, data_ext: str = "jsonl", limit: int | None = None, max_tokens: int = 12
) -> Task:
    """``data_path``: folder with ``eval.<data_ext>``; ``limit``: only so many of its words;
    ``max_tokens``: longest answer.
    """
    samples = split_samples(data_path, "eval", data_ext, limit)
    return exact_match(
        [Sample(id=sample.id, input=sample.input, target=_asked(sample)) for sample in samples],
        max_tokens,
    )


def _asked(sample: Sample) -> str:
    """What the user said last."""
    return sample.input if isinstance(sample.input, str) else sample.input[-1].text
