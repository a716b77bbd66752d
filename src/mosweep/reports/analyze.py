"""``analyze``: a sweep's report as a folder: one page to read, the same as Markdown, and its
numbers as tables.

    report.html  report.md       what was compared and found, what failed, where it comes from
    plots/*.svg                  the page's plots
    trials, items, effects       .csv and .parquet, each

Everything is made of records alone: the same records make the same files.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.analysis.contamination import Overlap, limit_of, overlap
from mosweep.analysis.effects import (
    BUNDLE,
    CONTROL,
    SEED,
    Effect,
    bundled,
    compared,
    effects,
    with_bundles,
)
from mosweep.config.secrets import masked
from mosweep.core.errors import MissingExtra, UserError
from mosweep.core.files import write_whole
from mosweep.core.fingerprint import digest_bytes
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.cost.spending import spending
from mosweep.evals.base import read_samples
from mosweep.reports import page, plots
from mosweep.reports.page import Facts, Figure, Findings, Report, Section, Table, Text
from mosweep.sweep.folder import Launch, Sweep

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Analysis", "Content", "analyze"]

#: Findings, and those in short; panels of the scores' plot; names of trials in a sentence; notes of
#: a finding, and their letters.
FINDINGS, VERDICTS, PANELS, NAMES, NOTES, NOTE = 10, 4, 8, 6, 3, 140
STAMP = "made up by the dummy backend"


@dataclass(frozen=True)
class Analysis:
    """What was written: the ``files`` in ``folder``, and the ``effects``; ``problem`` says why
    there are none.
    """

    folder: Path
    files: tuple[str, ...]
    effects: tuple[Effect, ...]
    problem: str | None


def analyze(sweep: Sweep, result: SweepResult, folder: Path) -> Analysis:
    """Write the report of a sweep into ``folder``, over what is there under the same names."""
    for library in ("numpy", "scipy", "pandas", "pyarrow", "matplotlib"):
        if find_spec(library) is None:
            raise MissingExtra(library, "reports", "a report")
    content = Content(sweep, result, folder)
    drawn = {figure.name: figure for figure in content.figures}
    report = content.report()
    tables = {
        "trials": content.trials_table(),
        "items": content.items_table(),
        "effects": content.effects_table(),
    }
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    files = ["report.html", "report.md"]
    write_whole(folder / "report.html", page.html(report))
    write_whole(folder / "report.md", page.markdown(report))
    for name in ("effects", "scores", "interaction", "loss"):
        if name in drawn:
            files.append(f"plots/{name}.svg")
            write_whole(folder / "plots" / f"{name}.svg", drawn[name].svg)
        else:
            (folder / "plots" / f"{name}.svg").unlink(missing_ok=True)
    for name, table in tables.items():
        files += [f"{name}.csv", f"{name}.parquet"]
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        table.to_parquet(folder / f"{name}.parquet", engine="pyarrow", index=False)
    return Analysis(folder, tuple(files), content.effects, content.problem)


class Content:
    """What there is to say of a sweep: its ``effects``, its plots (``figures``) and its tables, as
    DataFrames.

    ``folder`` is where the report goes, or would; without it, ``report`` in the sweep's folder.
    Nothing is written.
    """

    def __init__(
        self, sweep: Sweep, result: SweepResult | None = None, folder: Path | None = None
    ) -> None:
        result = with_bundles(result or sweep.result())
        self.sweep, self.result, self.folder = sweep, result, folder or sweep.folder / "report"
        self.tuned = [trial for trial in result.trials if not trial.control]
        self.controls = [trial for trial in result.trials if trial.control]
        self.failed = [
            trial.name for trial in result.trials if trial.status in ("failed", "cancelled")
        ]
        self.overlaps = overlap(result)
        limit = limit_of(result)
        self.contaminated = {
            one.trial for one in self.overlaps if limit is not None and one.fraction > limit
        }
        self.dummy = any(
            stage.facts.get("dummy") for trial in result.trials for stage in trial.stages
        )
        self.stamp = STAMP if self.dummy else ""
        self.effects: tuple[Effect, ...] = ()
        self.problem: str | None = None
        try:
            self.effects = tuple(effects(result))
        # such as a primary metric that no trial has: the rest is worth reading all the same
        except UserError as error:
            self.problem = str(error)

    # -- the design --------------------------------------------------------------------------------

    @cached_property
    def first(self) -> Launch | None:
        """The launch whose design was frozen."""
        launches = {launch.file: launch for launch in self.sweep.launches}
        known = (str(event["file"]) for event in self.sweep.journal.read("launch"))
        return next(
            (launches[file] for file in known if file in launches),
            next(iter(launches.values()), None),
        )

    @cached_property
    def exploratory(self) -> set[str]:
        """Names of the trials that a later launch brought."""
        designed = {trial["name"] for trial in self.first.trials} if self.first else set()
        return {trial.name for trial in self.result.trials if trial.name not in designed}

    @cached_property
    def design(self) -> Mapping[str, Any]:
        """The design as it was first frozen; what looks like a secret is masked."""
        found: Mapping[str, Any] = masked(
            dict(self.first.design if self.first else self.result.design)
        )
        return found

    @cached_property
    def levels(self) -> dict[str, list[Any]]:
        """Factors with their levels, those of the design first."""
        found: dict[str, dict[str, Any]] = {}
        for name, levels in compared(self.design).items():
            found[name] = {_text(level): level for level in levels}
        for trial in self.tuned or self.controls:
            for name, level in trial.factors.items():
                found.setdefault(name, {}).setdefault(_text(level), level)
        return {name: list(levels.values()) for name, levels in found.items()}

    @cached_property
    def varied(self) -> list[str]:
        """Factors to plot scores by."""
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
        known = {
            name: {_text(level) for level in levels}
            for name, levels in compared(self.design).items()
        }
        contrast = effect.contrast
        asked = (
            {} if contrast.factor == CONTROL else {contrast.factor: [contrast.base, contrast.level]}
        )
        asked |= {name: [level] for name, level in contrast.at.items()}
        return any(
            _text(level) not in known.get(name, ())
            for name, levels in asked.items()
            for level in levels
        )

    # -- the report --------------------------------------------------------------------------------

    def report(self) -> Report:
        """All of it, the most important first."""
        sections = [
            Section("In short", list(self._in_short())),
            Section("What was found", list(self._found())),
            Section("What failed", list(self._failed())),
            *(
                Section(title, [figure])
                for title, name in _PLOTS
                for figure in self.figures
                if figure.name == name
            ),
            Section("Effects", list(self._effects())),
            Section("Trials", list(self._trials())),
            Section("Contamination", list(self._contamination())),
            Section("Exploratory trials", list(self._deviations())),
            Section("Where this comes from", list(self._provenance())),
        ]
        description = str(self.design.get("description") or "")
        return Report(
            self.result.name, description, [section for section in sections if section.blocks]
        )

    def _in_short(self) -> Iterator[Text | Facts]:
        if self.dummy:
            yield Text(
                "These numbers were made up by the dummy backend: nothing was trained or measured.",
                warning=True,
            )
        counts = Counter(trial.status for trial in self.result.trials)
        trials = f"{len(self.result.trials)}: " + ", ".join(
            f"{number} {status}" for status, number in counts.most_common()
        )
        if self.controls:
            trials += f"; {len(self.controls)} of them untouched base models (control trials)"
        if self.exploratory:
            trials += f"; {len(self.exploratory)} exploratory (not in the first frozen design)"
        hidden = {SEED, *bundled(self.design)}
        factors = [
            f"{name}: {self._listed(name, levels)}"
            for name, levels in self.levels.items()
            if name not in hidden
        ]
        seeds = self.levels.get(SEED, [])
        tasks: dict[str, set[int]] = {}
        for trial in self.result.trials:
            for stage in trial.stages:
                if stage.kind.scores:
                    sizes = tasks.setdefault(
                        str(stage.facts.get("task") or stage.label.removeprefix("eval:")), set()
                    )
                    sizes |= {stage.facts["n"]} if stage.record else set()
        spent = spending(self.result)
        yield Facts(
            [
                ("found", "\n".join(self._verdicts()) or "nothing to compare"),
                (
                    "failed",
                    f"{len(self.failed)} of {len(self.result.trials)} trials, see below"
                    if self.failed
                    else "nothing",
                ),
                ("compared", "\n".join(factors) or "one configuration"),
                ("trials", trials),
                (
                    "seeds",
                    f"{len(seeds)}: {_some([_text(seed) for seed in seeds], 12)}"
                    if seeds
                    else "one",
                ),
                (
                    "measured",
                    "; ".join(self._measured(task, sizes) for task, sizes in tasks.items())
                    or "nothing",
                ),
                *([("providers", str(spent))] if spent else []),
            ]
        )

    def _measured(self, task: str, sizes: Iterable[int]) -> str:
        metrics = [
            name.removeprefix(f"{task}/") for name in self.metrics if name.startswith(f"{task}/")
        ]
        return f"{task} ({'/'.join(map(str, sorted(sizes))) or 'no'} items)" + (
            f": {_some(metrics, 4)}" if metrics else ""
        )

    @cached_property
    def ranked(self) -> list[Effect]:
        """The effects, those that say something first."""
        return sorted(
            self.effects, key=lambda effect: (not _decided(effect), effect.estimate is None)
        )

    def _verdicts(self) -> Iterator[str]:
        """What was found, a line each, and how much is open."""
        decided = [effect for effect in self.ranked if _decided(effect)]
        several = len({effect.metric for effect in self.effects}) > 1
        for effect in decided[:VERDICTS]:
            assert (
                effect.estimate is not None and effect.low is not None and effect.high is not None
            )
            interval = (
                f"{_signed(effect.estimate)} ({effect.level:.0%} interval {_signed(effect.low)} "
                f"to {_signed(effect.high)})"
            )
            name = (
                "fine-tuned, against untouched"
                if str(effect.contrast) == "tuned vs control"
                else self._named(effect)
            )
            yield f"{effect.verdict}: {name}: {interval}" + (
                f" on {effect.metric}" if several else ""
            )
        if len(decided) > VERDICTS:
            yield f"{len(decided) - VERDICTS} more that are decided"
        if rest := [effect for effect in self.ranked if not _decided(effect)]:
            yield f"not decisive: {_some(list(dict.fromkeys(map(self._named, rest))), 3)}"

    def _listed(self, factor: str, levels: Sequence[Any]) -> str:
        """The levels of a factor; a bundle that has a name with what it stands for."""
        texts = [_text(level) for level in levels]
        if factor == BUNDLE:
            meant = {
                name: ", ".join(f"{key}={_text(level)}" for key, level in one.items())
                for name, one in self.design["bundles"].items()
            }
            texts = [
                f"{text} ({meant[text]})"
                if meant.get(text, text).replace(", ", ",") != text
                else text
                for text in texts
            ]
        return _some(texts, 12)

    def _found(self) -> Iterator[Text | Findings]:
        if self.problem:
            yield Text(f"Effects could not be computed: {self.problem}", warning=True)
        if self.contaminated:
            names = _some(sorted(self.contaminated), NAMES)
            yield Text(
                "Contaminated, with more evaluation items in the training data than allowed: "
                f"{names}",
                warning=True,
            )
        if not self.effects:
            yield Text("No two groups of trials to compare.")
            return
        yield Findings([self._finding(effect) for effect in self.ranked[:FINDINGS]])
        if len(self.effects) > FINDINGS:
            yield Text(
                f"… and {len(self.effects) - FINDINGS} more comparisons, in the table of effects "
                "below."
            )
        several = (
            f"All {len(self.effects)} comparisons"
            if len(self.effects) > 1
            else "The one comparison"
        )
        risk = 1 - self.effects[0].level
        yield Text(
            f"{several} together: a chance of at most {risk:.0%} that any increase or decrease "
            "is a false find (Holm). "
            "“Not decisive” means that these trials cannot tell, not that there is no difference."
        )

    def _finding(self, effect: Effect) -> tuple[str, str, str]:
        """Verdict, sentence, and how certain it is."""
        contrast, metric = effect.contrast, effect.metric
        at = (
            f" at {', '.join(f'{name}={_text(level)}' for name, level in contrast.at.items())}"
            if contrast.at
            else ""
        )
        if contrast.factor == CONTROL:
            what, where = "Fine-tuning the base model", at
        else:
            what, where = (
                f"Going from {contrast.factor}={_text(contrast.base)} to {_text(contrast.level)}",
                at,
            )
        besides = (
            ["exploratory: not in the first frozen design"] if self.is_exploratory(effect) else []
        )
        if effect.estimate is None or effect.means is None:
            return (
                effect.verdict,
                f"{what}{where}: nothing to compare on {metric}.",
                "; ".join([*besides, *_shortly(effect.notes)]),
            )
        interval = "no interval"
        if effect.low is not None and effect.high is not None:
            interval = (
                f"{effect.level:.0%} interval {_signed(effect.low)} to {_signed(effect.high)}"
            )
        change = (
            f"{_signed(effect.estimate)} ({interval}), from {effect.means[0]:.3f} to "
            f"{effect.means[1]:.3f}"
        )
        known = {"increase": "raises", "decrease": "lowers"}
        if effect.verdict in known:
            sentence = f"{what}{where} {known[effect.verdict]} {metric} by {change}."
        elif effect.verdict.startswith("equivalent"):
            sentence = f"{what}{where} makes no difference to {metric} that matters: {change}."
        else:
            sentence = f"{what}{where} has no decided effect on {metric}: estimated {change}."
        if effect.p_holm is not None:
            besides.append(f"p {_chance(effect.p_holm)}, adjusted for the number of comparisons")
        besides.append(f"{effect.seeds[0]} against {effect.seeds[1]} seeds, {effect.items} items")
        if effect.mde is not None and effect.verdict not in known:
            besides.append(f"a difference of {effect.mde:.3f} would be found 4 times in 5")
        return effect.verdict, sentence, "; ".join([*besides, *_shortly(effect.notes)])

    def _failed(self) -> Iterator[Text | Table]:
        waiting = [
            trial.name for trial in self.result.trials if trial.status in ("running", "pending")
        ]
        total = len(self.result.trials)
        if self.failed:
            yield Text(
                f"{len(self.failed)} of {total} trials failed or were cancelled: "
                f"{_some(self.failed, NAMES)}",
                warning=True,
            )
        else:
            yield Text("No trial failed.")
        if waiting:
            yield Text(
                f"{len(waiting)} of {total} trials are not finished: {_some(waiting, NAMES)}",
                warning=True,
            )
        stages: dict[str, tuple[StageResult, list[str]]] = {}
        for trial in self.result.trials:
            for stage in trial.stages:
                if stage.status in ("failed", "cancelled"):
                    stages.setdefault(stage.key, (stage, []))[1].append(trial.name)
        if stages:
            rows = [
                [_some(names, 2), s.label, s.status, s.error or "", self._place(s.log)]
                for s, names in stages.values()
            ]
            yield Table(
                ["trial", "stage", "status", "why", "log, from the sweep's folder"],
                rows,
                "mosweep summary lists all",
            )

    def _place(self, log: Path | None) -> str:
        return os.path.relpath(log, self.sweep.folder) if log else ""

    def _effects(self) -> Iterator[Table]:
        header = [
            "comparison",
            "verdict",
            "difference",
            "low",
            "high",
            "p (Holm)",
            "base",
            "level",
            "seeds",
            "items",
            "metric",
        ]
        rows: list[list[Any]] = []
        for effect in self.effects:
            p = None if effect.p_holm is None else _chance(effect.p_holm)
            bounds = [
                None if bound is None else _signed(bound)
                for bound in (effect.estimate, effect.low, effect.high)
            ]
            numbers = [*bounds, p, *(effect.means or (None, None))]
            rows.append(
                [
                    self._named(effect),
                    effect.verdict,
                    *numbers,
                    "/".join(map(str, effect.seeds)),
                    effect.items,
                    effect.metric,
                ]
            )
        if rows:
            yield Table(header, rows, "effects.csv has all, with notes")

    def _named(self, effect: Effect) -> str:
        return str(effect.contrast).replace("->", "→") + (
            " (exploratory)" if self.is_exploratory(effect) else ""
        )

    def _trials(self) -> Iterator[Table | Text]:
        factors = list(self.levels)
        header = [
            "trial",
            *factors,
            *self.metrics,
            "n",
            *(f"Δ {name}" for name in self.metrics),
            "status",
            "seconds",
        ]
        rows = []
        for trial in sorted(self.result.trials, key=lambda trial: not trial.control):
            kind = (
                "control"
                if trial.control
                else "exploratory"
                if trial.name in self.exploratory
                else "tuned"
            )
            against = self.deltas(trial)
            status = (
                f"{trial.status}, contaminated" if trial.name in self.contaminated else trial.status
            )
            cells: list[Any] = [kind, *(trial.factors.get(name) for name in factors)]
            cells += [_with_error(trial, name) for name in self.metrics]
            cells += [
                "/".join(map(str, _sizes(trial))),
                *(_signed(against[name]) if name in against else None for name in self.metrics),
            ]
            rows.append([*cells, status, _seconds(trial)])
        yield Table(header, rows, "trials.csv has all")
        yield Text(
            "± is the standard error over items; Δ the difference from the untouched base model; "
            "seconds are of all a trial's stages."
        )

    def deltas(self, trial: TrialResult) -> dict[str, float]:
        """Each metric's difference from the trial's own control trial: the one that shares the most
        factors with it.
        """
        if trial.control:
            return {}
        found: dict[str, float] = {}
        factors = trial.factors.items()
        fitting = sorted(
            (c for c in self.controls if c.factors.items() <= factors),
            key=lambda c: len(c.factors),
            reverse=True,
        )
        for control in fitting:
            for name, value in control.metrics.items():
                if name in trial.metrics:
                    found.setdefault(name, trial.metrics[name] - value)
        return found

    def _contamination(self) -> Iterator[Table | Text]:
        hit = [one for one in self.overlaps if one.hits]
        if hit:
            limit = limit_of(self.result)
            allowed = f"; more than {limit:.1%} is refused" if limit is not None else ""
            yield Text(
                f"Evaluation items that are in the training data{allowed}. mosweep contamination "
                "shows them all.",
                warning=True,
            )
            header = [
                "trial",
                "task",
                "items",
                "hits",
                "overlap",
                "scorer",
                "all",
                "without hits",
                "hits only",
            ]
            yield Table(header, [row for one in hit for row in _overlap_rows(one)])
            examples = {
                h.snippet: [one.task, h.id, h.kind, h.row, h.snippet]
                for one in hit[:1]
                for h in one.hits[:5]
            }
            yield Table(["task", "item", "how", "training row", "text"], list(examples.values()))
        elif self.overlaps:
            yield Text(
                f"None found: {len(self.overlaps)} evaluations were compared with what their "
                "models were trained on."
            )

    def _deviations(self) -> Iterator[Text | Table]:
        if self.exploratory:
            yield Text(
                "These trials are not in the first frozen design; a later launch brought them. "
                "What they show is exploratory: "
                "it was looked for after something had been seen."
            )
            trials = [trial for trial in self.result.trials if trial.name in self.exploratory]
            yield Table(
                ["trial", "status"],
                [[trial.name, trial.status] for trial in trials],
                "trials.csv has all",
            )

    def _provenance(self) -> Iterator[Facts]:
        about = self.design.get("provenance") or {}
        git, versions = about.get("git") or {}, about.get("versions") or {}
        frozen = self.sweep.folder / "experiment.yaml"
        commands = dict.fromkeys(
            str(masked(launch.design.get("command") or "")) for launch in self.sweep.launches
        )
        own = str(self.design.get("command") or "")
        later = [command for command in commands if command not in (own, "")]
        pairs = [
            ("command", own),
            ("later commands", "\n".join(later)),
            (
                "git commit",
                (git.get("commit") or "")
                + (" with changes not committed" if git.get("dirty") else ""),
            ),
            ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("platform", str(about.get("platform") or "")),
            (
                "design",
                f"{digest_bytes(frozen.read_bytes())} (SHA-256 of experiment.yaml)"
                if frozen.exists()
                else "",
            ),
            ("first launch", self.first.file.removesuffix(".json") if self.first else ""),
        ]
        yield Facts([(word, text) for word, text in pairs if text])

    # -- plots -------------------------------------------------------------------------------------

    @cached_property
    def figures(self) -> list[Figure]:
        """The plots that there are numbers for."""
        return [*self._forest(), *self._scores(), *self._interaction(), *self._loss()]

    def _forest(self) -> Iterator[Figure]:
        shown = [effect for effect in self.effects if effect.estimate is not None]
        if shown:
            less = (
                f" The first {plots.EFFECTS} of {len(shown)} are shown."
                if len(shown) > plots.EFFECTS
                else ""
            )
            caption = (
                f"Differences with their {shown[0].level:.0%} intervals, each by itself. Filled: "
                "increase or decrease; "
                "hollow: not decisive, or a part. Thin: the same at each level of the other "
                f"factors.{less}"
            )
            yield Figure(
                "effects",
                plots.draw_effects([(self._named(effect), effect) for effect in shown], self.stamp),
                caption,
            )

    def _scores(self) -> Iterator[Figure]:
        panels, dots, levels = [], 0, 0
        for metric in self.metrics:
            controls = [
                trial.metrics[metric]
                for trial in self.controls
                if math.isfinite(trial.metrics.get(metric, math.nan))
            ]
            for factor in self.varied:
                values = self._by_level(factor, metric)
                if values:
                    levels = max(levels, len(values))
                    dots = max(dots, sum(map(len, list(values.values())[: plots.LEVELS])))
                    panels.append(
                        plots.Points(
                            factor,
                            metric,
                            values,
                            sum(controls) / len(controls) if controls else None,
                        )
                    )
        if panels:
            less = (
                f" At most {plots.POINTS} of {dots} dots a panel are shown."
                if dots > plots.POINTS
                else ""
            )
            less += (
                f" Of a factor's {levels} levels the first {plots.LEVELS} are shown."
                if levels > plots.LEVELS
                else ""
            )
            less += f" {PANELS} of {len(panels)} panels are shown." if len(panels) > PANELS else ""
            caption = (
                "A dot per trial; bars are means; the dashed line is the mean of the untouched "
                f"base models.{less}"
            )
            yield Figure("scores", plots.draw_scores(panels[:PANELS], self.stamp), caption)

    def _by_level(
        self, factor: str, metric: str, within: Sequence[TrialResult] | None = None
    ) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {_text(level): [] for level in self.levels[factor]}
        for trial in self.tuned if within is None else within:
            value = trial.metrics.get(metric, math.nan)
            if factor in trial.factors and math.isfinite(value):
                found[_text(trial.factors[factor])].append(value)
        return {level: values for level, values in found.items() if values}

    def _interaction(self) -> Iterator[Figure]:
        treatments = [name for name in self.varied if name != SEED]
        if len(treatments) < 2 or not self.metrics:
            return
        (lines, x), metric = treatments[:2], self.metrics[0]
        means = {}
        for level in self.levels[lines]:
            within = [
                trial
                for trial in self.tuned
                if lines in trial.factors and _text(trial.factors[lines]) == _text(level)
            ]
            values = self._by_level(x, metric, within)
            means[_text(level)] = {name: sum(some) / len(some) for name, some in values.items()}
        if any(means.values()):
            rest = " Averaged over all else." if len(treatments) > 2 or SEED in self.levels else ""
            most = max(len(means) - plots.LINES, len(self.levels[x]) - plots.LEVELS)
            rest += (
                f" At most {plots.LINES} lines and {plots.LEVELS} levels are shown."
                if most > 0
                else ""
            )
            caption = (
                f"Means of {metric} by {x}, a line for each {lines}: parallel lines mean no "
                f"interaction.{rest}"
            )
            yield Figure(
                "interaction", plots.draw_interaction(x, lines, metric, means, self.stamp), caption
            )

    def _loss(self) -> Iterator[Figure]:
        title = self.varied[0] if self.varied else ""
        curves: dict[str, tuple[str, Sequence[Sequence[float]]]] = {}
        for trial in self.tuned:
            for stage in trial.stages:
                points = [
                    point
                    for point in stage.facts.get("loss") or ()
                    if point[1] is not None and math.isfinite(point[1])
                ]
                if stage.kind.tunes and points:
                    curves.setdefault(stage.key, (_text(trial.factors.get(title, "")), points))
        if curves:
            shown = (
                f"{min(plots.CURVES, len(curves))} of {len(curves)}"
                if len(curves) > plots.CURVES
                else f"All {len(curves)}"
            )
            caption = f"{shown} fine-tunes' training loss by step" + (
                f", coloured by {title}." if title else "."
            )
            yield Figure(
                "loss", plots.draw_losses(list(curves.values()), title, self.stamp), caption
            )

    # -- tables ------------------------------------------------------------------------------------

    def trials_table(self) -> pd.DataFrame:
        """A row per trial: its factors and metrics under their names, and what else is known."""
        rows = []
        for trial in self.result.trials:
            failed = [stage for stage in trial.stages if stage.status in ("failed", "cancelled")]
            rows.append(
                {
                    "trial": trial.name,
                    **dict(trial.factors),
                    **trial.metrics,
                    **{
                        f"delta {name}": value
                        for name, value in self.deltas(trial).items()
                        if name in self.metrics
                    },
                    "id": trial.id,
                    "control": trial.control,
                    "exploratory": trial.name in self.exploratory,
                    "contaminated": trial.name in self.contaminated,
                    "dummy": any(bool(stage.facts.get("dummy")) for stage in trial.stages),
                    "status": trial.status,
                    "n": "/".join(map(str, _sizes(trial))),
                    "seconds": _seconds(trial),
                    "error": "; ".join(f"{stage.label}: {stage.error}" for stage in failed),
                    "log": "; ".join(self._place(stage.log) for stage in failed),
                }
            )
        own = list(
            dict.fromkeys(
                [
                    "trial",
                    *self.levels,
                    *(name for trial in self.result.trials for name in trial.metrics),
                ]
            )
        )
        return _frame(
            _columns(rows, [*own, *(name for row in rows for name in row if name not in own)])
        )

    def items_table(self) -> pd.DataFrame:
        """A row per trial, task, item, epoch and scorer."""
        columns: dict[str, list[Any]] = {
            name: [] for name in ("trial", "task", "scorer", "item", "epoch", "score")
        }
        for trial in self.result.trials:
            for stage in trial.stages:
                path = Path(str(stage.folder)) / "samples.jsonl"
                if not stage.kind.scores or not stage.record or not path.exists():
                    continue
                for sample in read_samples(path):
                    for scorer, score in (sample.get("scores") or {}).items():
                        cells = (
                            trial.name,
                            stage.facts["task"],
                            scorer,
                            sample["id"],
                            sample.get("epoch", 1),
                            score,
                        )
                        for column, cell in zip(columns.values(), cells, strict=True):
                            column.append(cell)
        return _frame(columns)

    def effects_table(self) -> pd.DataFrame:
        """A row per effect, and below it one for each of its blocks, if it has several."""
        rows: list[dict[str, Any]] = []
        for effect in self.effects:
            contrast, means = effect.contrast, effect.means or (None, None)
            about = {
                "comparison": str(contrast),
                "factor": contrast.factor,
                "base": _text(contrast.base),
                "level": _text(contrast.level),
                "metric": effect.metric,
            }
            shared = ("estimate", "se", "low", "high", "p")
            whole = {
                name: getattr(effect, name)
                for name in (
                    *shared,
                    "df",
                    "p_holm",
                    "delta",
                    "p_equivalence",
                    "mde",
                    "items",
                    "clusters",
                )
            }
            rows.append(
                {
                    **about,
                    "block": "",
                    "exploratory": self.is_exploratory(effect),
                    "verdict": effect.verdict,
                    "confidence": effect.level,
                    "mean_base": means[0],
                    "mean_level": means[1],
                    **whole,
                    "seeds_base": effect.seeds[0],
                    "seeds_level": effect.seeds[1],
                    "paired": effect.paired,
                    "heterogeneity": effect.heterogeneity,
                    "notes": "; ".join(effect.notes),
                }
            )
            for block in effect.blocks if len(effect.blocks) > 1 else ():
                part = {name: getattr(block, name) for name in (*shared, "items")}
                rows.append(
                    {
                        **about,
                        "block": block.name,
                        **part,
                        "seeds_base": block.seeds[0],
                        "seeds_level": block.seeds[1],
                    }
                )
        return _frame(
            _columns(
                rows,
                list(rows[0])
                if rows
                else ["comparison", "metric", "estimate", "low", "high", "verdict"],
            )
        )


_PLOTS = (
    ("Effects at a glance", "effects"),
    ("Scores by factor", "scores"),
    ("Interaction", "interaction"),
    ("Training loss", "loss"),
)


def _columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(names)}


def _frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: _series(values) for name, values in columns.items()})


def _series(values: Sequence[Any]) -> Any:
    """A column of one type, which Parquet wants: whole numbers, numbers, truth values, or else
    text.
    """
    import pandas as pd

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return pd.array(values, dtype="boolean")
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pd.array(values, dtype="Int64")
    if kinds and kinds <= {int, float, bool}:
        return pd.array(
            [math.nan if value is None else float(value) for value in values], dtype="float64"
        )
    return pd.array([None if value is None else _text(value) for value in values], dtype="string")


def _overlap_rows(one: Overlap) -> Iterator[list[Any]]:
    about = [one.trial, one.task, one.items, len(one.hits), f"{one.fraction:.1%}"]
    for scorer, scores in one.scores.items():
        yield [*about, scorer, scores["all"], scores["without"], scores["hits"]]
    if not one.scores:
        yield [*about, "", None, None, None]


def _decided(effect: Effect) -> bool:
    return effect.verdict in ("increase", "decrease") or effect.verdict.startswith("equivalent")


def _shortly(notes: Sequence[str]) -> list[str]:
    """The notes that fit a small paragraph; the table of effects has all."""
    shown = [note if len(note) <= NOTE else f"{note[: NOTE - 1]}…" for note in notes[:NOTES]]
    return (
        [*shown, f"{len(notes) - NOTES} more notes in effects.csv"] if len(notes) > NOTES else shown
    )


def _with_error(trial: TrialResult, name: str) -> str | None:
    value, error = trial.metrics.get(name), trial.metrics.get(name.rpartition("/")[0] + "/stderr")
    if value is None:
        return None
    return f"{value:.3f}" if error is None or math.isnan(error) else f"{value:.3f} ± {error:.3f}"


def _chance(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-0.000", "0.000").replace("+0.000", "0.000")


def _sizes(trial: TrialResult) -> list[int]:
    return sorted(
        {stage.facts["n"] for stage in trial.stages if stage.kind.scores and stage.record}
    )


def _seconds(trial: TrialResult) -> float | None:
    times = [
        s.record["finished"] - s.record["started"]
        for s in trial.stages
        if s.record and "started" in s.record and "finished" in s.record
    ]
    return round(math.fsum(times), 3) if times else None


def _text(level: Any) -> str:
    return (
        json.dumps(level, ensure_ascii=False)
        if isinstance(level, list | dict | bool) or level is None
        else str(level)
    )


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
