"""``summary``: a row per trial with its factors and metrics, and all failures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mosweep.analysis.contamination import contaminated
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.table import some_of, table_lines
from mosweep.cost.budget import NOT_RUN
from mosweep.cost.spending import spending

__all__ = ["measured", "print_outcome", "summary_data", "summary_text"]


#: Characters of the widest column.
LONGEST_CELL = 48


def summary_data(result: SweepResult) -> dict[str, Any]:
    """The summary as ``mosweep summary --json`` prints it. The format is stable."""
    marked, spent = contaminated(result), spending(result)
    return {
        "experiment": result.name,
        **({"usage": asdict(spent)} if spent else {}),
        "trials": [
            {
                "name": trial.name,
                "factors": dict(trial.factors),
                "control": trial.control,
                "status": trial.status,
                "metrics": trial.metrics,
                "stderr": trial.stderrs,
                "undefined": trial.undefined,
                "stages": [_stage_data(stage) for stage in trial.stages],
                **(
                    {"contamination": {one.task: one.fraction for one in marked[trial.name]}}
                    if trial.name in marked
                    else {}
                ),
            }
            for trial in result.trials
        ],
    }


def _stage_data(stage: StageResult) -> dict[str, Any]:
    return {
        "label": stage.label,
        "kind": stage.kind.name,
        "key": stage.key,
        "status": stage.status,
        "cached": stage.cached,
        "job": stage.job,
        "log": str(stage.log) if stage.log else None,
        "error": stage.error,
    }


def summary_text(result: SweepResult) -> str:
    """The summary as a table."""
    return "\n".join(_summary_lines(result)) + "\n"


def _summary_lines(result: SweepResult) -> Iterator[str]:
    trials = sorted(result.trials, key=lambda trial: not trial.control)
    factors = _columns(trial.factors for trial in trials)
    metrics = _columns({**trial.metrics, **trial.undefined} for trial in trials)
    values = [name for name in metrics if not _is_error_of(name, metrics)]
    short = _short_names(values)
    header = ["trial", *factors, *(short[name] for name in values), "n", "status"]
    marked = contaminated(result)
    loops = any(trial.rounds for trial in trials)
    if loops:
        header.insert(-1, "rounds")
    yield from table_lines(
        header,
        (_row(trial, factors, values, trial.name in marked, loops) for trial in trials),
        longest=LONGEST_CELL,
    )
    if marked:
        yield (
            "contaminated: the training data has more evaluation items than "
            "contamination.max_overlap allows; see mosweep contamination"
        )
    yield from _undefined_lines(trials)
    if spent := spending(result):
        yield f"providers: {spent}"
    if result.pretended:
        yield "dummy: the dummy backend made these numbers up; nothing was trained or measured"


def _row(
    trial: TrialResult, factors: Sequence[str], values: Sequence[str], marked: bool, loops: bool
) -> list[Any]:
    cells: list[Any] = ["control" if trial.control else "tuned"]
    cells += [trial.factors.get(name) for name in factors]
    cells += [measured(trial, name) for name in values]
    sizes = sorted({size for _, evaluation in trial.evaluations for size in evaluation.sizes})
    status = "not run: budget" if any(_not_run(stage) for stage in trial.stages) else trial.status
    cells.append("/".join(map(str, sizes)))
    if loops:
        cells.append("{} of {}".format(*trial.rounds) if trial.rounds else "")
    cells += [f"{status}, contaminated" if marked else status]
    return cells


def measured(trial: TrialResult, name: str) -> str | None:
    """A metric of a trial with its standard error, as tables show it. ``None`` if it has none."""
    value, error = trial.metrics.get(name), trial.stderrs.get(name)
    if value is None:
        return "undefined" if name in trial.undefined else None
    return f"{value:.3f}" if error is None or math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def _undefined_lines(trials: Sequence[TrialResult]) -> Iterator[str]:
    """Which metrics have no value in some trials, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        for name, why in trial.undefined.items():
            found.setdefault((name, why), []).append(trial.name)
    for (name, why), names in found.items():
        yield f"undefined: {name} in {some_of(names, 3)}; {why}"


def _is_error_of(name: str, metrics: Sequence[str]) -> bool:
    """Whether a metric is the standard error shown beside another."""
    task, _, metric = name.rpartition("/")
    return metric == "stderr" and any(
        other != name and other.rpartition("/")[0] == task for other in metrics
    )


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """The names, without the task if there is only one."""
    tasks = {name.partition("/")[0] for name in names}
    return {name: name.partition("/")[2] if len(tasks) == 1 else name for name in names}


def _columns(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    seen: dict[str, None] = {}
    for mapping in mappings:
        seen.update(dict.fromkeys(mapping))
    return list(seen)


def print_outcome(result: SweepResult, folder: str) -> None:
    """Print the table, the failures with their logs, and the sweep's folder."""
    print()
    for line in _summary_lines(result):
        print(line)
    print()
    if failures := failures_text(result):
        print(failures)
    elif result.stages and all(stage.cached for stage in result.stages.values()):
        print("nothing to do: every stage is already done")
    else:
        print(f"next: mosweep analyze {folder.removeprefix('multirun/')}")
    print(f"{folder}")


def _not_run_lines(result: SweepResult) -> Iterator[str]:
    """The stages that a budget stopped, by budget."""
    by_budget: dict[str, list[str]] = {}
    for stage in result.stages.values():
        if _not_run(stage):
            error = stage.error or ""
            by_budget.setdefault(error.split(": ")[1], []).append(error.removeprefix("not run: "))
    for reasons in by_budget.values():
        stages = f"{len(reasons)} stage{'s' if len(reasons) > 1 else ''}"
        yield f"NOT RUN {stages}: {reasons[0]}; the same command with a higher budget continues"


def _not_run(stage: StageResult) -> bool:
    return stage.status == "cancelled" and (stage.error or "").startswith(NOT_RUN)


def failures_text(result: SweepResult) -> str:
    """Each failed stage once, with trials, error and log, then stages that a budget stopped."""
    lines: dict[str, tuple[StageResult, list[str]]] = {}
    for trial in result.trials:
        for stage in trial.stages:
            if stage.status == "failed":
                lines.setdefault(stage.key, (stage, []))[1].append(trial.name)
    text = []
    for stage, trials in lines.values():
        more = f" (and {len(trials) - 1} more)" if len(trials) > 1 else ""
        text.append(
            f"FAILED {trials[0]}{more}: {stage.label}: {stage.error}\n       log: {stage.log}"
        )
    text += _not_run_lines(result)
    return "\n".join(text)
