"""What the treatments of a sweep did: contrasts between levels, each with an interval, a p value
and a verdict.

A contrast compares two levels of one factor within each combination of the other factors (a
*block*); fine-tunes that differ in their seed alone are replications. Items are told by their id;
epochs of an item are averaged. ``statistics`` has the formulas; it and numpy are loaded when
effects are computed, not before.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core import schema
from mosweep.core.errors import ConfigError, CorruptRecord, MissingExtra, choices
from mosweep.core.results import StageResult, SweepResult, TrialResult

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mosweep.analysis.statistics import Comparison, Components, Scores

__all__ = [
    *(
        "BUNDLE",
        "BlockEffect",
        "Contrast",
        "Detectable",
        "Effect",
        "bundled",
        "compared",
        "contrasts_of",
        "detectable",
        "effects",
        "effects_data",
    ),
    "with_bundles",
]

#: What replicates; and the factor that tells untouched base models (true) from tuned ones (false).
SEED, CONTROL = "seed", "control"
#: The factor whose levels are bundles of levels of others.
BUNDLE = "bundle"


# -- what is compared ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """``level`` against ``base``, two levels of ``factor``, ``at`` given levels of other factors.

    ``metric`` is ``<task>/<scorer>``, by default the sweep's primary metric, or else every one.
    ``delta``: a difference of less is as good as none, in units of the score. ``cluster``: the key
    of the samples' metadata that tells which items belong together.
    """

    factor: str
    base: Any
    level: Any
    at: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    delta: float | None = None
    cluster: str | None = None

    def __str__(self) -> str:
        name = (
            "tuned vs control"
            if self.factor == CONTROL
            else f"{self.factor}: {_text(self.base)} -> {_text(self.level)}"
        )
        return f"{name} at {_named(self.at)}" if self.at else name


@dataclass(frozen=True)
class _Given:
    """A contrast as it is written."""

    factor: str
    levels: Sequence[Any] | None = None
    at: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    delta: float | None = field(default=None, metadata=schema.between(gt=0))
    cluster: str | None = None


def contrasts_of(
    given: Any, treatments: Mapping[str, Sequence[Any]], *, control: bool = True
) -> list[Contrast]:
    """The contrasts of a configuration, checked against ``treatments``, the levels of each factor.

    Each is a mapping (``{factor: lora.rank, levels: [4, 64], at: {model: tiny}, delta: 0.02}``) or
    text (``lora.rank: 4 -> 64``). More than two levels are compared with the first; no ``levels``
    means all. ``control``: whether there are control trials. Without any contrasts: every level of
    every treatment against its first one, and tuned models against untouched ones (factor
    ``control``). Raises ``ConfigError`` for what the sweep does not have.
    """
    factors = {
        name: list(levels) for name, levels in treatments.items() if name not in (SEED, CONTROL)
    }
    if control:
        factors[CONTROL] = [True, False]
    if given is None:
        return [
            Contrast(name, levels[0], level)
            for name, levels in factors.items()
            for level in levels[1:]
        ]
    entries = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return [
        contrast
        for index, entry in enumerate(entries)
        for contrast in _contrasts(f"contrasts[{index}]", entry, factors)
    ]


# -- bundles: levels of several factors that were given together -----------------------------------


def bundled(design: Mapping[str, Any]) -> set[str]:
    """The factors whose levels were given in bundles: they are compared as bundles, not each by
    itself.
    """
    return {factor for levels in (design.get("bundles") or {}).values() for factor in levels}


def compared(design: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Levels of the factors that a design compares; bundles are levels of the factor ``bundle``."""
    parts = bundled(design)
    own = {BUNDLE: list(design["bundles"])} if parts else {}
    return own | {
        name: list(levels)
        for name, levels in (design.get("treatments") or {}).items()
        if name not in parts
    }


def with_bundles(result: SweepResult) -> SweepResult:
    """``result`` with the factor ``bundle`` in its design and its trials, where levels were given
    in bundles.

    A trial is of the bundle that names the most of its levels. One of none, because a later launch
    brought it, is a bundle by itself.
    """
    parts = bundled(result.design)
    if not parts:
        return result
    bundles = sorted(result.design["bundles"].items(), key=lambda bundle: -len(bundle[1]))

    def bundle_of(factors: Mapping[str, Any]) -> str:
        mine = {name: _text(level) for name, level in factors.items() if name in parts}
        of = (
            name
            for name, levels in bundles
            if {key: _text(level) for key, level in levels.items()}.items() <= mine.items()
        )
        return next(of, _named({name: factors[name] for name in mine}))

    trials = [
        t if t.control else replace(t, factors={BUNDLE: bundle_of(t.factors), **t.factors})
        for t in result.trials
    ]
    return replace(
        result,
        trials=tuple(trials),
        design={**result.design, "treatments": compared(result.design)},
    )


