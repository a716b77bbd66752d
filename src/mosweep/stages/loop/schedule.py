"""The learning rate over a run: linear warm-up, then a cosine down to a floor (Loshchilov and
Hutter 2017, arXiv:1608.03983).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """A run of ``total_steps`` optimizer steps whose learning rate climbs to ``peak`` in
    ``warmup_steps`` and then falls to ``min_lr``.

    Step t, counting from 1, has ``peak · t/w`` for t ≤ w = ``warmup_steps``, else ``min_lr + (peak
    - min_lr) · (1 + cos(π p))/2`` with p = (t - 1 - w)/(T - w) and T = ``total_steps``: the last
    step of the warm-up and the first after it have ``peak``, no step has less than ``min_lr`` after
    the warm-up, and none has 0. Past its end the schedule stays at ``min_lr``.
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
