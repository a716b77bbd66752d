"""What the steps of a run on Tinker make smaller: the loss of answers to be copied, or of answers
to be preferred.
"""

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
from mosweep.core.providers import Policy, Trouble

if TYPE_CHECKING:
    from tinker import Datum, SamplingClient, ServiceClient, TrainingClient
    from torch import Tensor

__all__ = ["MEASURES", "Copying", "Objective", "Preferring", "preference_loss"]

#: What a step of preferences tells beside its loss.
MEASURES = ("accuracy", "margin", "chosen_reward", "rejected_reward")
#: Questions for reference log-probabilities under way at a time in this process, and pairs after
#: whose answers these are noted.
IN_FLIGHT, PORTION = 64, 128


class Objective(Protocol):
    """The data of a run and its loss; ``rows`` are places in the data."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    async def prepare(self, client: ServiceClient, rows: Iterable[int]) -> None:
        """Ask for what has to be known before ``rows`` can be trained on."""
        ...

    def submit(self, training: TrainingClient, rows: Sequence[int]) -> Awaitable[Any]:
        """Hand in the gradient of a step on ``rows``."""
        ...

    def measured(self, rows: Sequence[int], result: Any) -> dict[str, float]:
        """The ``loss`` of the step with this result, and what else it tells."""
        ...

    def used(self, rows: Sequence[int]) -> dict[str, int]:
        """The step's ``tokens`` trained on, and those that it took a ``forward`` pass of."""
        ...


@dataclass(frozen=True)
class Copying:
    """Supervised: the mean negative log-probability of a step's trained tokens."""

    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    async def prepare(self, client: ServiceClient, rows: Iterable[int]) -> None:
        """Nothing has to be known."""

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
        """What Tinker takes for training."""
        return {"tokens": sum(len(self.examples[row].tokens) - 1 for row in rows)}


@dataclass(frozen=True)
class Preferring:
    """Direct preference optimisation by ``preference_loss``, against what the untouched ``model``
    says of the same answers.

    ``reference``: that model's log-probabilities of both answers, by row, as far as they are known;
    what is asked for goes to ``note``.
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
        """Ask for the reference of every row once."""
        missing = sorted(set(rows) - self.reference.keys())
        if not missing:
            return
        print(f"asking the untouched {self.model} for both answers of {len(missing)} pairs")
        sampler = await self.service.wait(client.create_sampling_client(base_model=self.model))
        for start in range(0, len(missing), PORTION):
            portion = missing[start : start + PORTION]
            answers = self._answers(portion)
            found = await self.service.wait(
                _all([self._ask(sampler, answer) for answer in answers])
            )
            known = dict(zip(portion, zip(found[0::2], found[1::2], strict=True), strict=True))
            self.reference.update(known)
            forward = sum(len(answer.tokens) for answer in answers)
            self.note(
                "reference",
                pairs=[[row, *both] for row, both in known.items()],
                forward=forward,
                sampled=len(answers),
            )

    async def _ask(self, sampler: SamplingClient, answer: Example) -> float:
        from tinker import ModelInput

        tokens = ModelInput.from_ints(list(answer.tokens))
        logprobs = await _policy().call(
            "asking for log-probabilities",
            lambda: sampler.compute_logprobs(tokens),
            patience_s=self.service.patience_s,
        )
        total = 0.0
        for logprob, weight in zip(logprobs[1:], answer.weights[1:], strict=True):
            if weight and logprob is None:
                raise StageError(
                    f"Tinker does not tell the log-probabilities that the untouched {self.model} "
                    "gives"
                )
            total += weight * (logprob or 0.0)
        return total

    def submit(self, training: TrainingClient, rows: Sequence[int]) -> Awaitable[Any]:
        """A forward pass, our loss of what it gives, and a forward and backward pass with the
        loss's gradient. The SDK keeps the order.
        """
        answers, reference = (
            self._answers(rows),
            [logprob for row in rows for logprob in self.reference[row]],
        )

        def loss(_: list[Datum], logprobs: list[Tensor]) -> tuple[Tensor, dict[str, float]]:
            import torch

            ours = [
                torch.dot(found, torch.tensor(answer.weights[1:], dtype=found.dtype))
                for found, answer in zip(logprobs, answers, strict=True)
            ]
            gains = torch.stack(ours) - torch.tensor(reference)
            return preference_loss(gains[0::2], gains[1::2], self.beta)

        return training.forward_backward_custom(data_of(answers), loss)

    def measured(self, rows: Sequence[int], result: Any) -> dict[str, float]:
        """The loss and ``MEASURES``."""
        return {name: _finite(result.metrics[name]) for name in ("loss", *MEASURES)}

    def used(self, rows: Sequence[int]) -> dict[str, int]:
        """What Tinker takes for training, and before that for the forward pass of the loss."""
        tokens = sum(len(answer.tokens) - 1 for answer in self._answers(rows))
        return {"tokens": tokens, "forward": tokens}

    def _answers(self, rows: Iterable[int]) -> list[Example]:
        """Chosen and rejected answers in turn."""
        return [
            answer for row in rows for answer in (self.pairs[row].chosen, self.pairs[row].rejected)
        ]


def preference_loss(
    chosen: Tensor, rejected: Tensor, beta: float
) -> tuple[Tensor, dict[str, float]]:
    """The loss of direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, equation
    7), and ``MEASURES``.

    ``chosen`` and ``rejected``: by how much more log-probability each answer has than under the
    reference model, one number a pair. The loss is the mean of ``-log sigmoid(beta · (chosen -
    rejected))``; ``beta`` times each is its reward, the difference of rewards the margin, and the
    accuracy is the part of the pairs whose chosen answer has the higher reward.
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


async def _all(questions: Sequence[Awaitable[float]]) -> list[float]:
    """Every answer; the first question that fails ends the others."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


_policies: WeakKeyDictionary[asyncio.AbstractEventLoop, Policy] = WeakKeyDictionary()


def _policy() -> Policy:
    """The policy that all questions of the running loop share."""
    loop = asyncio.get_running_loop()
    if loop not in _policies:
        _policies[loop] = Policy("Tinker", _trouble_of, in_flight=IN_FLIGHT)
    return _policies[loop]


def _trouble_of(error: BaseException) -> Trouble | None:
    """What may pass; anything else (a session that is gone, say) is for the run to deal with."""
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
        return Trouble(one_line(error), again=True, limited=limited)
    return None
