"""The effects of a sweep's treatments: an interval, a p value and a verdict for each contrast.

``statistics`` has the formulas. It and numpy are loaded when effects are computed, not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mosweep.analysis.comparisons import Compared, compare_levels
from mosweep.analysis.contrasts import CONTROL, Contrast, contrasts_of, with_bundles
from mosweep.analysis.scores import FactoredSweep
from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.results import SweepResult
from mosweep.core.table import some_of

if TYPE_CHECKING:
    from mosweep.analysis.statistics import Comparison, Components

__all__ = ["BlockEffect", "Effect", "effects", "effects_data"]


@dataclass(frozen=True)
class BlockEffect:
    """The effect in one block alone, for instance at ``model=tiny``; ``seeds`` on either side."""

    name: str
    estimate: float
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    seeds: tuple[int, int]
    items: int


@dataclass(frozen=True)
class Effect:
    """The effect of a contrast. A number that cannot be computed is ``None``; ``notes`` say why.

    - ``means``: of base and level. ``estimate``: their difference, averaged over ``blocks``.
    - ``low`` and ``high``: the confidence interval of the estimate, at ``level``.
    - ``p_holm``, ``p_equivalence``: adjusted for all effects that are computed together. The second
      is of a difference within ``delta``.
    - ``mde``: the smallest difference that would be detected 4 times in 5.
    - ``seeds``: the fewest in a block, on either side.
    - ``heterogeneity``: p value of the same effect in all blocks.
    - ``spread``: the standard deviations between seeds, items and single scores.

    Scores, differences and standard deviations are in units of the metric.
    """

    contrast: Contrast
    metric: str
    verdict: str
    level: float
    means: tuple[float, float] | None = None
    estimate: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    df: float | None = None
    p: float | None = None
    p_holm: float | None = None
    delta: float | None = None
    p_equivalence: float | None = None
    mde: float | None = None
    seeds: tuple[int, int] = (0, 0)
    items: int = 0
    clusters: int = 0
    paired: bool = True
    blocks: tuple[BlockEffect, ...] = ()
    heterogeneity: float | None = None
    spread: Components | None = None
    notes: tuple[str, ...] = ()


def effects(
    result: SweepResult,
    contrasts: Any = None,
    delta: float | None = None,
    level: float = 0.95,
    *,
    cluster: str | None = None,
    one_seed: bool = False,
) -> list[Effect]:
    """The effects of ``contrasts``: ``Contrast`` objects, or what ``contrasts_of`` reads.

    By default they are those of the design, or else all. They form one family: all verdicts hold
    together at ``level``. ``delta`` (by default the design's) and ``cluster`` are for contrasts
    that set none. With ``one_seed``, a single seed is enough for a verdict. The notes say what
    failed or is missing.

    Raises ``ConfigError`` for contrasts and metrics that the sweep does not have, ``CorruptRecord``
    for samples that cannot be read.
    """
    if not 0 < level < 1:
        raise ConfigError("level", level, "must be between 0 and 1, such as 0.95")
    if delta is not None and not delta > 0:
        raise ConfigError("delta", delta, "must be > 0")
    try:
        from mosweep.analysis.verdicts import holm
    except ImportError as error:
        raise MissingExtra(error.name or "scipy", "reports", "the statistics of effects") from error

    result = with_bundles(result)
    sweep = FactoredSweep(result)
    delta = delta or result.design.get("delta")
    given = contrasts if contrasts is not None else result.design.get("contrasts")
    compared = []
    for contrast in contrasts_of(given, sweep.treatments, control=bool(result.controls)):
        contrast = replace(
            contrast, delta=contrast.delta or delta, cluster=contrast.cluster or cluster
        )
        for metric in sweep.metrics(contrast.metric or result.design.get("primary_metric")):
            compared.append(compare_levels(sweep, contrast, metric))
    p_values = holm([one.p for one in compared])
    margins = holm([one.p_equivalence for one in compared])
    return [
        _effect(one, p, margin, level, one_seed)
        for one, p, margin in zip(compared, p_values, margins, strict=True)
    ]


def effects_data(effects: Iterable[Effect]) -> list[dict[str, Any]]:
    """The effects as JSON-able data."""
    return [{"name": str(effect.contrast), **asdict(effect)} for effect in effects]


def _effect(
    compared: Compared, p_holm: float, margin: float, level: float, one_seed: bool
) -> Effect:
    from mosweep.analysis.verdicts import NOT_DECISIVE, heterogeneity, verdict

    comparison, delta, alpha = compared.comparison, compared.contrast.delta, 1 - level
    if comparison is None:
        decided = f"{NOT_DECISIVE}: no results"
        return Effect(
            compared.contrast,
            compared.metric,
            decided,
            level,
            delta=delta,
            notes=tuple(compared.notes),
        )
    decided = verdict(
        comparison, p_holm=p_holm, p_equivalence=margin, delta=delta, alpha=alpha, one_seed=one_seed
    )
    differ = heterogeneity(comparison.blocks)
    low, high = comparison.interval(level)
    return Effect(
        contrast=compared.contrast,
        metric=compared.metric,
        verdict=decided,
        level=level,
        means=comparison.means,
        estimate=comparison.estimate,
        se=comparison.se,
        low=_finite(low),
        high=_finite(high),
        df=_finite(comparison.df),
        p=_finite(comparison.p),
        p_holm=_finite(p_holm),
        delta=delta,
        p_equivalence=_finite(margin),
        mde=_finite(comparison.minimum_effect(alpha)),
        seeds=comparison.runs,
        items=comparison.items,
        clusters=comparison.clusters,
        paired=comparison.paired,
        blocks=tuple(
            _block(name, block, level)
            for name, block in zip(compared.blocks, comparison.blocks, strict=True)
        ),
        heterogeneity=_finite(differ),
        spread=comparison.components,
        notes=(*compared.notes, *_remarks(compared, comparison, decided, margin, differ, alpha)),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _block(name: str, comparison: Comparison, level: float) -> BlockEffect:
    low, high = comparison.interval(level)
    return BlockEffect(
        name,
        comparison.estimate,
        comparison.se,
        _finite(low),
        _finite(high),
        _finite(comparison.p),
        comparison.runs,
        comparison.items,
    )


def _remarks(
    compared: Compared,
    comparison: Comparison,
    decided: str,
    margin: float,
    differ: float,
    alpha: float,
) -> Iterable[str]:
    """Caveats to the numbers."""
    contrast = compared.contrast
    if not comparison.replicated:
        yield (
            "one seed: the interval covers items only and does not say what another fine-tune "
            "would score"
        )
    elif min(comparison.runs[contrast.factor == CONTROL :]) < 3:  # A control has only one run.
        yield "fewer than three seeds on a side: the interval is rough"
    if not comparison.se:
        yield "every difference is the same, so there is no variance to test against"
    if 1 < comparison.clusters < 20:
        units = "items" if comparison.clusters == comparison.items else "clusters of items"
        yield f"only {comparison.clusters} {units}: the interval is rough"
    if not comparison.paired:
        yield "not paired: the two sides have no item in common"
    if contrast.delta and decided in ("increase", "decrease") and margin < alpha:
        yield f"within ±{contrast.delta:g}: there is a difference, but it is too small to matter"
    against = [
        name
        for name, block in zip(compared.blocks, comparison.blocks, strict=True)
        if block.estimate * comparison.estimate < 0
    ]
    opposite = f"in the opposite direction at {some_of(against, 3, '; ')}"
    if differ < alpha:
        yield f"not the same in all blocks (p = {differ:.2g})" + (
            f": {opposite}" if against else ""
        )
    elif against and decided in ("increase", "decrease"):
        yield f"{opposite}, perhaps by chance"
