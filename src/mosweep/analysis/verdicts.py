"""Verdicts on comparisons, with adjusted p values and differences between blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import fdtrc

from mosweep.analysis.statistics import Comparison

__all__ = ["NOT_DECISIVE", "heterogeneity", "holm", "verdict"]

NOT_DECISIVE = "not decisive"


def heterogeneity(blocks: Sequence[Comparison]) -> float:
    """P value of the same difference in all ``blocks`` (Welch 1951, Biometrika 38:330).

    It is NaN if there is one block, or nothing varies. Blocks count as independent. If they share
    items, a true difference between blocks is harder to detect, never easier.
    """
    if len(blocks) < 2 or not all(block.se > 0 for block in blocks):
        return math.nan
    k = len(blocks)
    estimates, df = (
        np.array([block.estimate for block in blocks]),
        np.array([block.df for block in blocks]),
    )
    weights = np.array([block.se**-2 for block in blocks])
    mean = weights @ estimates / weights.sum()
    slack = float(((1 - weights / weights.sum()) ** 2 / df).sum())
    ratio = weights @ (estimates - mean) ** 2 / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * slack)
    return float(fdtrc(k - 1, (k**2 - 1) / (3 * slack), ratio))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979, Scand. J. Stat. 6:65).

    The chance of any false positive in the family stays alpha. NaN stays NaN and does not count.
    """
    adjusted, least = np.array(p_values, dtype=float), 0.0
    order = np.argsort(adjusted)[: np.isfinite(adjusted).sum()]  # NaN comes last.
    for rank, index in enumerate(order):
        adjusted[index] = least = max(least, min(1.0, (len(order) - rank) * adjusted[index]))
    return [float(p) for p in adjusted]


def verdict(
    comparison: Comparison,
    *,
    p_holm: float,
    p_equivalence: float = math.nan,
    delta: float | None = None,
    alpha: float = 0.05,
    one_seed: bool = False,
) -> str:
    """``increase``, ``decrease``, ``equivalent within <delta>`` or ``not decisive``.

    ``not decisive`` has a reason if these data cannot decide at all. With ``one_seed``, one seed on
    each side is enough: the verdict is then about these runs, not about others.
    """
    if comparison.clusters < 2:
        return f"{NOT_DECISIVE}: one item"
    if not (comparison.replicated or one_seed):
        return f"{NOT_DECISIVE}: one seed"
    if not comparison.se:
        return f"{NOT_DECISIVE}: nothing varies"
    if p_holm < alpha:
        return "increase" if comparison.estimate > 0 else "decrease"
    return (
        f"equivalent within {delta:g}"
        if delta is not None and p_equivalence < alpha
        else NOT_DECISIVE
    )
