"""``status`` and ``watch``: a row per unfinished stage, with state, job, time left and log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mosweep.core.results import StageResult, SweepResult
from mosweep.core.table import format_table
from mosweep.core.types import Status
from mosweep.reports.summary import summary_data

__all__ = ["status_data", "status_text"]


def status_data(result: SweepResult) -> dict[str, Any]:
    """``summary_data``, and each stage's state in the queue.

    These are ``state``, ``reason``, ``node``, ``elapsed_s`` and ``eta_s`` (seconds or null).
    """
    data = summary_data(result)
    usual = _usual_seconds(result)
    for trial, described in zip(result.trials, data["trials"], strict=True):
        for stage, row in zip(trial.stages, described["stages"], strict=True):
            queue = stage.queue
            row |= {
                "state": queue.state if queue else None,
                "reason": queue.reason or None if queue else None,
                "node": queue.node or None if queue else None,
                "elapsed_s": _elapsed(stage),
                "eta_s": _eta(stage, usual),
            }
    return data


def status_text(result: SweepResult, rows: int | None = None) -> str:
    """Counts, then the stages that have not succeeded.

    At most ``rows`` are shown, running and failed ones first.
    """
    trials = Counter(trial.status for trial in result.trials)
    stages = Counter(stage.status for stage in result.stages.values())
    usual = _usual_seconds(result)
    lines = [
        f"{result.name}: {result.folder}",
        f"trials  {_counts(trials)}",
        f"stages  {_counts(stages)}",
    ]
    seen: set[str] = set()
    open_ones, later = [], 0
    for trial in result.trials:
        expected = False
        for stage in trial.stages:
            if stage.status != "succeeded" and stage.key not in seen:
                seen.add(stage.key)
                if stage.kind.optional and stage.status == "pending" and expected:
                    later += 1  # Only the next of the possible rounds is shown.
                    continue
                expected |= stage.kind.optional
                open_ones.append((trial.name, stage))
    if rows is not None:
        order = {"running": 0, "failed": 1, "cancelled": 1, "pending": 2}
        open_ones.sort(key=lambda item: order[item[1].status])
    shown = open_ones[:rows]
    if shown:
        head = [
            "trial",
            "stage",
            "status",
            "job",
            "state",
            "node",
            "elapsed",
            "eta",
            "error",
            "log",
        ]
        table = [[name, *_cells(stage, usual)] for name, stage in shown]
        used = [
            index
            for index in range(len(head))
            if index < 4 or any(row[index] not in ("", None) for row in table)
        ]
        lines += [
            "",
            format_table(
                [head[index] for index in used], [[row[index] for index in used] for row in table]
            ),
        ]
    if len(open_ones) > len(shown):
        lines.append(f"… and {len(open_ones) - len(shown)} more")
    if later:
        lines.append(f"… and {later} stages of later rounds, which run only if they are needed")
    return "\n".join(lines)


def _cells(stage: StageResult, usual: Mapping[str, float]) -> list[Any]:
    queue = stage.queue
    state = (
        f"{queue.state} ({queue.reason})"
        if queue and queue.reason
        else queue.state
        if queue
        else ""
    )
    times = [_clock(_elapsed(stage)), _clock(_eta(stage, usual))]
    return [
        stage.label,
        stage.status,
        stage.job,
        state,
        queue.node if queue else "",
        *times,
        stage.error or "",
        str(stage.log or ""),
    ]


def _usual_seconds(result: SweepResult) -> dict[str, float]:
    """The mean duration of finished stages by label, in seconds."""
    took: dict[str, list[float]] = {}
    for stage in result.stages.values():
        if stage.seconds is not None:
            took.setdefault(stage.label, []).append(stage.seconds)
    return {label: sum(seconds) / len(seconds) for label, seconds in took.items()}


def _elapsed(stage: StageResult) -> float | None:
    """Seconds that a running stage has run, by its queue or else the journal."""
    if stage.status != "running":
        return None
    if stage.queue and stage.queue.elapsed_s is not None:
        return stage.queue.elapsed_s
    return max(0.0, time.time() - stage.since) if stage.since is not None else None


def _eta(stage: StageResult, usual: Mapping[str, float]) -> float | None:
    """Seconds left of a running stage, if it takes as long as finished stages of its label."""
    elapsed = _elapsed(stage)
    return (
        max(0.0, usual[stage.label] - elapsed)
        if elapsed is not None and stage.label in usual
        else None
    )


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _counts(counter: Counter[Status]) -> str:
    return f"{counter.total()}: " + ", ".join(
        f"{number} {name}" for name, number in counter.most_common()
    )
