"""The data of a report: a sweep's design, trials and effects. No formatting, and no files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.analysis.contamination import limit_of, overlap
from mosweep.analysis.contrasts import CONTROL, SEED, bundled, compared, with_bundles
from mosweep.analysis.effects import Effect, effects
from mosweep.config.secrets import masked
from mosweep.core.errors import UserError
from mosweep.core.levels import level_text
from mosweep.core.results import SweepResult, TrialResult
from mosweep.sweep.folder import Sweep
from mosweep.sweep.launches import Launch

__all__ = ["Content"]


class Content:
    """A sweep's data for its report, its tables and notebooks.

    ``effects`` are those of the design's contrasts; ``problem`` says why there are none, if they
    cannot be computed. ``folder`` is the report's folder: by default ``report`` in the sweep's
    folder.
    """

    def __init__(
        self, sweep: Sweep, result: SweepResult | None = None, folder: Path | None = None
    ) -> None:
        result = with_bundles(result or sweep.result())
        self.sweep = sweep
        self.result = result
        self.folder = folder or sweep.folder / "report"
        self.failed = [
            trial.name for trial in result.trials if trial.status in ("failed", "cancelled")
        ]
        self.overlaps = overlap(result)
        self.limit = limit_of(result)
        self.contaminated = {
            one.trial
            for one in self.overlaps
            if self.limit is not None and one.fraction > self.limit
        }
        self.effects: tuple[Effect, ...] = ()
        self.problem: str | None = None
        try:
            self.effects = tuple(effects(result))
        except UserError as error:  # Such as a primary metric that no trial has.
            self.problem = str(error)

    @cached_property
    def first(self) -> Launch | None:
        """The launch whose design was frozen first."""
        launches = {launch.file: launch for launch in self.sweep.launches}
        files = (str(event["file"]) for event in self.sweep.journal.read("launch"))
        return next(
            (launches[file] for file in files if file in launches),
            next(iter(launches.values()), None),
        )

    @cached_property
    def design(self) -> Mapping[str, Any]:
        """The first frozen design. Values that look like secrets are masked."""
        design: Mapping[str, Any] = masked(
            dict(self.first.design if self.first else self.result.design)
        )
        return design

    @cached_property
    def exploratory(self) -> set[str]:
        """Names of the trials that a later launch added."""
        designed = {trial["name"] for trial in self.first.trials} if self.first else set()
        return {trial.name for trial in self.result.trials if trial.name not in designed}

    @cached_property
    def levels(self) -> dict[str, list[Any]]:
        """Factors with their levels, those of the design first."""
        by_text: dict[str, dict[str, Any]] = {}
        for name, levels in compared(self.design).items():
            by_text[name] = {level_text(level): level for level in levels}
        for trial in self.result.tuned or self.result.controls:
            for name, level in trial.factors.items():
                by_text.setdefault(name, {}).setdefault(level_text(level), level)
        return {name: list(levels.values()) for name, levels in by_text.items()}

    @cached_property
    def varied(self) -> list[str]:
        """The factors with several levels; seeds only where nothing else varies."""
        varied = [
            name
            for name, levels in self.levels.items()
            if len(levels) > 1 and name not in bundled(self.design)
        ]
        return [name for name in varied if name != SEED] or varied

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics by name, the primary one first, without standard errors."""
        names = dict.fromkeys(name for trial in self.result.trials for name in trial.metrics)
        first = self.result.design.get("primary_metric")
        return sorted(
            (name for name in names if name.rpartition("/")[2] != "stderr"),
            key=lambda name: name != first,
        )

    def is_exploratory(self, effect: Effect) -> bool:
        """Whether an effect is of levels that the first design did not have."""
        contrast = effect.contrast
        levels = {name: [level] for name, level in contrast.at.items()}
        if contrast.factor != CONTROL:
            levels[contrast.factor] = [contrast.base, contrast.level]
        return any(
            level_text(level) not in self._designed.get(name, ())
            for name, some in levels.items()
            for level in some
        )

    @cached_property
    def _designed(self) -> dict[str, set[str]]:
        return {
            name: {level_text(level) for level in levels}
            for name, levels in compared(self.design).items()
        }

    def named(self, effect: Effect) -> str:
        """The contrast of an effect, as readable text."""
        name = str(effect.contrast).replace("->", "→")
        return f"{name} (exploratory)" if self.is_exploratory(effect) else name

    def deltas(self, trial: TrialResult) -> dict[str, float]:
        """The difference of each metric from the control trial of ``trial``."""
        deltas: dict[str, float] = {}
        for control in self.result.controls_of(trial):
            for name, value in control.metrics.items():
                if name in trial.metrics:
                    deltas.setdefault(name, trial.metrics[name] - value)
        return deltas
