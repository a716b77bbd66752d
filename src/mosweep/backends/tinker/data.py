"""Training data in Tinker's format: token ids, and the weight of each token in the loss."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mosweep.core.errors import StageError
from mosweep.datasets.jsonl import Sample
from mosweep.datasets.preferences import preference

if TYPE_CHECKING:
    from tinker import Datum

__all__ = ["Example", "Pair", "batch_of", "batches", "data_of", "render", "render_pairs"]

LossOn = Literal["answer", "message"]


@dataclass(frozen=True)
class Example:
    """``tokens``, and the weight of each token's prediction in the loss.

    Tokens of the prompt have weight 0.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """Two answers to the same prompt, one of which is preferred."""

    chosen: Example
    rejected: Example


def render(
    renderer: Any, chats: Iterable[Mapping[str, Any]], loss_on: LossOn, max_length: int
) -> list[Example]:
    """The examples of ``chats``, each truncated to ``max_length`` tokens.

    Examples without a trained token after truncation are dropped. If the renderer writes earlier
    answers differently from the last one (for instance without their reasoning), each answer
    becomes a separate example. ``loss_on``: train on the answers as the model generates them, or on
    whole assistant messages with their headers.
    """
    return [
        example
        for number, chat in enumerate(chats, 1)
        for example in _examples(renderer, number, chat["messages"], loss_on, max_length)
    ]


def render_pairs(
    renderer: Any, rows: Iterable[Sample], loss_on: LossOn, max_length: int
) -> list[Pair]:
    """The pairs in ``rows`` of preferences, rendered and truncated as in ``render``.

    Only the last message of each answer is trained on. A pair is dropped if either answer has no
    trained token after truncation.
    """
    pairs = []
    for number, row in enumerate(rows, 1):
        prompt, *answers = preference(number, row)
        untrained = [{**message, "weight": 0} for message in prompt]
        sides = [
            _examples(renderer, number, [*untrained, *answer], loss_on, max_length)
            for answer in answers
        ]
        if all(sides):
            (chosen,), (rejected,) = sides
            pairs.append(Pair(chosen, rejected))
    return pairs


def _examples(
    renderer: Any,
    number: int,
    messages: Sequence[Mapping[str, Any]],
    loss_on: LossOn,
    max_length: int,
) -> list[Example]:
    try:
        rendered = (
            _whole_messages(renderer, messages)
            if loss_on == "message"
            else _answers(renderer, messages)
        )
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise StageError(
            f"sample {number} cannot be rendered: {type(error).__name__}: {error}"
        ) from error
    truncated = [
        Example(tuple(tokens[:max_length]), tuple(weights[:max_length]))
        for tokens, weights in rendered
    ]
    # The first token is never predicted.
    return [example for example in truncated if any(example.weights[1:])]


def batches(count: int, size: int, epochs: int, limit: int | None, seed: int) -> list[list[int]]:
    """The indices of the examples in each step.

    Every epoch has a different order and at most ``limit`` batches. An incomplete last batch is
    dropped.
    """
    plan = []
    for epoch in range(epochs):
        order = list(range(count))
        random.Random(f"{seed} {epoch}").shuffle(order)
        whole = [order[start : start + size] for start in range(0, count - size + 1, size)]
        plan += whole[:limit]
    return plan


def batch_of(examples: Sequence[Example]) -> list[Datum]:
    """The data of one step, weighted so that the loss is the mean over all trained tokens.

    Tinker's own loss is a sum over the tokens.
    """
    return data_of(examples, sum(sum(example.weights[1:]) for example in examples))


def data_of(examples: Sequence[Example], total: float = 1.0) -> list[Datum]:
    """``examples`` in Tinker's format, with their weights divided by ``total``."""
    from tinker import Datum, ModelInput, TensorData

    data = []
    for example in examples:
        length = len(example.tokens) - 1
        inputs = {
            "target_tokens": TensorData(
                data=list(example.tokens[1:]), dtype="int64", shape=[length]
            ),
            "weights": TensorData(
                data=[weight / total for weight in example.weights[1:]],
                dtype="float32",
                shape=[length],
            ),
        }
        data.append(
            Datum(
                model_input=ModelInput.from_ints(list(example.tokens[:-1])), loss_fn_inputs=inputs
            )
        )
    return data


_Weighted = tuple[list[int], list[float]]


def _answers(renderer: Any, messages: Sequence[Mapping[str, Any]]) -> list[_Weighted]:
    from tinker_cookbook.renderers import TrainOnWhat

    if renderer.has_extension_property:
        marked = [{**_plain(message), "trainable": _is_trained(message)} for message in messages]
        return [
            _as_lists(
                renderer.build_supervised_example(marked, train_on_what=TrainOnWhat.CUSTOMIZED)
            )
        ]
    plain = [_plain(message) for message in messages]
    answers = [index for index, message in enumerate(messages) if _is_trained(message)]
    last = TrainOnWhat.LAST_ASSISTANT_MESSAGE
    return [
        _as_lists(renderer.build_supervised_example(plain[: index + 1], train_on_what=last))
        for index in answers
    ]


def _whole_messages(renderer: Any, messages: Sequence[Mapping[str, Any]]) -> list[_Weighted]:
    from tinker_cookbook.renderers import TrainOnWhat

    plain = [_plain(message) for message in messages]

    def tokens_of_first(count: int) -> list[int]:
        return (
            _as_lists(
                renderer.build_supervised_example(
                    plain[:count], train_on_what=TrainOnWhat.ALL_TOKENS
                )
            )[0]
            if count
            else []
        )

    tokens = tokens_of_first(len(plain))
    weights = [0.0] * len(tokens)
    for index, message in enumerate(messages):
        if _is_trained(message):
            before, after = tokens_of_first(index), tokens_of_first(index + 1)
            if tokens[: len(after)] != after or after[: len(before)] != before:
                raise ValueError(
                    "loss_on=message requires a renderer that writes a message independently of "
                    "the messages after it"
                )
            weights[len(before) : len(after)] = [1.0] * (len(after) - len(before))
    return [(tokens, weights)]


def _is_trained(message: Mapping[str, Any]) -> bool:
    """Whether to train on a message: an assistant message without ``weight`` 0."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: message[name] for name in ("role", "content", "name") if name in message}


def _as_lists(rendered: tuple[Any, Any]) -> _Weighted:
    tokens, weights = rendered
    return tokens.to_ints(), weights.tolist()