def _contrasts(key: str, entry: Any, factors: Mapping[str, Sequence[Any]]) -> list[Contrast]:
    if isinstance(entry, Contrast):
        entry = {**asdict(entry), "levels": [entry.base, entry.level]}
        del entry["base"], entry["level"]
    if isinstance(entry, Mapping) and len(entry) == 1 and "factor" not in entry:
        entry = "{}: {}".format(*next(iter(entry.items())))  # what YAML makes of the text, unquoted
    if isinstance(entry, str):
        text = re.fullmatch(r"\s*([^:\s]+)\s*:\s*(.+?)\s*(?:->|→)\s*(.+?)\s*", entry)
        if text is None:
            raise ConfigError(
                key, entry, "expected 'factor: level -> level', or a mapping with factor and levels"
            )
        entry = {"factor": text[1], "levels": [text[2], text[3]]}
    wanted = schema.build(_Given, entry, key)
    name = wanted.factor
    known = _levels(f"{key}.factor", name, factors)
    levels = (
        list(known)
        if wanted.levels is None
        else [_level(f"{key}.levels", name, level, known) for level in wanted.levels]
    )
    if len({_text(level) for level in levels}) < max(2, len(levels)):
        raise ConfigError(
            f"{key}.levels",
            levels,
            f"expected two levels or more, all different; {name} has {_listed(known)}",
        )
    at = {
        other: _level(f"{key}.at.{other}", other, value, _levels(f"{key}.at", other, factors))
        for other, value in wanted.at.items()
    }
    if name in at or CONTROL in at:
        raise ConfigError(
            f"{key}.at", _named(at), f"expected levels of other treatments than {name}"
        )
    return [
        Contrast(name, levels[0], level, at, wanted.metric, wanted.delta, wanted.cluster)
        for level in levels[1:]
    ]


