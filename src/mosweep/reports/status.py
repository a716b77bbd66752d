"""``status``: a row per trial and stage with its state, who runs it, and where its log is."""

from __future__ import annotations

from collections import Counter

from mosweep.core.results import SweepResult
from mosweep.core.types import Status
from mosweep.reports.table import format_table

__all__ = ["status_text"]


def status_text(result: SweepResult) -> str:
    """Counts, then every stage that is not simply done, then what failed."""
    trials = Counter(trial.status for trial in result.trials)
    unique = {stage.key: stage for trial in result.trials for stage in trial.stages}
    stages = Counter(stage.status for stage in unique.values())
    lines = [
        f"{result.name}: {result.folder}",
        f"trials  {_counts(trials)}",
        f"stages  {_counts(stages)}",
    ]
    rows = [
        [trial.name, stage.label, stage.status, stage.job, stage.error or "", str(stage.log or "")]
        for trial in result.trials
        for stage in trial.stages
        if stage.status != "succeeded"
    ]
    if rows:
        lines += ["", format_table(["trial", "stage", "status", "job", "error", "log"], rows)]
    return "\n".join(lines)


def _counts(counter: Counter[Status]) -> str:
    return f"{counter.total()}: " + ", ".join(f"{number} {name}" for name, number in counter.most_common())
