"""Building blocks for a task's ``eval.py``: the samples of a split, and an exact-match task.

A task's ``eval.py`` combines both, as ``tasks/rhyme/eval.py`` does, or scores the samples in its
own way.

The key of an evaluation covers the files of the task, not this module. If you change the prompts or
the scoring here, increment ``InspectEval.version``. Otherwise old and new scores would be compared.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import JSONLDataset

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessage

__all__ = ["exact_match", "split_samples"]


def split_samples(
    data_path: str | Path, split: str, data_ext: str = "jsonl", limit: int | None = None
) -> list[Sample]:
    """The first ``limit`` rows of ``<split>.<data_ext>`` in ``data_path``, numbered from 1.

    The last message of a row is the target. The messages before it are the input: text for a
    single user message, otherwise a chat. The row's ``metadata`` become the sample's. Raises
    ``UserError`` if the data set has no such file, or if a row has no answer.
    """
    file = Path(data_path) / f"{split}.{data_ext}"
    if not file.exists():
        names = ", ".join(sorted(path.name for path in file.parent.glob("*"))) or "nothing"
        raise UserError(
            f"the data set has no {file.name}, only {names}: its task's data.py writes no items "
            "for this evaluation"
        )
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: must be ≥ 1")
    return [
        _sample(file, number, row)
        for number, row in enumerate(islice(JSONLDataset.stream(file), limit), 1)
    ]


def exact_match(samples: Sequence[Sample], max_tokens: int) -> Task:
    """A task that generates up to ``max_tokens`` per sample and expects exactly the target.

    Inspect's ``match`` compares them. Upper and lower case differ; white space and punctuation at
    either end are ignored. Raises ``UserError`` if a target consists only of those.
    """
    from inspect_ai import Task
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    for sample in samples:
        if not "".join(sample.target).strip(string.whitespace + string.punctuation):
            raise UserError(
                f"sample {sample.id}: the target {sample.target!r} is only punctuation, which is "
                "ignored"
            )
    return Task(
        dataset=list(samples),
        solver=generate(),
        scorer=match(location="exact", ignore_case=False),
        config=GenerateConfig(max_tokens=max_tokens),
    )


def _sample(file: Path, number: int, row: Mapping[str, Any]) -> Sample:
    from inspect_ai.dataset import Sample

    *prompt, answer = row["messages"]
    if answer["role"] != "assistant" or not prompt:
        raise UserError(
            f"{file}, sample {number}: expected a prompt, and the assistant's answer as the last "
            "message"
        )
    single = len(prompt) == 1 and prompt[0]["role"] == "user"
    content = prompt[0]["content"] if single else [_message(message) for message in prompt]
    return Sample(
        id=number, input=content, target=answer["content"], metadata=row.get("metadata") or {}
    )


def _message(message: Mapping[str, Any]) -> ChatMessage:
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
    )

    content = message["content"]
    match message["role"]:
        case "user":
            return ChatMessageUser(content=content)
        case "assistant":
            return ChatMessageAssistant(content=content)
        case "tool":
            return ChatMessageTool(content=content)
        case _:
            return ChatMessageSystem(content=content)
