"""The learning rate over a run: linear warm-up, then cosine decay to a floor.

Source: Loshchilov and Hutter 2017, arXiv:1608.03983.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Learning rates that rise to ``peak`` in ``warmup_steps`` and then fall to ``min_lr``.

    With w = ``warmup_steps`` and T = ``total_steps``, step t (counting from 1) has ``peak · t/w``
    for t ≤ w. Later steps have ``min_lr + (peak - min_lr) · (1 + cos(π p))/2`` with
    p = (t - 1 - w)/(T - w). The last step of the warm-up and the first after it have ``peak``. No
    step has 0, and none after the warm-up is below ``min_lr``. Past step T the schedule stays at
    ``min_lr``.
    """

    peak: float
    min_lr: float = 0.0
    warmup_steps: int = 0
    total_steps: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.min_lr <= self.peak
        assert 0 <= self.warmup_steps < self.total_steps

    def lr(self, step: int) -> float:
        """The learning rate of the step number ``step``, counting from 1."""
        assert step >= 1
        if step <= self.warmup_steps:
            return self.peak * step / self.warmup_steps
        progress = min(1.0, (step - 1 - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.min_lr + (self.peak - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2
