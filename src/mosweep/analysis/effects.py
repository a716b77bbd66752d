"""What the treatments of a sweep did: each contrast with an interval, a p value and a verdict.

``statistics`` has the formulas; it and numpy are loaded when effects are computed, not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mosweep.analysis.contrasts import CONTROL, SEED, Contrast, contrasts_of, with_bundles
from mosweep.analysis.scores import FactoredSweep, Metric, TaskScores
from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.levels import level_text
from mosweep.core.results import SweepResult, TrialResult
from mosweep.core.table import some_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mosweep.analysis.statistics import Comparison, Components, Scores

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
    """What a contrast showed. A number that cannot be computed is ``None``; ``notes`` say why.

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

    By default they are those of the design, or else all. Together they are one family: all verdicts
    hold at ``level``. ``delta`` (by default the design's) and ``cluster`` are for contrasts that
    give none. With ``one_seed``, a difference may rest on a single seed. The notes say what failed
    or is missing.

    Raises ``ConfigError`` for contrasts and metrics that the sweep does not have, ``CorruptRecord``
    for samples that cannot be read.
    """
    if not 0 < level < 1:
        raise ConfigError("level", level, "must be between 0 and 1, such as 0.95")
    if delta is not None and not delta > 0:
        raise ConfigError("delta", delta, "must be > 0")
    try:
        from mosweep.analysis import statistics
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
            compared.append(_compared(sweep, contrast, metric))
    p_values = statistics.holm([one.p for one in compared])
    margins = statistics.holm([one.p_equivalence for one in compared])
    return [
        _effect(one, p, margin, level, one_seed)
        for one, p, margin in zip(compared, p_values, margins, strict=True)
    ]


def effects_data(effects: Iterable[Effect]) -> list[dict[str, Any]]:
    """The effects as JSON-able data."""
    return [{"name": str(effect.contrast), **asdict(effect)} for effect in effects]


@dataclass(frozen=True)
class _Compared:
    """A contrast on one metric: its comparison, if there are results to compare, block by block."""

    contrast: Contrast
    metric: str
    comparison: Comparison | None
    blocks: Sequence[str]
    notes: Sequence[str]

    @property
    def p(self) -> float:
        """The p value of the difference."""
        return self.comparison.p if self.comparison else math.nan

    @property
    def p_equivalence(self) -> float:
        """The p value of a difference of ``delta`` or more."""
        delta = self.contrast.delta
        return self.comparison.p_equivalence(delta) if self.comparison and delta else math.nan


def _effect(
    compared: _Compared, p_holm: float, margin: float, level: float, one_seed: bool
) -> Effect:
    from mosweep.analysis.statistics import NOT_DECISIVE, heterogeneity, verdict

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
    compared: _Compared,
    comparison: Comparison,
    decided: str,
    margin: float,
    differ: float,
    alpha: float,
) -> Iterable[str]:
    """What a reader has to know besides the numbers."""
    contrast = compared.contrast
    if not comparison.replicated:
        yield (
            "one seed: the interval covers items only and does not say what another fine-tune "
            "would score"
        )
    elif min(comparison.runs[contrast.factor == CONTROL :]) < 3:  # of a control there is but one
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


def _compared(sweep: FactoredSweep, contrast: Contrast, metric: Metric) -> _Compared:
    import numpy as np

    from mosweep.analysis.statistics import compare

    task, others, pairs = metric.task, sweep.others(contrast), sweep.pairs(contrast)
    scores = task.scores[metric.scorer] if metric.scorer is not None else np.empty((0, 0))
    clusters = task.clusters(contrast.cluster)
    whole = [block for block, sides in pairs.items() if all(sides)] or list(pairs)

    def named(block: Sequence[str | None], among: Iterable[Sequence[str | None]]) -> str:
        """The levels that set the block apart from the others."""
        places = [
            place
            for place, name in enumerate(others)
            if name not in contrast.at and len({one[place] for one in among}) > 1
        ]
        return ",".join(f"{others[place]}={block[place]}" for place in places)

    excluded, names = _Excluded(contrast), list[str]()
    blocks: list[tuple[Scores, Scores]] = []
    used: list[int] = []
    for block, sides in pairs.items():
        if not any(task.name in sweep.evals[trial.name] for trials in sides for trial in trials):
            continue  # these trials have another task
        low, high = (
            excluded.scored(sweep, side, trials, task, scores) for side, trials in enumerate(sides)
        )
        if all(side and np.isfinite(scores[list(side)]).all(axis=0).any() for side in (low, high)):
            names.append(named(block, whole))
            blocks.append(
                (_side(sweep, low, scores, clusters), _side(sweep, high, scores, clusters))
            )
            used += [*low, *high]
        else:
            excluded.blocks.append(named(block, pairs) or "all")
    if not blocks:
        return _Compared(
            contrast,
            metric.name,
            None,
            (),
            [*excluded.notes(), f"no trials with results differ in {contrast.factor} alone"],
        )
    comparison = compare(blocks)
    scored = int(np.isfinite(scores[used]).any(axis=0).sum())
    notes = excluded.notes()
    if comparison.items < scored:
        notes.append(
            f"{scored - comparison.items} of {scored} items excluded: not scored in every run"
        )
    if metric.scorer and (
        differing := task.differing(metric.name.removeprefix(f"{task.name}/"), metric.scorer, used)
    ):
        reported, mean = differing
        notes.append(
            f"{metric.name} ({reported:.4g}) is not the mean score of its items ({mean:.4g}); "
            "the effect is computed from the items"
        )
    return _Compared(contrast, metric.name, comparison, names, notes)


def _side(
    sweep: FactoredSweep,
    trials: Mapping[int, TrialResult],
    scores: npt.NDArray[np.float64],
    clusters: npt.NDArray[np.int64] | None,
) -> Scores:
    import numpy as np

    from mosweep.analysis.statistics import Scores

    runs = np.array([sweep.run(trial) for trial in trials.values()])
    return Scores(
        scores[list(trials)],
        clusters=clusters,
        runs=runs,
        fixed=next(iter(trials.values())).control,
    )


@dataclass
class _Excluded:
    """The trials of a contrast that cannot be compared, by side and reason.

    ``trials`` are all trials of either side.
    """

    contrast: Contrast
    why: dict[tuple[int, str], dict[str, None]] = field(default_factory=dict)
    trials: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))
    blocks: list[str] = field(default_factory=list)

    def scored(
        self,
        sweep: FactoredSweep,
        side: int,
        trials: Sequence[TrialResult],
        task: TaskScores,
        scores: npt.NDArray[np.float64],
    ) -> dict[int, TrialResult]:
        """The trials that have scores, by the row of their evaluation; one per seed."""
        import numpy as np

        by_row: dict[int, TrialResult] = {}
        seeds = set()
        for trial in trials:
            stage, seed = sweep.evals[trial.name].get(task.name), sweep.levels[trial.name].get(SEED)
            row = task.rows.get(stage.key) if stage else None
            self.trials[side].add(trial.name)
            if stage is None:
                reason = f"were not evaluated on {task.name}"
            elif stage.record is None:
                ended = {"failed": "failed", "cancelled": "were cancelled"}
                reason = ended.get(trial.status, "are not finished")
            elif row is None or not np.isfinite(scores[row]).any():
                reason = "have no score of any item"
            elif row in by_row:
                continue  # the same trial under another name
            elif seed in seeds:
                reason = "have the same factors and seed as another"
            else:
                seeds.add(seed)
                by_row[row] = trial
                continue
            self.why.setdefault((side, reason), {})[trial.name] = None
        return by_row

    def notes(self) -> list[str]:
        """Lines for people."""
        sides = [
            f"{self.contrast.factor}={level_text(level)}"
            for level in (self.contrast.base, self.contrast.level)
        ]
        notes = []
        for (side, reason), names in self.why.items():
            notes.append(
                f"{len(names)} of {len(self.trials[side])} trials at {sides[side]} {reason}: "
                f"{some_of(list(names), 3, '; ')}"
            )
        if self.blocks:
            notes.append(f"without results on both sides: {some_of(self.blocks, 3, '; ')}")
        return notes
