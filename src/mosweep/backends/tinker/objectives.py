"""Training objectives of a run on Tinker: supervised, or direct preference optimisation."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from mosweep.backends.tinker.data import Example, Pair, batch_of, data_of
from mosweep.backends.tinker.service import Service, one_line
from mosweep.core.errors import StageError
from mosweep.core.providers import Failure, Policy

if TYPE_CHECKING:
    from tinker import Datum, SamplingClient, ServiceClient, TrainingClient
    from torch import Tensor

__all__ = ["MEASURES", "SupervisedObjective", "Objective", "PreferenceObjective", "preference_loss"]

#: Measures of a step on preferences besides its loss.
MEASURES = ("accuracy", "margin", "chosen_reward", "rejected_reward")
#: Concurrent requests for reference log-probabilities of this process.
IN_FLIGHT = 64
#: Pairs whose reference log-probabilities are requested and journaled together.
CHUNK = 128


class Objective(Protocol):
    """The data of a run and its loss. ``rows`` are indices into the data."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    async def prepare(self, client: ServiceClient, rows: Iterable[int]) -> None:
        """Fetch everything that training on ``rows`` requires."""
        ...

    def submit(self, training: TrainingClient, rows: Sequence[int]) -> Awaitable[Any]:
        """Submit the forward and backward pass of a step on ``rows``."""
        ...

    def measured(self, rows: Sequence[int], result: Any) -> dict[str, float]:
        """The ``loss`` of a step, and other measures, from its result."""
        ...

    def used(self, rows: Sequence[int]) -> dict[str, int]:
        """The step's trained ``tokens``, and the tokens of its ``forward`` pass, if any."""
        ...


@dataclass(frozen=True)
class SupervisedObjective:
    """The mean negative log-probability of a step's trained tokens."""

    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    async def prepare(self, client: ServiceClient, rows: Iterable[int]) -> None:
        """Does nothing."""

    def submit(self, training: TrainingClient, rows: Sequence[int]) -> Awaitable[Any]:
        """One forward and backward pass."""
        return training.forward_backward(
            batch_of([self.examples[row] for row in rows]), "cross_entropy"
        )

    def measured(self, rows: Sequence[int], result: Any) -> dict[str, float]:
        """The loss."""
        total = weight = 0.0
        for row, output in zip(rows, result.loss_fn_outputs, strict=True):
            weights = self.examples[row].weights[1:]
            total -= sum(
                w * p for w, p in zip(weights, output["logprobs"].tolist(), strict=True) if w
            )
            weight += sum(weights)
        return {"loss": _finite(total / weight)}

    def used(self, rows: Sequence[int]) -> dict[str, int]:
        """The trained tokens."""
        return {"tokens": sum(len(self.examples[row].tokens) - 1 for row in rows)}


