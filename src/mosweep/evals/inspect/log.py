"""Metrics and per-item results from a log of Inspect.

Anything but a complete success is a ``StageError``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mosweep.core.causes import decisive_line, raised_in
from mosweep.core.errors import StageError
from mosweep.core.facts import ScorerFacts
from mosweep.core.fingerprint import fingerprint

if TYPE_CHECKING:
    from inspect_ai.log import EvalError, EvalLog, EvalScore

__all__ = [
    "add_usage",
    "check_log",
    "check_model",
    "metrics_of",
    "samples_of",
    "scorers_of",
]


def check_log(log: EvalLog, *, tolerate_errors: bool) -> None:
    """Raise ``StageError`` for a log that does not measure everything that was requested."""
    task, where = log.eval.task, log.location or None
    if log.status != "success":
        reason = _reason(log.error) if log.error else "no reason given"
        raise StageError(f"evaluation {task}: {log.status}: {reason}", where)
    samples = log.samples or []
    failed = [sample for sample in samples if sample.error is not None]
    if failed and not tolerate_errors:
        message = _reason(failed[0].error) if failed[0].error else ""
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
    if not samples or not any(_scored(log, score) for score in scores):
        raise StageError(f"evaluation {task}: no sample was scored ({len(samples)} samples)", where)


def check_model(log: EvalLog, expected: str) -> None:
    """Raise ``StageError`` if the log is of another model: a task may name one of its own."""
    if log.eval.model != expected:
        raise StageError(
            f"evaluation {log.eval.task}: it evaluated {log.eval.model} instead of {expected}; "
            "remove model=… from its Task",
            log.location or None,
        )


def scorers_of(log: EvalLog) -> list[ScorerFacts]:
    """What each scorer measured.

    If several scorers have a metric of the same name, it is called ``scorer/metric`` or
    ``scorer/reducer/metric``. Raises ``StageError`` if no metric has a value.
    """
    assert log.results is not None
    scores = log.results.scores
    series, reducers = _known_series(log), _reducers(log)
    metrics = [(score, metric.name) for score in scores for metric in score.metrics.values()]
    plain = Counter(name for _, name in metrics)
    qualified = Counter((score.name, name) for score, name in metrics)

    def full(score: EvalScore, name: str) -> str:
        if plain[name] == 1 and name != "n":
            return name
        if qualified[score.name, name] == 1 or score.reducer is None:
            return f"{score.name}/{name}"
        return f"{score.name}/{score.reducer}/{name}"

    found = []
    for score in scores:
        values = {metric.name: float(metric.value) for metric in score.metrics.values()}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        found.append(
            ScorerFacts(
                scorer=_series(score, series, reducers),
                metrics=finite,
                names={name: full(score, name) for name in values},
                n=_scored(log, score),
                stderr=finite.get("stderr"),
                undefined={
                    name: f"its value is {value}"
                    for name, value in values.items()
                    if not math.isfinite(value)
                },
            )
        )
    if not any(one.metrics for one in found):
        names = ", ".join(name for one in found for name in one.names.values()) or "none"
        raise StageError(
            f"evaluation {log.eval.task}: no metric has a value ({names})", log.location or None
        )
    return found


def metrics_of(scorers: Iterable[ScorerFacts]) -> dict[str, float]:
    """``{name: value}`` of all scorers, and ``n``, the largest number of scored samples."""
    scorers = list(scorers)
    metrics = {one.names[name]: value for one in scorers for name, value in one.metrics.items()}
    return {**metrics, "n": float(max(one.n for one in scorers))}


def _scored(log: EvalLog, score: EvalScore) -> int:
    return len(log.samples or []) if score.scored_samples is None else score.scored_samples


def _known_series(log: EvalLog) -> set[str]:
    """The names of the items' scores in the samples: see ``samples_of``."""
    return {
        name
        for sample in log.samples or []
        for scorer, one in (sample.scores or {}).items()
        for name, _ in _flat(scorer, one.value)
    }


def _series(score: EvalScore, known: set[str], reducers: Mapping[str, Sequence[str]]) -> str:
    """The name of the score's items in the samples."""
    names = (score.name, f"{score.scorer}/{score.name}", score.scorer)
    name = next((name for name in names if name in known), score.name)
    return _reduced_name(name, score.scorer, score.reducer, reducers)


def _reduced_name(
    name: str, scorer: str, reducer: str | None, reducers: Mapping[str, Sequence[str]]
) -> str:
    """``name`` with its reducer, if the scorer has several."""
    several = len(reducers.get(scorer, ())) > 1
    return f"{name}/{reducer}" if several and reducer else name


def _reducers(log: EvalLog) -> dict[str, list[str]]:
    """The reducers of each scorer's epochs."""
    reducers: dict[str, list[str]] = {}
    for reduction in log.reductions or []:
        reducers.setdefault(reduction.scorer, []).append(reduction.reducer or "mean")
    return reducers


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

    reduced = _reduced(log, number)
    samples = log.samples or []
    automatic = _is_automatic([sample.id for sample in samples])
    seen: Counter[str] = Counter()
    rows = []
    for sample in samples:
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
        if automatic:
            content = fingerprint([row["input"], sample.target])[:16]
            seen[f"{sample.epoch} {content}"] += 1
            row["item"] = f"{content}.{seen[f'{sample.epoch} {content}']}"
        if values := reduced.pop(sample.id, None):
            row["reduced"] = values
        if sample.error is not None:
            row["error"] = _reason(sample.error)
        rows.append(row)
    return rows


def _reduced(
    log: EvalLog, number: Callable[[Any], float | None]
) -> dict[Any, dict[str, float | None]]:
    """The score of each item over its epochs, by the task's own reducer. Empty for one epoch."""
    if (log.eval.config.epochs or 1) < 2:
        return {}
    reducers, found = _reducers(log), dict[Any, dict[str, float | None]]()
    for reduction in log.reductions or []:
        for score in reduction.samples:
            for name, value in _flat(reduction.scorer, score.value):
                series = _reduced_name(name, reduction.scorer, reduction.reducer, reducers)
                found.setdefault(score.sample_id, {})[series] = number(value)
    return found


def _is_automatic(ids: Sequence[Any]) -> bool:
    """Whether Inspect numbered the items, because the data set gives no ids.

    Such a number is a position, which is another item's after shuffling.
    """
    distinct = list(dict.fromkeys(ids))
    return bool(distinct) and all(
        type(one) is int and one == distinct[0] + place for place, one in enumerate(distinct)
    )


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


def _reason(error: EvalError) -> str:
    """Why a sample or an evaluation failed. A bare word, as in ``KeyError``, needs its name."""
    line = decisive_line(error.message)
    return line if " " in line else raised_in(error.traceback) or line