def _levels(key: str, name: str, factors: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
    if name == SEED:
        raise ConfigError(key, name, f"seeds replicate what is compared; {choices(name, factors)}")
    if name not in factors:
        raise ConfigError(key, name, f"no factor of this sweep; {choices(name, factors)}")
    return factors[name]


def _level(key: str, name: str, given: Any, known: Sequence[Any]) -> Any:
    for level in known:
        if level == given or _text(level) == _text(given):
            return level
    raise ConfigError(
        key, _text(given), f"no level of {name} in this sweep; it has {_listed(known)}"
    )


def _text(level: Any) -> str:
    return (
        json.dumps(level) if isinstance(level, list | dict | bool) or level is None else str(level)
    )


def _listed(levels: Iterable[Any]) -> str:
    return ", ".join(map(_text, levels))


def _named(factors: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={_text(level)}" for name, level in factors.items())


# -- what is found ---------------------------------------------------------------------------------


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
    """What a contrast showed; numbers are ``None`` where there is nothing to take them from, and
    ``notes`` say why.

    ``means`` of base and level; ``estimate`` is their difference, averaged over ``blocks``, with
    its ``level`` confidence interval from ``low`` to ``high``. ``p_holm`` is adjusted over all
    effects computed together; so is ``p_equivalence``, for a difference within ``delta``. ``mde``:
    the smallest difference that would be found 4 times in 5. ``seeds``: the fewest in a block on
    either side. ``heterogeneity``: p value of one and the same effect in all blocks. ``spread``:
    the standard deviations between seeds, items and single scores. Scores, differences and standard
    deviations are in units of the metric.
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
    """The effects of ``contrasts`` (``Contrast`` objects or what ``contrasts_of`` reads; by default
    the design's own, or else all).

    All of them are one family: verdicts hold together at ``level``. ``delta`` (by default the
    design's) and ``cluster`` are for contrasts that give none. ``one_seed``: let differences count
    that rest on a single seed. What failed or is missing is in the notes. Raises ``ConfigError``
    for contrasts and metrics that the sweep does not have, ``CorruptRecord`` for samples that
    cannot be read.
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
    asked = []
    for contrast in contrasts_of(given, sweep.treatments, control=bool(sweep.controls)):
        contrast = replace(
            contrast, delta=contrast.delta or delta, cluster=contrast.cluster or cluster
        )
        for metric in sweep.metrics(contrast.metric or result.design.get("primary_metric")):
            asked.append(_compared(sweep, contrast, metric))
    p_values = statistics.holm([one.found.p if one.found else math.nan for one in asked])
    margins = statistics.holm(
        [
            one.found.p_equivalence(one.contrast.delta)
            if one.found and one.contrast.delta
            else math.nan
            for one in asked
        ]
    )
    return [
        _effect(one, p, margin, level, one_seed)
        for one, p, margin in zip(asked, p_values, margins, strict=True)
    ]


def effects_data(found: Iterable[Effect]) -> list[dict[str, Any]]:
    """The effects as JSON-able data."""
    return [{"name": str(effect.contrast), **asdict(effect)} for effect in found]


@dataclass(frozen=True)
class _Compared:
    """A contrast with what was found, if there was anything to compare, the names of its blocks,
    and what was amiss.
    """

    contrast: Contrast
    metric: str
    found: Comparison | None
    blocks: Sequence[str]
    notes: Sequence[str]


def _effect(asked: _Compared, p_holm: float, margin: float, level: float, one_seed: bool) -> Effect:
    from mosweep.analysis.statistics import NOT_DECISIVE, heterogeneity, verdict

    found, delta, alpha = asked.found, asked.contrast.delta, 1 - level
    if found is None:
        decided = f"{NOT_DECISIVE}: no results"
        return Effect(
            asked.contrast, asked.metric, decided, level, delta=delta, notes=tuple(asked.notes)
        )
    decided = verdict(
        found, p_holm=p_holm, p_equivalence=margin, delta=delta, alpha=alpha, one_seed=one_seed
    )
    differ = heterogeneity(found.blocks)
    low, high = found.interval(level)
    return Effect(
        contrast=asked.contrast,
        metric=asked.metric,
        verdict=decided,
        level=level,
        means=found.means,
        estimate=found.estimate,
        se=found.se,
        low=_known(low),
        high=_known(high),
        df=_known(found.df),
        p=_known(found.p),
        p_holm=_known(p_holm),
        delta=delta,
        p_equivalence=_known(margin),
        mde=_known(found.minimum_effect(alpha)),
        seeds=found.runs,
        items=found.items,
        clusters=found.clusters,
        paired=found.paired,
        blocks=tuple(
            _block(name, block, level)
            for name, block in zip(asked.blocks, found.blocks, strict=True)
        ),
        heterogeneity=_known(differ),
        spread=found.components,
        notes=(*asked.notes, *_remarks(asked, found, decided, margin, differ, alpha)),
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _block(name: str, found: Comparison, level: float) -> BlockEffect:
    low, high = found.interval(level)
    return BlockEffect(
        name,
        found.estimate,
        found.se,
        _known(low),
        _known(high),
        _known(found.p),
        found.runs,
        found.items,
    )


def _remarks(
    asked: _Compared, found: Comparison, decided: str, margin: float, differ: float, alpha: float
) -> Iterable[str]:
    """What a reader has to know besides the numbers."""
    contrast = asked.contrast
    if not found.replicated:
        yield "one seed: the interval is over items alone, and says nothing about another fine-tune"
    elif min(found.runs[contrast.factor == CONTROL :]) < 3:  # of a control there is but one
        yield "fewer than three seeds on a side: a rough interval"
    if not found.se:
        yield "every difference is the same: no variance to judge by"
    if 1 < found.clusters < 20:
        yield (
            f"only {found.clusters} "
            f"{'items' if found.clusters == found.items else 'clusters of items'}: a rough "
            "interval"
        )
    if not found.paired:
        yield "not paired: the sides have no item in common"
    if contrast.delta and decided in ("increase", "decrease") and margin < alpha:
        yield f"within ±{contrast.delta:g}: a difference, but too small to matter"
    against = [
        name
        for name, block in zip(asked.blocks, found.blocks, strict=True)
        if block.estimate * found.estimate < 0
    ]
    if differ < alpha:
        yield f"not the same in all blocks (p = {differ:.2g})" + (
            f": the other way round at {_some(against)}" if against else ""
        )
    elif against and decided in ("increase", "decrease"):
        yield f"the other way round at {_some(against)}, perhaps by chance"


def _some(names: Sequence[str], most: int = 3) -> str:
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- from a sweep to arrays ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Metric:
    """``name`` as it was asked for; where it is found."""

    name: str
    task: TaskScores
    scorer: str | None


class TaskScores:
    """The scores of all evaluations of one task: for each scorer an array of evaluations ×
    items.
    """

    def __init__(self, name: str, stages: Iterable[StageResult]) -> None:
        import numpy as np

        self.name = name
        self.rows: dict[str, int] = {}
        self.facts: list[Mapping[str, Any]] = []
        self.metadata: list[Mapping[str, Any]] = []
        columns: dict[Any, int] = {}
        known: dict[tuple[Any, ...], list[int]] = {}
        read: list[tuple[list[int], dict[str, npt.NDArray[np.float64]]]] = []
        for stage in stages:
            samples = _samples(Path(stage.folder)) if stage.folder is not None else []
            if not samples:
                continue
            ids = tuple(sample["id"] for sample in samples)
            if ids not in known:
                for sample in samples:
                    if columns.setdefault(sample["id"], len(columns)) == len(self.metadata):
                        self.metadata.append(sample.get("metadata") or {})
                known[ids] = [columns[item] for item in ids]
            self.rows[stage.key] = len(read)
            self.facts.append(stage.facts)
            read.append((known[ids], _scores(samples)))
        scorers = dict.fromkeys(scorer for _, scores in read for scorer in scores)
        self.scores = {scorer: np.full((len(read), len(columns)), np.nan) for scorer in scorers}
        for row, (places, scores) in enumerate(read):
            for scorer, values in scores.items():
                self.scores[scorer][row] = _placed(values, places, len(columns))

    def scorer(self, metric: str) -> str | None:
        """The scorer of a metric as evaluations call it: ``match``, ``match/accuracy`` or, of the
        only scorer, ``accuracy``.
        """
        fitting = [
            scorer for scorer in self.scores if metric == scorer or metric.startswith(f"{scorer}/")
        ]
        if not fitting and any(metric in facts["metrics"] for facts in self.facts):
            fitting = list(self.scores)
        if len(fitting) > 1:
            fitting = [
                scorer
                for scorer in fitting
                if not self.differing(metric, scorer, range(len(self.facts)))
            ] or fitting
        return max(fitting, key=len) if fitting else None

    def differing(
        self, metric: str, scorer: str, rows: Iterable[int]
    ) -> tuple[float, float] | None:
        """The first value of ``metric`` that is not the mean of the items' scores, and that
        mean.
        """
        import numpy as np

        for row in rows:
            reported, scores = self.facts[row]["metrics"].get(metric), self.scores[scorer][row]
            mean = float(scores[np.isfinite(scores)].sum()) / max(int(np.isfinite(scores).sum()), 1)
            if reported is not None and not math.isclose(
                reported, mean, rel_tol=1e-3, abs_tol=1e-3
            ):
                return reported, mean
        return None

    def clusters(self, key: str | None) -> npt.NDArray[np.int64] | None:
        """The items' clusters by their metadata ``key``; an item without it is one of its own."""
        import numpy as np

        if key is None:
            return None
        if self.metadata and not any(key in about for about in self.metadata):
            valid = {name for about in self.metadata for name in about}
            raise ConfigError(
                "cluster",
                key,
                f"no such key in the metadata of {self.name}'s samples; {choices(key, valid)}",
            )
        labels: dict[str, int] = {}
        names = (
            _text(about[key]) if key in about else f"\0{item}"
            for item, about in enumerate(self.metadata)
        )
        return np.array([labels.setdefault(name, len(labels)) for name in names])


def _samples(folder: Path) -> list[dict[str, Any]]:
    """What an evaluation says of its items; nothing where it left no ``samples.jsonl``."""
    try:
        text = (folder / "samples.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    try:
        # newlines in strings are escaped
        rows: list[dict[str, Any]] = json.loads(b"[" + text.strip().replace(b"\n", b",") + b"]")
    except ValueError as error:
        raise CorruptRecord(
            f"{folder / 'samples.jsonl'}: not JSON, line by line ({error})"
        ) from None
    return rows


def _scores(samples: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
    """Numbers by scorer, NaN where there is none."""
    import numpy as np

    found = {}
    for scorer in dict.fromkeys(name for sample in samples for name in sample["scores"]):
        values = [sample["scores"].get(scorer) for sample in samples]
        try:
            found[scorer] = np.array(values, dtype=float)
        except (TypeError, ValueError):
            found[scorer] = np.array([_number(value) for value in values])
    return found


#: As Inspect's ``value_to_float`` has it.
_VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def _number(value: Any) -> float:
    if isinstance(value, str):
        known = _VALUES.get(value, _VALUES.get(value.lower()) if len(value) > 1 else None)
        if known is not None:
            return known
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _placed(
    values: npt.NDArray[np.float64], places: Sequence[int], items: int
) -> npt.NDArray[np.float64]:
    """The values in the items' columns; the mean of those that an item has in several epochs."""
    import numpy as np

    there = np.isfinite(values)
    where = np.array(places)[there]
    with np.errstate(invalid="ignore"):
        return np.bincount(where, values[there], items) / np.bincount(where, minlength=items)


class FactoredSweep:
    """A sweep's trials by their factors, and the scores of its tasks, each file read once."""

    def __init__(self, result: SweepResult) -> None:
        self.design = result.design
        self.tuned = [trial for trial in result.trials if not trial.control]
        self.controls = [trial for trial in result.trials if trial.control]
        self.treatments = {
            name: list(levels) for name, levels in (result.design.get("treatments") or {}).items()
        }
        parts = bundled(result.design)
        seen = {
            name: {_text(level) for level in levels} for name, levels in self.treatments.items()
        }
        for trial in self.tuned:  # a later launch may have brought more
            for name, level in trial.factors.items():
                if name not in parts and _text(level) not in seen.setdefault(name, set()):
                    seen[name].add(_text(level))
                    self.treatments.setdefault(name, []).append(level)
        self.levels = {
            trial.name: {name: _text(level) for name, level in trial.factors.items()}
            for trial in result.trials
        }
        self.evals = {
            trial.name: {_task_of(stage): stage for stage in trial.stages if stage.kind.scores}
            for trial in result.trials
        }
        self.runs: dict[str, int] = {}

    @cached_property
    def tasks(self) -> dict[str, TaskScores]:
        """All tasks by name."""
        stages: dict[str, dict[str, StageResult]] = {}
        for evals in self.evals.values():
            for task, stage in evals.items():
                stages.setdefault(task, {})[stage.key] = stage
        return {task: TaskScores(task, found.values()) for task, found in stages.items()}

    def metrics(self, name: str | None) -> list[_Metric]:
        """The metric of that name, or all there are. Raises ``ConfigError`` where none has the
        name.
        """
        known = [
            _Metric(f"{task.name}/{scorer}", task, scorer)
            for task in self.tasks.values()
            for scorer in task.scores
        ]
        if name is None:
            return known + [
                _Metric(task.name, task, None) for task in self.tasks.values() if not task.scores
            ]
        for task in self.tasks.values():
            if name.startswith(f"{task.name}/"):
                scorer = task.scorer(name.removeprefix(f"{task.name}/"))
                if scorer is not None or not task.scores:
                    return [_Metric(name, task, scorer)]
        raise ConfigError(
            "metric",
            name,
            f"no metric of this sweep; {choices(name, [metric.name for metric in known])}",
        )

    def pairs(
        self, contrast: Contrast
    ) -> dict[tuple[str | None, ...], tuple[list[TrialResult], list[TrialResult]]]:
        """The trials of either side, by block: the levels of all other factors but the seed."""
        others = self.others(contrast)
        sides = [_text(contrast.base), _text(contrast.level)]
        at = {name: _text(level) for name, level in contrast.at.items()}
        found: dict[tuple[str | None, ...], tuple[list[TrialResult], list[TrialResult]]] = {}
        for trial in self.tuned:
            levels = self.levels[trial.name]
            if any(levels.get(name) != level for name, level in at.items()):
                continue
            block = tuple(levels.get(name) for name in others)
            if contrast.factor == CONTROL:
                low, high = found.setdefault(block, ([], []))
                high.append(trial)
                if not low:
                    low += self._control_of(trial)
            elif levels.get(contrast.factor) in sides:
                found.setdefault(block, ([], []))[sides.index(levels[contrast.factor])].append(
                    trial
                )
        return found

    def others(self, contrast: Contrast) -> list[str]:
        """The factors whose levels make the blocks of a contrast."""
        return [name for name in self.treatments if name not in (SEED, CONTROL, contrast.factor)]

    def _control_of(self, trial: TrialResult) -> list[TrialResult]:
        """The untouched model that the trial started from, under the same evaluation: the control
        trial that shares the most levels.
        """
        levels = self.levels[trial.name].items()
        fitting = [
            control for control in self.controls if self.levels[control.name].items() <= levels
        ]
        return [max(fitting, key=lambda control: len(control.factors))] if fitting else []

    def run(self, trial: TrialResult) -> int:
        """A number for the fine-tune that the trial evaluates."""
        keys = [stage.key for stage in trial.stages if stage.kind.tunes]
        return self.runs.setdefault(keys[-1] if keys else trial.id, len(self.runs))


def _task_of(stage: StageResult) -> str:
    return str(stage.facts.get("task") or stage.label.removeprefix("eval:"))


def _compared(sweep: FactoredSweep, contrast: Contrast, metric: _Metric) -> _Compared:
    import numpy as np

    from mosweep.analysis.statistics import compare

    task, others, pairs = metric.task, sweep.others(contrast), sweep.pairs(contrast)
    scores = task.scores[metric.scorer] if metric.scorer is not None else np.empty((0, 0))
    clusters = task.clusters(contrast.cluster)
    whole = [block for block, sides in pairs.items() if all(sides)] or list(pairs)

    def named(block: Sequence[str | None], among: Iterable[Sequence[str | None]]) -> str:
        """What tells the block from the others."""
        places = [
            place
            for place, name in enumerate(others)
            if name not in contrast.at and len({one[place] for one in among}) > 1
        ]
        return ",".join(f"{others[place]}={block[place]}" for place in places)

    lost, names = _Lost(contrast), list[str]()
    blocks: list[tuple[Scores, Scores]] = []
    used: list[int] = []
    for block, sides in pairs.items():
        if not any(task.name in sweep.evals[trial.name] for trials in sides for trial in trials):
            continue  # these have another task
        low, high = (
            lost.scored(sweep, side, trials, task, scores) for side, trials in enumerate(sides)
        )
        if all(side and np.isfinite(scores[list(side)]).all(axis=0).any() for side in (low, high)):
            names.append(named(block, whole))
            blocks.append(
                (_side(sweep, low, scores, clusters), _side(sweep, high, scores, clusters))
            )
            used += [*low, *high]
        else:
            lost.blocks.append(named(block, pairs) or "all")
    if not blocks:
        return _Compared(
            contrast,
            metric.name,
            None,
            (),
            [*lost.notes(), f"no trials with results differ in {contrast.factor} alone"],
        )
    found = compare(blocks)
    seen = int(np.isfinite(scores[used]).any(axis=0).sum())
    notes = lost.notes()
    if found.items < seen:
        notes.append(f"{seen - found.items} of {seen} items left out: not scored in every run")
    if metric.scorer and (
        differing := task.differing(metric.name.removeprefix(f"{task.name}/"), metric.scorer, used)
    ):
        reported, mean = differing
        notes.append(
            f"{metric.name} ({reported:.4g}) is not the mean of its items' scores ({mean:.4g}), "
            "which the effect is of"
        )
    return _Compared(contrast, metric.name, found, names, notes)


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
class _Lost:
    """What of a contrast's trials cannot be compared, and why: trials by side and reason, and how
    many there are on either side.
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

        found: dict[int, TrialResult] = {}
        seeds = set()
        for trial in trials:
            stage, seed = sweep.evals[trial.name].get(task.name), sweep.levels[trial.name].get(SEED)
            row = task.rows.get(stage.key) if stage else None
            self.trials[side].add(trial.name)
            if stage is None:
                reason = f"not evaluated on {task.name}"
            elif stage.record is None:
                reason = trial.status if trial.status in ("failed", "cancelled") else "not finished"
            elif row is None or not np.isfinite(scores[row]).any():
                reason = "without a score of any item"
            elif row in found:
                continue  # the same trial under another name
            elif seed in seeds:
                reason = "left out, same factors and seed as another"
            else:
                seeds.add(seed)
                found[row] = trial
                continue
            self.why.setdefault((side, reason), {})[trial.name] = None
        return found

    def notes(self) -> list[str]:
        """Lines for people."""
        sides = [
            f"{self.contrast.factor}={_text(level)}"
            for level in (self.contrast.base, self.contrast.level)
        ]
        notes = []
        for (side, reason), names in self.why.items():
            notes.append(
                f"{len(names)} of {len(self.trials[side])} trials at {sides[side]} {reason}: "
                f"{_some(list(names))}"
            )
        if self.blocks:
            notes.append(f"without results on both sides: {_some(self.blocks)}")
        return notes
