"""Compare the levels of a contrast by the scores of a sweep, and note what is excluded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mosweep.analysis.contrasts import SEED, Contrast
from mosweep.analysis.scores import FactoredSweep, Metric, TaskScores
from mosweep.core.levels import level_text
from mosweep.core.results import TrialResult
from mosweep.core.table import some_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mosweep.analysis.statistics import Comparison, Scores

__all__ = ["Compared", "compare_levels"]


@dataclass(frozen=True)
class Compared:
    """A contrast on one metric, with its comparison if there are results to compare.

    ``blocks`` are the names of the blocks, ``notes`` what is excluded and why.
    """

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


def compare_levels(sweep: FactoredSweep, contrast: Contrast, metric: Metric) -> Compared:
    """The comparison of a contrast on one metric, from the scores of the sweep."""
    import numpy as np

    from mosweep.analysis.statistics import compare

    task, others, pairs = metric.task, sweep.others(contrast), sweep.pairs(contrast)
    scores = task.scores[metric.scorer] if metric.scorer is not None else np.empty((0, 0))
    clusters = task.clusters(contrast.cluster)
    whole = [block for block, sides in pairs.items() if all(sides)] or list(pairs)

    def named(block: Sequence[str | None], among: Iterable[Sequence[str | None]]) -> str:
        """The levels that distinguish the block from the others."""
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
            continue  # These trials have another task.
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
        return Compared(
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
    return Compared(contrast, metric.name, comparison, names, notes)


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
                continue  # The same trial under another name.
            elif seed in seeds:
                reason = "have the same factors and seed as another"
            else:
                seeds.add(seed)
                by_row[row] = trial
                continue
            self.why.setdefault((side, reason), {})[trial.name] = None
        return by_row

    def notes(self) -> list[str]:
        """The excluded trials and blocks, as readable lines."""
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
