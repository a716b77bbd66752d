"""Metrics and per-item results from a log of Inspect.

Anything but a complete success is a ``StageError``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mosweep.core.errors import StageError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

__all__ = ["add_usage", "check_log", "metrics_of", "samples_of"]


def check_log(log: EvalLog, *, tolerate_errors: bool) -> None:
    """Raise ``StageError`` for a log that does not measure everything that was requested."""
    task, where = log.eval.task, log.location or None
    if log.status != "success":
        reason = log.error.message if log.error else "no reason given"
        raise StageError(f"evaluation {task}: {log.status}: {_line(reason)}", where)
    samples = log.samples or []
    failed = [sample for sample in samples if sample.error is not None]
    if failed and not tolerate_errors:
        message = _line(failed[0].error.message) if failed[0].error else ""
        raise StageError(
            f"evaluation {task}: {len(failed)} of {len(samples)} samples failed; sample "
            f"{failed[0].id}: {message}",
            where,
        )
    scores = log.results.scores if log.results else []
    if not scores:
        raise StageError(
            f"evaluation {task}: nothing was scored (does the task have a scorer?)", where
        )
    scored = [
        len(samples) if score.scored_samples is None else score.scored_samples for score in scores
    ]
    if not samples or not all(scored):
        raise StageError(f"evaluation {task}: no sample was scored ({len(samples)} samples)", where)


def metrics_of(log: EvalLog) -> dict[str, float]:
    """``{name: value}`` of all scorers, and ``n``, the number of scored samples.

    If several scorers have a metric of the same name, it is called ``scorer/metric`` or
    ``scorer/reducer/metric``.
    """
    assert log.results is not None
    rows: list[tuple[str, str | None, str, float]] = []
    for score in log.results.scores:
        count = len(log.samples or []) if score.scored_samples is None else score.scored_samples
        rows += [
            (score.name, score.reducer, metric.name, float(metric.value))
            for metric in score.metrics.values()
        ]
        rows.append((score.name, score.reducer, "n", float(count)))
    for scorer, _, name, value in rows:
        if not math.isfinite(value):
            raise StageError(
                f"evaluation {log.eval.task}: {scorer}/{name} is {value}", log.location or None
            )
    plain = Counter(name for _, _, name, _ in rows)
    qualified = Counter((scorer, name) for scorer, _, name, _ in rows)
    metrics = {}
    for scorer, reducer, name, value in rows:
        if plain[name] == 1:
            metrics[name] = value
        elif qualified[scorer, name] == 1:
            metrics[f"{scorer}/{name}"] = value
        else:
            metrics[f"{scorer}/{reducer}/{name}"] = value
    counts = {value for _, _, name, value in rows if name == "n"}
    if len(counts) == 1:  # all scorers agree on the number of samples
        metrics = {name: value for name, value in metrics.items() if name.rpartition("/")[2] != "n"}
        metrics["n"] = counts.pop()
    return metrics


def add_usage(usage: dict[str, dict[str, int]], log: EvalLog) -> None:
    """Add the tokens that the log's models used. Cached input counts as input."""
    for model, used in log.stats.model_usage.items():
        total = usage.setdefault(model, {"input_tokens": 0, "output_tokens": 0})
        total["input_tokens"] += (
            used.input_tokens
            + (used.input_tokens_cache_read or 0)
            + (used.input_tokens_cache_write or 0)
        )
        total["output_tokens"] += used.output_tokens


def samples_of(log: EvalLog) -> list[dict[str, Any]]:
    """One JSON-serialisable mapping per item and epoch: see ``EvalResults.samples``."""
    from inspect_ai.scorer import value_to_float

    convert = value_to_float()

    def number(value: Any) -> float | None:
        if isinstance(value, str) and not _numeric(value):
            return None
        result = convert(value)
        return result if math.isfinite(result) else None

    rows = []
    for sample in log.samples or []:
        scores: dict[str, float | None] = {}
        about: dict[str, Any] = {}
        for scorer, score in (sample.scores or {}).items():
            for name, value in _flat(scorer, score.value):
                scores[name] = number(value)
            if score.metadata:
                about[scorer] = score.metadata
        row = {
            "task": log.eval.task,
            "id": sample.id,
            "epoch": sample.epoch,
            "input": sample.input
            if isinstance(sample.input, str)
            else "\n".join(message.text for message in sample.input),
            "target": sample.target,
            "output": sample.output.completion,
            "scores": scores,
            "metadata": sample.metadata,
        }
        if about:
            row["score_metadata"] = about
        if sample.error is not None:
            row["error"] = _line(sample.error.message)
        rows.append(row)
    return rows


def _flat(scorer: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each score. A scorer may give one value, a mapping or a list."""
    if isinstance(value, dict):
        yield from ((f"{scorer}/{name}", item) for name, item in value.items())
    elif isinstance(value, list):
        yield from ((f"{scorer}/{number}", item) for number, item in enumerate(value))
    else:
        yield scorer, value


def _numeric(value: str) -> bool:
    if value in ("C", "I", "P", "N") or value.lower() in ("yes", "no", "true", "false"):
        return True
    try:
        float(value)
    except ValueError:
        return False
    return True


def _line(text: str) -> str:
    line = next((line for line in reversed(text.strip().splitlines()) if line.strip()), "").strip()
    return line if len(line) <= 300 else line[:297] + "…"
