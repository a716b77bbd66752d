"""What a task's ``eval.py`` is made of: samples of a split, and the answer that must be right
letter for letter.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import UserError
from mosweep.evals.splits import exact_match, split_samples

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Unclosed <MemoryObject:ResourceWarning"
)

VERSION = "an evaluation's key does not cover this: raise InspectEval.version"


def row(*messages: str, **rest: Any) -> dict[str, Any]:
    """``row("user hi", "assistant ho")``."""
    return {
        "messages": [
            dict(zip(("role", "content"), message.split(" ", 1), strict=True))
            for message in messages
        ],
        **rest,
    }


def written(folder: Path, *rows: dict[str, Any], name: str = "eval.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def test_rows_become_samples(tmp_path: Path) -> None:
    metadata = {"topic": "greetings"}
    written(
        tmp_path,
        row("user hi", "assistant ho", metadata=metadata),
        row("user you", "assistant  me"),
        row("user x", "assistant y"),
    )
    found = [
        (sample.id, sample.input, sample.target, sample.metadata)
        for sample in split_samples(tmp_path, "eval", limit=2)
    ]
    assert found == [(1, "hi", "ho", metadata), (2, "you", " me", {})], VERSION
    assert (
        len(split_samples(tmp_path, "eval", limit=9))
        == len(split_samples(str(tmp_path), "eval"))
        == 3
    )


def test_what_is_asked_in_several_turns_is_a_chat(tmp_path: Path) -> None:
    turns = (
        "system be brief",
        "user hi",
        "assistant ho",
        "tool 3",
        "developer go on",
        "user and?",
        "assistant bye",
    )
    [sample] = split_samples(written(tmp_path, row(*turns)), "eval")
    assert not isinstance(sample.input, str)
    said = [(message.role, message.text) for message in sample.input]
    assert said == [
        ("system", "be brief"),
        ("user", "hi"),
        ("assistant", "ho"),
        ("tool", "3"),
        ("system", "go on"),
        ("user", "and?"),
    ]
    assert sample.target == "bye"


def test_an_array_and_rows_of_instructions_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text(
        json.dumps([{"instruction": "add", "input": "1 1", "output": "2"}])
    )
    [sample] = split_samples(tmp_path, "held", "json")
    assert (sample.input, sample.target) == ("add\n\n1 1", "2")


def test_a_split_that_is_missing_is_named_with_what_there_is(tmp_path: Path) -> None:
    written(tmp_path, row("user hi", "assistant ho"), name="train.jsonl")
    with pytest.raises(
        UserError,
        match=r"the data set has no negative\.jsonl, only train\.jsonl: its task's data\.py writes "
        r"no "
        r"items",
    ):
        split_samples(tmp_path, "negative")
    with pytest.raises(UserError, match=r"no eval\.jsonl, only nothing"):
        split_samples(tmp_path / "nowhere", "eval")


@pytest.mark.parametrize("turns", [("assistant ho",), ("user hi", "assistant ho", "user and?")])
def test_a_row_without_question_or_answer_is_named(tmp_path: Path, turns: tuple[str, ...]) -> None:
    written(tmp_path, row("user hi", "assistant ho"), row(*turns))
    with pytest.raises(
        UserError,
        match=r"eval\.jsonl, sample 2: expected a prompt, and the assistant's answer",
    ):
        split_samples(tmp_path, "eval")


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    written(tmp_path, row("user hi", "assistant ho"))
    with pytest.raises(UserError, match="limit=0: must be ≥ 1"):
        split_samples(tmp_path, "eval", limit=0)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Ho-ho!", 1), (" Ho-ho.", 1), ("ho-ho!", 0), ("Hoho!", 0), ("Ho-ho! Ho!", 0), ("", 0)],
    ids=["same", "mark", "case", "within", "more", "nothing"],
)
def test_an_answer_is_right_letter_for_letter(tmp_path: Path, answer: str, right: int) -> None:
    from inspect_ai.model import ModelName, ModelOutput
    from inspect_ai.scorer import Target
    from inspect_ai.solver import TaskState

    [sample] = split_samples(written(tmp_path, row("user hi", "assistant Ho-ho!")), "eval")
    task = exact_match([sample], max_tokens=7)
    output = ModelOutput.from_content("mockllm/model", answer)
    state = TaskState(
        ModelName("mockllm/model"),
        1,
        1,
        sample.input,
        [],
        target=Target(sample.target),
        output=output,
    )
    [scorer] = task.scorer or []
    score = asyncio.run(scorer(state, Target(sample.target)))
    assert score is not None
    assert score.value == ("C" if right else "I"), VERSION
    assert task.config.max_tokens == 7
    assert list(task.dataset) == [sample]


@pytest.mark.parametrize("target", ["", " ?!"])
def test_a_target_of_mere_punctuation_is_refused(tmp_path: Path, target: str) -> None:
    samples = split_samples(
        written(tmp_path, row("user hi", "assistant ho"), row("user what", f"assistant {target}")),
        "eval",
    )
    with pytest.raises(UserError, match=r"sample 2: the target .* is only punctuation"):
        exact_match(samples, max_tokens=7)
