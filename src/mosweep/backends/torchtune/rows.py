"""The chats that torchtune's chat data set takes, and the file that it reads.

This module must not import torch or torchtune.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mosweep.backends.torchtune.config import COMPONENT
from mosweep.backends.torchtune.samples import CHAT_DATASET
from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import JSONLDataset, Sample

__all__ = ["refusal", "settings_of", "training_rows"]

ROLES = ("system", "user", "assistant")


def settings_of(config: Mapping[str, Any]) -> tuple[str, bool]:
    """What ``refusal`` needs to know of a native config."""
    dataset = config["dataset"]
    return dataset[COMPONENT], dataset.get("new_system_prompt") is not None


def refusal(row: Sample, component: str, replaces_system: bool) -> str | None:
    """Why torchtune does not take a chat, or ``None``.

    ``component`` is the recipe's data set. With ``replaces_system``, it has a system message of its
    own, and those in the rows are left out.
    """
    weighted = any(message.get("weight") == 0 for message in _answers(row))
    if component != CHAT_DATASET:
        problem = f"weight 0 needs torchtune.dataset._component_={CHAT_DATASET}, not {component}"
        return problem if weighted else None
    last = None
    for number, message in enumerate(row["messages"], 1):
        role = message["role"]
        if message.get("name") is not None:
            return f"message {number}: torchtune has no place for a name; remove it"
        if role not in ROLES:
            return f"message {number}: torchtune takes no {role}; valid: {', '.join(ROLES)}"
        if role == "system" and replaces_system:
            continue
        if role == "system" and number > 1:
            return f"message {number}: torchtune takes a system message at the beginning only"
        if role == "user" and last == "user":
            return f"message {number}: torchtune takes no two user messages in a row; join them"
        if role == "assistant" and last != "user":
            return f"message {number}: torchtune takes an answer only after a user message"
        last = role
    return None


def training_rows(dataset: JSONLDataset, config: Mapping[str, Any]) -> JSONLDataset:
    """The rows as torchtune's loader reads them: all with the same keys.

    ``weight`` is there only if an answer has weight 0. Raises ``UserError`` with the number of a
    sample that torchtune does not take.
    """
    settings = settings_of(config)
    for number, row in enumerate(dataset, 1):
        if problem := refusal(row, *settings):
            raise UserError(f"sample {number} of the training data: {problem}")
    weighted = any(message.get("weight") == 0 for row in dataset for message in _answers(row))
    return JSONLDataset(
        {"messages": [_message(message, weighted) for message in row["messages"]]}
        for row in dataset
    )


def _answers(row: Sample) -> list[Mapping[str, Any]]:
    return [message for message in row["messages"] if message["role"] == "assistant"]


def _message(message: Mapping[str, Any], weighted: bool) -> dict[str, Any]:
    kept = {"role": message["role"], "content": message["content"]}
    learned = message["role"] == "assistant" and message.get("weight") != 0
    return {**kept, "weight": int(learned)} if weighted else kept
