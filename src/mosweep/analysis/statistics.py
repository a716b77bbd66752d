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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

__all__ = [
    "Comparison",
    "Components",
    "Scores",
    "compare",
    "detected",
    "paired",
    "variance_of_sum",
]

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one level in one block: ``values`` of runs × items, NaN where there is none.

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


# -- the variance ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    """What a cell contributes: ``values`` per label, and ``units`` for labels of variance 1.

    ``size`` is its effective number of labels.
    """

    labels: Labels
    values: Array
    units: Array
    size: float


@dataclass(frozen=True)
class _Share:
    """The variance that linked cells contribute, on ``df`` degrees of freedom.

    It is ``unit`` times the variance of a single label.
    """

    variance: float
    unit: float
    df: float


def _compare(pairs: Sequence[tuple[Scores, Scores]]) -> Comparison:
    cells = [
        (side, sign / len(pairs))
        for pair in pairs
        for side, sign in zip(pair, (-1, 1), strict=True)
    ]
    stride = 1 + max(int(side.clusters.max()) for side, _ in cells if side.clusters is not None)
    runs, items, rest, unnamed = [], [], [], 0
    means, rest_df = {-1: 0.0, 1: 0.0}, 0.0
    for side, weight in cells:
        assert side.clusters is not None
        values, (n, m) = side.values, side.values.shape
        clusters, index, sizes = np.unique(side.clusters, return_inverse=True, return_counts=True)
        by_run, by_item, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
        means[1 if weight > 0 else -1] += abs(weight) * float(mean)
        k = len(clusters)
        few_runs, few_items = (
            math.sqrt(n / max(n - 1, 1)),
            math.sqrt(k / max(k - 1, 1)),
        )  # deviations from a mean of n are that much too small
        # Kish 1965, Survey Sampling: clusters of unequal size count as fewer
        effective = m**2 / float(sizes @ sizes)
        by_cluster = np.bincount(index, by_item - mean)
        items.append(
            _Part(
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
            _Part(labels, weight * few_runs / n * (by_run - mean), np.full(n, weight / n), n)
        )
        left = np.zeros((k, n))
        np.add.at(left, index, (values - by_run[:, None] - by_item + mean).T)
        both = (labels * stride + clusters[:, None]).ravel()
        rest.append(
            _Part(
                both,
                weight * few_runs * few_items / (n * m) * left.ravel(),
                np.full(k * n, weight / n / k),
                0,
            )
        )
        rest_df += (n - 1) * (effective - 1)
    per_run, per_item = _shares(runs), _shares(items)
    if all(np.isin(side.values, (0.0, 0.5, 1.0)).all() for side, _ in cells):
        per_item = [_floored(share) for share in per_item]
    v_rest, rest_unit = _squares(rest)
    v_runs, runs_df = _total(_borrowed(per_run))
    v_items, items_df = _total(per_item)
    variance, df = variance_of_sum(v_runs, runs_df, v_items, items_df, v_rest, rest_df)
    if variance <= (1e-9 * max(float(np.abs(side.values).max()) for side, _ in cells)) ** 2:
        variance, df = 0.0, math.nan  # nothing but rounding
    replicated = any(share.df > 0 for share in per_run)
    components = Components(
        _deviation(v_runs - v_rest, sum(share.unit for share in per_run)) if replicated else None,
        _deviation(v_items - v_rest, sum(share.unit for share in per_item)),
        _deviation(v_rest, rest_unit) if replicated else None,
    )
    fewest = (min(len(low.values) for low, _ in pairs), min(len(high.values) for _, high in pairs))
    every = [
        np.unique(np.concatenate([getattr(side, name) for side, _ in cells]))
        for name in ("items", "clusters")
    ]
    same = all(
        np.array_equal(low.items, high.items)
        for low, high in pairs
        if low.items is not None and high.items is not None
    )
    return Comparison(
        estimate=means[1] - means[-1],
        means=(means[-1], means[1]),
        se=math.sqrt(variance),
        df=df,
        components=components,
        runs=fewest,
        items=len(every[0]),
        clusters=len(every[1]),
        paired=same,
        replicated=replicated,
    )


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


def _shares(parts: Sequence[_Part]) -> list[_Share]:
    """The variance by groups of parts that share labels, directly or indirectly."""
    group, seen = list(range(len(parts))), dict[int, int]()

    def root(part: int) -> int:
        while group[part] != part:
            part = group[part]
        return part

    for number, part in enumerate(parts):
        for label in part.labels.tolist():
            group[root(number)] = root(seen.setdefault(label, number))
    members: dict[int, list[_Part]] = {}
    for number, part in enumerate(parts):
        members.setdefault(root(number), []).append(part)
    return [
        _Share(*_squares(linked), min(part.size for part in linked) - 1)
        for linked in members.values()
    ]


def _squares(parts: Sequence[_Part]) -> tuple[float, float]:
    """The sum over labels of the squares of what each contributes; the same for the units."""
    if not parts:
        return 0.0, 0.0
    _, index = np.unique(np.concatenate([part.labels for part in parts]), return_inverse=True)
    values, units = (
        np.bincount(index, np.concatenate(arrays))
        for arrays in zip(*((p.values, p.units) for p in parts), strict=True)
    )
    return float(values @ values), float(units @ units)


def _borrowed(shares: Sequence[_Share]) -> list[_Share]:
    """The shares, where a run without replications varies like those that have some.

    It gets their mean variance, weighted by df.
    """
    known = [share for share in shares if share.df > 0 and share.unit > 0]
    alone = sum(share.unit for share in shares if share.df <= 0)
    df = sum(share.df for share in known)
    rest = [share for share in shares if share.df > 0 and share.unit <= 0]
    return rest + [
        _Share(share.variance * (1 + alone * share.df / (df * share.unit)), share.unit, share.df)
        for share in known
    ]


def _floored(share: _Share) -> _Share:
    """The variance, but at least 2/(n + 2)²: as if one more item were won and one lost.

    This is the variance of the interval of Bonett & Price (2012, J. Educ. Behav. Stat. 37:479) if
    right and wrong answers are the same on both sides. So n right answers out of n have an
    uncertainty of about 3/n, as they should, and not of 0.
    """
    n = share.df + 1
    return _Share(max(share.variance, share.unit * 2 * n / (n + 2) ** 2), share.unit, share.df)


def _total(shares: Iterable[_Share]) -> tuple[float, float]:
    """The sum of the variances and its degrees of freedom (Satterthwaite 1946).

    A group of one has no degrees of freedom, and contributes nothing.
    """
    known = [share for share in shares if share.df > 0]
    variance = sum(share.variance for share in known)
    doubt = sum(share.variance**2 / share.df for share in known)
    return variance, (variance**2 / doubt if doubt else math.nan)


def _deviation(variance: float, unit: float) -> float | None:
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
