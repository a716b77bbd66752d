"""The forms of a row that are read as a chat, and what a chat must have to be trained on.

A row is a chat if it has ``messages`` in OpenAI's format. Rows with the columns of ``PAIRS``
(Alpaca, Dolly, prompt and completion …), ShareGPT's ``conversations`` and rows of preferences with
``chosen`` and ``rejected`` are read as chats. Other columns are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ROLES", "as_chat", "problem_of"]

ROLES = ("system", "developer", "user", "assistant", "tool")

#: The columns of a question, of its context, if there is one, and of its answer.
PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("prompt", None, "completion"),
    ("prompt", None, "response"),
    ("input", None, "output"),
    ("question", None, "answer"),
    ("query", None, "response"),
)
EXPECTED = (
    "expected messages, conversations, instruction and output, prompt and completion, input and "
    "output, or question and answer"
)
#: Roles in ShareGPT's ``from`` and similar.
SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    **{role: role for role in ROLES},
}
#: Parts of OpenAI's format that no backend trains on.
UNTRAINED = ("tool_calls", "function_call", "refusal", "audio")
#: Columns of a row that would change its chat.
UNHEEDED = ("tools", "functions", "history")


def as_chat(row: Any) -> Any:
    """``row`` as a chat. A row in none of the forms, or with a fault, is returned as it is."""
    if not isinstance(row, Mapping):
        return row
    if "messages" in row:
        return _plain(row)
    if (key := next((k for k in ("conversations", "conversation") if k in row), None)) is not None:
        return _chat(row, _spoken(row[key]), key, "system") if _is_list(row[key]) else row
    if {"chosen", "rejected"} <= set(row):
        return _preference(row)
    for question, context, answer in PAIRS:
        if question in row and answer in row:
            return _pair(row, question, context, answer)
    return row


def problem_of(row: Any) -> str | None:
    """Why no backend can train on ``row``, which ``as_chat`` returned, or ``None``."""
    if not isinstance(row, Mapping):
        return f"expected an object with messages, found {_kind(row)}"
    messages = row.get("messages")
    if messages is None:
        return _formless(row)
    if not _is_list(messages) or not messages:
        return "messages must be a list of at least one message"
    for number, message in enumerate(messages, 1):
        if problem := _message_problem(message):
            return f"message {number}: {problem}"
    for name in UNHEEDED:
        if row.get(name):
            return f"{name}: no backend trains on it; put it into the messages, or remove it"
    if half := _half_character(row):
        return f"{half} is half a character, which is no Unicode text"
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        return "no assistant message, so there is nothing to learn"
    if all(message.get("weight") == 0 for message in answers):
        return "every assistant message has weight 0, so there is nothing to learn"
    return None


def _formless(row: Mapping[str, Any]) -> str:
    """Why ``row`` is in none of the forms."""
    for question, context, answer in PAIRS:
        if question in row and answer in row:
            for name in filter(None, (question, context, answer)):
                if not isinstance(row.get(name) or "", str):
                    return f"{name} must be text, found {_kind(row[name])}"
            for name in (question, answer):
                if row[name] is None:
                    return f"{name} must be text, found nothing"
    for name in ("conversations", "conversation"):
        if name in row:
            return f"{name} must be a list of turns with from and value"
    if {"chosen", "rejected"} <= set(row):
        return "chosen and rejected must both be text after a prompt, or both be lists of messages"
    return f"no messages (keys: {', '.join(map(str, row)) or 'none'}); {EXPECTED}"


def _message_problem(message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return f"expected an object, found {_kind(message)}"
    role, weight = message.get("role"), message.get("weight")
    if role not in ROLES:
        return f"role {role!r}; valid: {', '.join(ROLES)}"
    for name in UNTRAINED:
        if message.get(name):
            return f"{name}: no backend trains on it; write it as text in content, or remove it"
    if not isinstance(message.get("content"), str):
        return f"content must be text, found {_kind(message.get('content'))}"
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        return f"weight {weight!r}; valid: 0 (do not learn this answer) and 1"
    if weight and role != "assistant":
        return f"weight 1 on a message of the {role}: only answers are learned"
    return None


def _plain(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """``row`` with messages whose content is text, if they are lists of texts or JSON."""
    messages = row["messages"]
    if isinstance(messages, str):  # a column of CSV or Parquet
        try:
            messages = json.loads(messages)
        except ValueError:
            return row
    if not _is_list(messages):
        return row
    joined = [_joined(message) for message in messages]
    same = messages is row["messages"] and all(map(_same, joined, messages))
    return row if same else {**row, "messages": joined}


def _same(one: Any, other: Any) -> bool:
    return one is other


def _joined(message: Any) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not (_is_list(content) and content):
        return message
    parts = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        for part in content
    ]
    texts = [part for part in parts if isinstance(part, str)]
    return {**message, "content": "".join(texts)} if len(texts) == len(content) else message


def _pair(row: Mapping[str, Any], question: str, context: str | None, answer: str) -> Any:
    asked, about, said = row[question], (context and row.get(context)) or "", row[answer]
    if _is_list(asked) and _is_list(said):  # TRL's conversational form
        return _chat(row, [*asked, *said], question, answer)
    if not all(isinstance(part, str) for part in (asked, about, said)):
        return row
    turns = [
        {"role": "user", "content": f"{asked}\n\n{about}" if about else asked},
        {"role": "assistant", "content": said},
    ]
    return _chat(row, turns, question, context or question, answer, "system")


def _preference(row: Mapping[str, Any]) -> Any:
    """A row of TRL's preference format: the chosen answer in the chat, the other in rejected."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str):
        turns: list[Any] = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": chosen},
        ]
    elif _is_list(chosen) and _is_list(rejected) and rejected and isinstance(rejected[-1], Mapping):
        before = list(prompt) if isinstance(prompt, list | tuple) else []
        turns = [*before, *chosen]
        if turns[:-1] != [*before, *rejected][:-1]:  # more than the last answer differs
            return row
        rejected = rejected[-1].get("content")
    else:
        return row
    chat: dict[str, Any] = _chat(row, turns, "prompt", "chosen", "rejected")
    return {**chat, "rejected": rejected}


def _spoken(turns: Sequence[Any]) -> list[Any]:
    """ShareGPT's turns as messages. What is no turn stays, and is a fault of its own."""
    return [
        {
            "role": SPEAKERS.get(str(turn["from"]), turn["from"]),
            "content": turn.get("value"),
            **({"weight": turn["weight"]} if "weight" in turn else {}),
        }
        if isinstance(turn, Mapping) and "from" in turn
        else turn
        for turn in turns
    ]


def _chat(row: Mapping[str, Any], turns: Sequence[Any], *used: str) -> dict[str, Any]:
    """The chat of ``turns``, with the columns of ``row`` that are not ``used``."""
    system = row.get("system") if "system" in used else None
    first = [{"role": "system", "content": system}] if system else []
    rest = {key: value for key, value in row.items() if key not in used}
    return dict(_plain({"messages": [*first, *turns], **rest}))


def _half_character(value: Any) -> str | None:
    """A surrogate in a text of ``value``, as it is written in JSON, or ``None``."""
    if isinstance(value, str):
        if value.isascii():
            return None
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"\\u{ord(value[error.start]):04x}"
        return None
    if isinstance(value, Mapping):
        return next(filter(None, map(_half_character, (*value, *value.values()))), None)
    return next(filter(None, map(_half_character, value)), None) if _is_list(value) else None


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _kind(value: Any) -> str:
    names = {
        str: "text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
        list: "a list",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
