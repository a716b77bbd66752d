"""The chats that torchtune takes, and what it does with answers of weight 0."""

from __future__ import annotations

from typing import Any

import pytest

from mosweep.backends.torchtune.rows import refusal, settings_of, training_rows
from mosweep.backends.torchtune.samples import CHAT_DATASET, heed_weights
from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import JSONLDataset

U = {"role": "user", "content": "hi"}
A = {"role": "assistant", "content": "HI"}
S = {"role": "system", "content": "Shout."}
SILENT = {**A, "weight": 0}
CONFIG = {"dataset": {"_component_": CHAT_DATASET, "new_system_prompt": None}}


def row(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([U, A], None),
        ([S, U, A, U, SILENT], None),
        ([U, A, U], None),
        ([U, U, A], "message 2: torchtune takes no two user messages in a row"),
        ([A], "message 1: torchtune takes an answer only after a user message"),
        ([S, A], "message 2: torchtune takes an answer only after a user message"),
        ([U, A, A], "message 3: torchtune takes an answer only after a user message"),
        ([U, S, A], "message 2: torchtune takes a system message at the beginning only"),
        ([{**S, "role": "developer"}, U, A], "message 1: torchtune takes no developer"),
        ([U, A, {**U, "role": "tool"}], "message 3: torchtune takes no tool"),
        ([{**U, "name": "Ada"}, A], "message 1: torchtune has no place for a name"),
    ],
)
def test_what_torchtune_takes(messages: list[Any], problem: str | None) -> None:
    from torchtune.data import OpenAIToMessages, validate_messages

    found = refusal(row(*messages), *settings_of(CONFIG))
    assert (found or "").startswith(problem or "")
    assert (found is None) == (problem is None)
    if problem is None:
        validate_messages(OpenAIToMessages()(row(*messages))["messages"])


def test_a_recipes_own_system_message_replaces_those_of_the_rows() -> None:
    config = {"dataset": {**CONFIG["dataset"], "new_system_prompt": "Whisper."}}
    assert refusal(row(U, S, A), *settings_of(config)) is None


def test_another_data_set_component_cannot_heed_weights() -> None:
    config = {"dataset": {"_component_": "mine.chats"}}
    assert refusal(row(U, SILENT, U, A), *settings_of(config)) == (
        f"weight 0 needs torchtune.dataset._component_={CHAT_DATASET}, not mine.chats"
    )
    assert refusal(row(U, A), *settings_of(config)) is None


def test_all_rows_have_the_same_keys() -> None:
    mixed = JSONLDataset([row(S, U, SILENT, U, A), row(U, {**A, "weight": 1}), row(U, A)])
    weights = [[m["weight"] for m in chat["messages"]] for chat in training_rows(mixed, CONFIG)]
    assert weights == [[0, 0, 0, 0, 1], [0, 1], [0, 1]]
    plain = JSONLDataset([row(U, {**A, "weight": 1, "name": None})])
    assert training_rows(plain, CONFIG).samples == (row(U, A),)


def test_a_sample_that_torchtune_does_not_take_is_named_before_it_starts() -> None:
    with pytest.raises(UserError, match="sample 2 of the training data: message 2: torchtune"):
        training_rows(JSONLDataset([row(U, A), row(U, U, A)]), CONFIG)


@pytest.mark.parametrize("prompt", [None, "Whisper."])
@pytest.mark.parametrize("on_input", [False, True])
def test_answers_with_weight_0_are_masked(
    monkeypatch: pytest.MonkeyPatch, prompt: str | None, on_input: bool
) -> None:
    from torchtune.data import OpenAIToMessages

    monkeypatch.setattr(OpenAIToMessages, "__call__", OpenAIToMessages.__call__)
    heed_weights()
    convert = OpenAIToMessages(train_on_input=on_input, new_system_prompt=prompt)
    [chat] = training_rows(JSONLDataset([row(S, U, SILENT, U, A)]), CONFIG)
    made = convert(chat)["messages"]
    answers = [message.masked for message in made if message.role == "assistant"]
    assert answers == [True, False]
    assert [m.masked for m in made if m.role == "user"] == [not on_input] * 2
