"""How much more one level scores than another, with the uncertainty over items and seeds.

In a block (say, one model and one data set) the score of item i in run s at level c is ``level +
run + item + level × item + rest``. A run is a fine-tune with its own seed. Runs and items are
random samples, and they are crossed: every run answers every item. Blocks are fixed: the result is
about these blocks, each with the same weight.

The estimate is the mean over blocks of the difference between the levels' means. V(runs), V(items)
and V(rest) are the sums of squares of what each run, each item (or cluster of items) and each item
in each run contribute to it. The variance of the estimate is V(runs) + V(items) - V(rest), because
both other terms contain the rest. This is two-way clustering (Cameron, Gelbach & Miller 2011, J.
Bus. Econ. Stat. 29:238). In balanced data it equals the mean squares of crossed random factors
(Cornfield & Tukey 1956, Ann. Math. Stat. 27:907). As no variance is negative, V(runs) and V(items)
count as at least V(rest).

Degrees of freedom are Satterthwaite's (1946, Biometrics Bull. 2:110) for the terms in the sum; for
the runs this is Welch's formula. So without item effects this is Welch's t test of the runs' means,
and with one run on each side it is the paired t test over items.

``python -m benchmarks.calibration`` measures how often the 95 % intervals contain the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from mosweep.analysis.variance import (
    Array,
    Labels,
    Part,
    borrowed,
    detected,
    deviation,
    floored,
    shares_of,
    squares,
    total,
    variance_of_sum,
)

__all__ = ["Comparison", "Components", "Scores", "compare", "paired"]


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one level in one block: ``values`` of runs × items, NaN where one is missing.

    Labels are whole numbers from 0. The same label means the same thing in every block.

    - ``items``: of each column; by default its number.
    - ``clusters``: of each column, such as items about the same text; by default each item is one.
    - ``runs``: of each row. Evaluations of one fine-tune are one run; by default all differ.
    - ``fixed``: this is the only possible run, such as an untouched base model.
    """

    values: Array
    items: Labels | None = None
    clusters: Labels | None = None
    runs: Labels | None = None
    fixed: bool = False

    def _complete(self) -> Scores:
        """The runs with any score, the items that all of them scored, and all labels."""
        values = np.asarray(self.values, dtype=float)
        there = np.isfinite(values)
        rows = there.any(axis=1)
        columns = there[rows].all(axis=0) if rows.any() else np.zeros(values.shape[1], bool)
        items = np.arange(values.shape[1]) if self.items is None else np.asarray(self.items)
        clusters = items if self.clusters is None else np.asarray(self.clusters)
        runs = None if self.runs is None else np.asarray(self.runs)[rows]
        return Scores(values[rows][:, columns], items[columns], clusters[columns], runs, self.fixed)

    def _at(self, columns: Labels) -> Scores:
        assert self.items is not None and self.clusters is not None
        return Scores(
            self.values[:, columns],
            self.items[columns],
            self.clusters[columns],
            self.runs,
            self.fixed,
        )


@dataclass(frozen=True)
class Components:
    """Standard deviations, in units of the score; ``None`` if the data cannot show them.

    ``runs``: between runs of one level. ``items``: between items, of the difference of the levels.
    ``rest``: of a single score.
    """

    runs: float | None
    items: float | None
    rest: float | None


