"""The variance of a comparison, from what each run, item and cluster contributes to it.

``statistics`` says what the sum of the variances is. Here are its terms, their degrees of freedom,
and the effect that a variance can detect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

__all__ = [
    "Array",
    "Labels",
    "Part",
    "Share",
    "borrowed",
    "detected",
    "deviation",
    "floored",
    "shares_of",
    "squares",
    "total",
    "variance_of_sum",
]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Part:
    """What a cell contributes: ``values`` per label, and ``units`` for labels of variance 1.

    ``size`` is its effective number of labels.
    """

    labels: Labels
    values: Array
    units: Array
    size: float


@dataclass(frozen=True)
class Share:
    """The variance that linked cells contribute, on ``df`` degrees of freedom.

    It is ``unit`` times the variance of a single label.
    """

    variance: float
    unit: float
    df: float


def variance_of_sum(
    v_runs: float, runs_df: float, v_items: float, items_df: float, v_rest: float, rest_df: float
) -> tuple[float, float]:
    """V(runs) + V(items) - V(rest), both at least V(rest), with its degrees of freedom."""
    parts = [(v_runs, runs_df), (v_items, items_df)]
    kept = [(v, df) for v, df in parts if v > v_rest]
    times = 1 - len(kept)
    variance = sum(v for v, _ in kept) + times * v_rest
    doubt = sum(v**2 / df for v, df in kept) + (times * v_rest) ** 2 / max(rest_df, 1.0)
    return (variance, variance**2 / doubt) if doubt else (0.0, math.nan)


def shares_of(parts: Sequence[Part]) -> list[Share]:
    """The variance by groups of parts that share labels, directly or indirectly."""
    group, seen = list(range(len(parts))), dict[int, int]()

    def root(part: int) -> int:
        while group[part] != part:
            part = group[part]
        return part

    for number, part in enumerate(parts):
        for label in part.labels.tolist():
            group[root(number)] = root(seen.setdefault(label, number))
    members: dict[int, list[Part]] = {}
    for number, part in enumerate(parts):
        members.setdefault(root(number), []).append(part)
    return [
        Share(*squares(linked), min(part.size for part in linked) - 1)
        for linked in members.values()
    ]


def squares(parts: Sequence[Part]) -> tuple[float, float]:
    """The sum over labels of the squares of what each contributes; the same for the units."""
    if not parts:
        return 0.0, 0.0
    _, index = np.unique(np.concatenate([part.labels for part in parts]), return_inverse=True)
    values, units = (
        np.bincount(index, np.concatenate(arrays))
        for arrays in zip(*((p.values, p.units) for p in parts), strict=True)
    )
    return float(values @ values), float(units @ units)


def borrowed(shares: Sequence[Share]) -> list[Share]:
    """The shares, where a run without replications varies like those that have some.

    It gets their mean variance, weighted by df.
    """
    known = [share for share in shares if share.df > 0 and share.unit > 0]
    alone = sum(share.unit for share in shares if share.df <= 0)
    df = sum(share.df for share in known)
    rest = [share for share in shares if share.df > 0 and share.unit <= 0]
    return rest + [
        Share(share.variance * (1 + alone * share.df / (df * share.unit)), share.unit, share.df)
        for share in known
    ]


def floored(share: Share) -> Share:
    """The variance, but at least 2/(n + 2)²: as if one more item were won and one lost.

    This is the variance of the interval of Bonett & Price (2012, J. Educ. Behav. Stat. 37:479) if
    right and wrong answers are the same on both sides. So n right answers out of n have an
    uncertainty of about 3/n, as they should, and not of 0.
    """
    n = share.df + 1
    return Share(max(share.variance, share.unit * 2 * n / (n + 2) ** 2), share.unit, share.df)


def total(shares: Iterable[Share]) -> tuple[float, float]:
    """The sum of the variances and its degrees of freedom (Satterthwaite 1946).

    A group of one has no degrees of freedom, and contributes nothing.
    """
    known = [share for share in shares if share.df > 0]
    variance = sum(share.variance for share in known)
    doubt = sum(share.variance**2 / share.df for share in known)
    return variance, (variance**2 / doubt if doubt else math.nan)


def deviation(variance: float, unit: float) -> float | None:
    """The standard deviation of a single label, or ``None`` if no label contributes."""
    return math.sqrt(max(variance, 0.0) / unit) if unit > 0 else None


def detected(variance: float, df: float, alpha: float, power: float) -> float:
    """The difference that is detected with this ``power`` at level ``alpha`` (two-sided).

    It is (t(1 - alpha/2) + t(power)) standard errors (Bloom 1995, Eval. Rev. 19:547).
    """
    return (
        math.sqrt(variance) * float(stdtrit(df, 1 - alpha / 2) + stdtrit(df, power))
        if variance
        else 0.0
    )
