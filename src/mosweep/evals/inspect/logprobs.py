"""Log-probabilities of generated tokens, taken from the model's own logits.

They are those of the model, before temperature, ``top_p`` and ``top_k``. Only the most likely
tokens of each step are kept, because all logits of a long completion do not fit into memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Recording", "TokenLogprob", "recorded"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log-probability, and the most likely tokens at its place, best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Recording:
    """Records each step of ``model.generate``: a hook of the model, and a stopping criterion."""

    def __init__(self, top: int) -> None:
        self.top = top
        self._latest: Any = None
        self._steps: list[tuple[Any, Any, Any, Any]] = []

    def see(self, module: Any, arguments: Any, output: Any) -> None:
        """Note the distribution of the next token: a forward hook."""
        import torch

        self._latest = torch.log_softmax(output.logits[:, -1].float(), dim=-1)

    def __call__(self, ids: Any, scores: Any, **options: Any) -> Any:
        """Note which token was chosen. Never stops a completion."""
        import torch

        chosen = ids[:, -1:]
        values, tokens = self._latest.topk(min(self.top, self._latest.shape[-1]), dim=-1)
        step = (chosen[:, 0], self._latest.gather(1, chosen)[:, 0], tokens, values)
        self._steps.append(tuple(part.cpu() for part in step))
        return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

    def row(self, index: int, count: int, tokenizer: Any) -> tuple[TokenLogprob, ...]:
        """The first ``count`` tokens of a completion of the batch."""
        return tuple(
            TokenLogprob(
                tokenizer.decode([int(chosen[index])]),
                float(logprob[index]),
                tuple(
                    (tokenizer.decode([token]), value)
                    for token, value in zip(
                        tokens[index].tolist(), values[index].tolist(), strict=True
                    )
                ),
            )
            for chosen, logprob, tokens, values in self._steps[:count]
        )


@contextlib.contextmanager
def recorded(model: Any, top: int | None) -> Iterator[Recording | None]:
    """Record ``model.generate`` with the ``top`` most likely tokens. ``None`` records nothing."""
    if top is None:
        yield None
        return
    recording = Recording(top)
    handle = model.register_forward_hook(recording.see)
    try:
        yield recording
    finally:
        handle.remove()