@dataclass(frozen=True)
class Comparison:
    """The difference of two levels, in units of the score.

    If nothing varies, ``se`` is 0 and ``df`` NaN. ``runs`` are the fewest in a block, on either
    side. ``items`` and ``clusters`` count different ones. ``paired``: both sides scored the same
    items. ``replicated``: a level has several runs. ``blocks`` are the comparisons in each block.
    """

    estimate: float
    means: tuple[float, float]
    se: float
    df: float
    components: Components
    runs: tuple[int, int]
    items: int
    clusters: int
    paired: bool
    replicated: bool
    blocks: tuple[Comparison, ...] = field(default=(), repr=False)

    @property
    def p(self) -> float:
        """Two-sided p value of no difference; NaN if nothing varies."""
        return float(2 * stdtr(self.df, -abs(self.estimate) / self.se)) if self.se else math.nan

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval; NaN if nothing varies."""
        half = self.se * float(stdtrit(self.df, (1 + level) / 2)) if self.se else math.nan
        return self.estimate - half, self.estimate + half

    def p_equivalence(self, delta: float) -> float:
        """P value of a difference of ``delta`` or more.

        It is that of two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657).
        """
        return (
            float(stdtr(self.df, (abs(self.estimate) - delta) / self.se)) if self.se else math.nan
        )

    def minimum_effect(self, alpha: float = 0.05, power: float = 0.8) -> float:
        """The difference that data like these would detect with this ``power``."""
        return detected(self.se**2, self.df, alpha, power) if self.se else math.nan


def paired(low: Scores, high: Scores) -> tuple[Scores, Scores]:
    """Both sides on the items that every run of both scored.

    Pairing removes the items' difficulty (Miller 2024, arXiv:2411.00640, section 4). Sides without
    a common item stay as they are, and are compared as independent samples.
    """
    low, high = low._complete(), high._complete()
    assert low.items is not None and high.items is not None
    common, first, second = np.intersect1d(
        low.items, high.items, assume_unique=True, return_indices=True
    )
    return (low._at(first), high._at(second)) if len(common) else (low, high)


def compare(blocks: Sequence[tuple[Scores, Scores]]) -> Comparison:
    """How much more the second of each pair scores than the first, averaged over ``blocks``.

    Every block needs a score on either side.
    """
    pairs = [paired(low, high) for low, high in blocks]
    if not pairs or any(0 in side.values.shape for pair in pairs for side in pair):
        raise ValueError("every block needs a run on either side that scored an item")
    whole = _compare(pairs)
    return replace(
        whole, blocks=tuple(_compare([pair]) for pair in pairs) if len(pairs) > 1 else (whole,)
    )


def _compare(pairs: Sequence[tuple[Scores, Scores]]) -> Comparison:
    cells = [
        (side, sign / len(pairs))
        for pair in pairs
        for side, sign in zip(pair, (-1, 1), strict=True)
    ]
    low, high = (
        sum((abs(weight) * float(side.values.mean()) for side, weight in cells[start::2]), 0.0)
        for start in (0, 1)
    )
    variance, df, components, replicated = _variance(cells)
    every = [
        np.unique(np.concatenate([getattr(side, name) for side, _ in cells]))
        for name in ("items", "clusters")
    ]
    return Comparison(
        estimate=high - low,
        means=(low, high),
        se=math.sqrt(variance),
        df=df,
        components=components,
        runs=(min(len(one.values) for one, _ in pairs), min(len(one.values) for _, one in pairs)),
        items=len(every[0]),
        clusters=len(every[1]),
        paired=all(
            np.array_equal(one.items, other.items)
            for one, other in pairs
            if one.items is not None and other.items is not None
        ),
        replicated=replicated,
    )


def _variance(
    cells: Sequence[tuple[Scores, float]],
) -> tuple[float, float, Components, bool]:
    """The variance of the weighted sum of ``cells``.

    Also its degrees of freedom, its components, and whether a level has several runs.
    """
    runs, items, rest, rest_df = _contributions(cells)
    per_run, per_item = shares_of(runs), shares_of(items)
    if all(np.isin(side.values, (0.0, 0.5, 1.0)).all() for side, _ in cells):
        per_item = [floored(share) for share in per_item]
    v_rest, rest_unit = squares(rest)
    v_runs, runs_df = total(borrowed(per_run))
    v_items, items_df = total(per_item)
    variance, df = variance_of_sum(v_runs, runs_df, v_items, items_df, v_rest, rest_df)
    if variance <= (1e-9 * max(float(np.abs(side.values).max()) for side, _ in cells)) ** 2:
        variance, df = 0.0, math.nan  # Only rounding errors.
    replicated = any(share.df > 0 for share in per_run)
    components = Components(
        deviation(v_runs - v_rest, sum(share.unit for share in per_run)) if replicated else None,
        deviation(v_items - v_rest, sum(share.unit for share in per_item)),
        deviation(v_rest, rest_unit) if replicated else None,
    )
    return variance, df, components, replicated


def _contributions(
    cells: Sequence[tuple[Scores, float]],
) -> tuple[list[Part], list[Part], list[Part], float]:
    """What runs, items and the rest contribute in each cell; the rest's degrees of freedom."""
    stride = 1 + max(int(side.clusters.max()) for side, _ in cells if side.clusters is not None)
    runs, items, rest, unnamed, rest_df = list[Part](), list[Part](), list[Part](), 0, 0.0
    for side, weight in cells:
        assert side.clusters is not None
        values, (n, m) = side.values, side.values.shape
        clusters, index, sizes = np.unique(side.clusters, return_inverse=True, return_counts=True)
        by_run, by_item, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
        k = len(clusters)
        # Deviations from the mean of n values are too small by this factor.
        few_runs, few_items = math.sqrt(n / max(n - 1, 1)), math.sqrt(k / max(k - 1, 1))
        # Clusters of unequal size count as fewer (Kish 1965, Survey Sampling).
        effective = m**2 / float(sizes @ sizes)
        by_cluster = np.bincount(index, by_item - mean)
        items.append(
            Part(
                clusters,
                weight * few_items / m * by_cluster,
                abs(weight) / 2 / m * sizes,
                effective,
            )
        )
        if side.fixed:
            continue
        labels = side.runs if side.runs is not None else -1 - np.arange(unnamed, unnamed + n)
        unnamed += n
        runs.append(
            Part(labels, weight * few_runs / n * (by_run - mean), np.full(n, weight / n), n)
        )
        left = np.zeros((k, n))
        np.add.at(left, index, (values - by_run[:, None] - by_item + mean).T)
        both = (labels * stride + clusters[:, None]).ravel()
        rest.append(
            Part(
                both,
                weight * few_runs * few_items / (n * m) * left.ravel(),
                np.full(k * n, weight / n / k),
                0,
            )
        )
        rest_df += (n - 1) * (effective - 1)
    return runs, items, rest, rest_df