@dataclass(frozen=True)
class PreferenceObjective:
    """Direct preference optimisation with ``preference_loss``.

    The reference is the base model ``model``. ``reference`` maps rows to its log-probabilities of
    both answers. New ones are passed to ``note``.
    """

    pairs: Sequence[Pair]
    beta: float
    model: str
    service: Service
    note: Callable[..., None]
    reference: dict[int, tuple[float, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    async def prepare(self, client: ServiceClient, rows: Iterable[int]) -> None:
        """Request the missing reference log-probabilities, once for each row."""
        missing = sorted(set(rows) - self.reference.keys())
        if not missing:
            return
        print(f"reference log-probabilities of {len(missing)} pairs from {self.model}")
        sampler = await self.service.wait(client.create_sampling_client(base_model=self.model))
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            answers = self._answers(chunk)
            logprobs = await self.service.wait(
                _all([self._log_probability(sampler, answer) for answer in answers])
            )
            pairs = zip(logprobs[0::2], logprobs[1::2], strict=True)
            known = dict(zip(chunk, pairs, strict=True))
            self.reference.update(known)
            forward = sum(len(answer.tokens) for answer in answers)
            self.note(
                "reference",
                pairs=[[row, *values] for row, values in known.items()],
                forward=forward,
                sampled=len(answers),
            )

    async def _log_probability(self, sampler: SamplingClient, answer: Example) -> float:
        from tinker import ModelInput

        tokens = ModelInput.from_ints(list(answer.tokens))
        logprobs = await _policy().call(
            "requesting log-probabilities",
            lambda: sampler.compute_logprobs(tokens),
            patience_s=self.service.patience_s,
        )
        total = 0.0
        for logprob, weight in zip(logprobs[1:], answer.weights[1:], strict=True):
            if weight and logprob is None:
                raise StageError(
                    f"Tinker returns no log-probabilities for the base model {self.model}"
                )
            total += weight * (logprob or 0.0)
        return total

    def submit(self, training: TrainingClient, rows: Sequence[int]) -> Awaitable[Any]:
        """Submit a forward pass, compute our loss, and submit a backward pass with its gradient.

        The SDK preserves the order.
        """
        answers = self._answers(rows)
        reference = [logprob for row in rows for logprob in self.reference[row]]

        def loss(_: list[Datum], logprobs: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
            import torch

            sums = [
                torch.dot(values, torch.tensor(answer.weights[1:], dtype=values.dtype))
                for values, answer in zip(logprobs, answers, strict=True)
            ]
            gains = torch.stack(sums) - torch.tensor(reference)
            return preference_loss(gains[0::2], gains[1::2], self.beta)

        return training.forward_backward_custom(data_of(answers), loss)

    def measured(self, rows: Sequence[int], result: Any) -> dict[str, float]:
        """The loss and ``MEASURES``."""
        return {name: _finite(result.metrics[name]) for name in ("loss", *MEASURES)}

    def used(self, rows: Sequence[int]) -> dict[str, int]:
        """The trained tokens. The forward pass of the loss reads them again."""
        tokens = sum(len(answer.tokens) - 1 for answer in self._answers(rows))
        return {"tokens": tokens, "forward": tokens}

    def _answers(self, rows: Iterable[int]) -> list[Example]:
        """The chosen and the rejected answer of each row, alternating."""
        return [
            answer for row in rows for answer in (self.pairs[row].chosen, self.pairs[row].rejected)
        ]


def preference_loss(
    chosen: Tensor, rejected: Tensor, beta: float
) -> tuple[Tensor, dict[str, float]]:
    """The loss of direct preference optimisation (arXiv:2305.18290, equation 7), and ``MEASURES``.

    ``chosen`` and ``rejected`` hold one number for each pair: the answer's log-probability minus
    its log-probability under the reference model. The loss is the mean of ``-log sigmoid(beta ·
    (chosen - rejected))``. An answer's reward is ``beta`` times its number. The margin is the
    difference of the two rewards. The accuracy is the fraction of pairs whose chosen answer has
    the higher reward.
    """
    from torch.nn.functional import logsigmoid

    margins = beta * (chosen - rejected)
    loss = -logsigmoid(margins).mean()
    measures = {
        "accuracy": (margins > 0).float().mean(),
        "margin": margins.mean(),
        "chosen_reward": beta * chosen.mean(),
        "rejected_reward": beta * rejected.mean(),
    }
    return loss, {name: float(value.detach()) for name, value in {"loss": loss, **measures}.items()}


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise StageError(f"training diverged: the loss is {value}")
    return value


async def _all(requests: Sequence[Awaitable[float]]) -> list[float]:
    """All results in order. The first request that fails cancels the others."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


_policies: WeakKeyDictionary[asyncio.AbstractEventLoop, Policy] = WeakKeyDictionary()


def _policy() -> Policy:
    """The retry policy that all requests of the running loop share."""
    loop = asyncio.get_running_loop()
    if loop not in _policies:
        _policies[loop] = Policy("Tinker", _failure_of, in_flight=IN_FLIGHT)
    return _policies[loop]


def _failure_of(error: BaseException) -> Failure | None:
    """How to retry ``error``. ``None``: the run handles it, for instance an expired session."""
    import tinker
    from tinker.types import RequestErrorCategory

    limited = isinstance(error, tinker.RateLimitError)
    failed = (
        isinstance(error, tinker.RequestFailedError)
        and error.category is RequestErrorCategory.Server
    )
    if (
        limited
        or failed
        or isinstance(error, tinker.APIConnectionError | tinker.InternalServerError)
    ):
        return Failure(one_line(error), again=True, limited=limited)
    return None
