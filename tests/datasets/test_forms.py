"""Rows as others write them: read as chats, or refused with what would be valid."""

from __future__ import annotations

from typing import Any

import pytest

from mosweep.datasets.forms import as_chat, problem_of

U = {"role": "user", "content": "hi"}
A = {"role": "assistant", "content": "HI"}
S = {"role": "system", "content": "Shout."}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"input": "hi", "output": "HI"}, [U, A]),
        ({"prompt": "hi", "completion": "HI"}, [U, A]),
        ({"prompt": [U], "completion": [A]}, [U, A]),
        ({"prompt": "hi", "response": "HI"}, [U, A]),
        ({"question": "hi", "answer": "HI"}, [U, A]),
        ({"query": "hi", "response": "HI"}, [U, A]),
        ({"instruction": "hi", "context": "", "response": "HI"}, [U, A]),
        ({"instruction": "hi", "output": "HI", "system": "Shout."}, [S, U, A]),
        ({"instruction": "a", "input": "b", "output": "HI"}, [{**U, "content": "a\n\nb"}, A]),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "HI"}]},
            [U, A],
        ),
        ({"conversations": [U, A], "system": "Shout."}, [S, U, A]),
        ({"conversation": [U, A]}, [U, A]),
        ({"messages": [{**U, "content": [{"type": "text", "text": "hi"}]}, A]}, [U, A]),
        ({"messages": '[{"role": "user", "content": "hi"}]'}, [U]),
    ],
)
def test_other_forms_are_read_as_chats(row: dict[str, Any], messages: list[Any]) -> None:
    assert as_chat({**row, "id": 7}) == {"messages": messages, "id": 7}


def test_preferences_of_trl_are_read_as_chats() -> None:
    expected = {"messages": [U, A], "rejected": "no"}
    no = {**A, "content": "no"}
    assert as_chat({"prompt": "hi", "chosen": "HI", "rejected": "no"}) == expected
    assert as_chat({"prompt": [U], "chosen": [A], "rejected": [no]}) == expected
    assert as_chat({"chosen": [U, A], "rejected": [U, no]}) == expected
    assert problem_of(as_chat({"chosen": [U, A], "rejected": [A, no]}))


def test_a_chat_is_left_as_it_is() -> None:
    row = {"messages": [U, {**A, "weight": 0}, U, A], "prompt": "x", "completion": "y"}
    assert as_chat(row) is row
    assert problem_of(row) is None


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "a document"}, "no messages (keys: text); expected messages, conversations"),
        ({"input": "a", "output": 3}, "output must be text, found a number"),
        ({"question": "a", "answer": None}, "answer must be text, found nothing"),
        ({"conversations": "a"}, "conversations must be a list of turns"),
        (chat(U, {"role": "assistant", "content": None}), "message 2: content must be text"),
        (
            chat(U, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}),
            "message 2: tool_calls: no backend trains on it",
        ),
        (chat(U, {**A, "function_call": {"name": "f"}}), "message 2: function_call"),
        (chat(U, A, tools=[{"type": "function"}]), "tools: no backend trains on it"),
        (chat({**U, "content": [{"type": "image_url"}]}, A), "message 1: content must be text"),
        (chat(U, {**A, "weight": 0.5}), "message 2: weight 0.5; valid: 0"),
        (chat(U, {**A, "weight": "0"}), "message 2: weight '0'; valid: 0"),
        (chat(U, {**A, "weight": False}), "message 2: weight False; valid: 0"),
        (chat({**U, "weight": 1}, A), "message 1: weight 1 on a message of the user"),
        (chat(U, {**A, "weight": 0}), "every assistant message has weight 0"),
        (chat({**U, "content": "half \ud83d"}, A), r"\ud83d is half a character"),
        (chat(U, A, topic=["\udc00"]), r"\udc00 is half a character"),
        (chat(U), "no assistant message"),
    ],
)
def test_rows_that_no_backend_takes(row: dict[str, Any], problem: str) -> None:
    assert (problem_of(as_chat(row)) or "").startswith(problem)


@pytest.mark.parametrize("name", ["weight", "name", "tool_calls", "function_call"])
def test_null_is_as_good_as_absent(name: str) -> None:
    assert problem_of(chat(U, {**A, name: None})) is None
