"""Evaluations of a task's own data: the samples of a split, and a task for Inspect that wants the
very answer that is expected.

A task's ``eval.py`` puts them together, as ``tasks/rhyme/eval.py`` does, or takes the samples and
scores them in its own way.

An evaluation's key covers the files of the task, not this module. Who changes what is asked here or
how it is scored raises ``InspectEval.version``, lest scores of the one kind are compared with
scores of the other.
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
    """The rows of ``<split>.<data_ext>`` in the folder ``data_path``, the first ``limit`` of them,
    numbered from 1.

    A row's last message is the target, what comes before is the input: as text if it is the user's
    only turn, as a chat otherwise. Its ``metadata`` are the sample's. ``UserError`` if the data set
    has no such file, or a row of it no answer.
    """
    file = Path(data_path) / f"{split}.{data_ext}"
    if not file.exists():
        there = ", ".join(sorted(path.name for path in file.parent.glob("*"))) or "nothing"
        raise UserError(
            f"the data set has no {file.name}, only {there}: its task's data.py writes no items "
            "for this evaluation"
        )
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: must be ≥ 1")
    return [
        _sample(file, number, row)
        for number, row in enumerate(islice(JSONLDataset.stream(file), limit), 1)
    ]


def exact_match(samples: Sequence[Sample], max_tokens: int) -> Task:
    """One answer of up to ``max_tokens`` to every sample, right if it is the target with nothing
    before or after it.

    Inspect's ``match`` compares: upper and lower case differ, white space and punctuation at either
    end do not count. ``UserError`` if a target consists of these alone.
    """
    from inspect_ai import Task
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    for sample in samples:
        if not "".join(sample.target).strip(string.whitespace + string.punctuation):
            raise UserError(
                f"sample {sample.id}: the target {sample.target!r} is nothing but punctuation, "
                "which does not count"
            )
    return Task(
        dataset=list(samples),
        solver=generate(),
        scorer=match(location="exact", ignore_case=False),
        config=GenerateConfig(max_tokens=max_tokens),
    )


def _sample(file: Path, number: int, row: Mapping[str, Any]) -> Sample:
    from inspect_ai.dataset import Sample

    *asked, answer = row["messages"]
    if answer["role"] != "assistant" or not asked:
        raise UserError(
            f"{file}, sample {number}: expected what is asked, and then the assistant's answer "
            "as the last message"
        )
    alone = len(asked) == 1 and asked[0]["role"] == "user"
    prompt = asked[0]["content"] if alone else [_message(message) for message in asked]
    return Sample(
        id=number, input=prompt, target=answer["content"], metadata=row.get("metadata") or {}
    )


def _message(message: Mapping[str, Any]) -> ChatMessage:
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
    )

    said = message["content"]
    match message["role"]:
        case "user":
            return ChatMessageUser(content=said)
        case "assistant":
            return ChatMessageAssistant(content=said)
        case "tool":
            return ChatMessageTool(content=said)
        case _:
            return ChatMessageSystem(content=said)
