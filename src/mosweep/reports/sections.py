"""The sections of a report, the most important first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mosweep.analysis.contrasts import BUNDLE, SEED, bundled
from mosweep.config.secrets import masked
from mosweep.core.fingerprint import digest_bytes
from mosweep.core.levels import level_text, setting_text
from mosweep.core.results import StageResult
from mosweep.core.table import some_of
from mosweep.cost.spending import spending
from mosweep.reports.contamination import examples, overlap_rows
from mosweep.reports.content import Content
from mosweep.reports.findings import NAMES, effects_section, findings, signed, verdicts
from mosweep.reports.page import Facts, Figure, Report, Section, Table, Text
from mosweep.reports.summary import measured
from mosweep.reports.tables import log_place, seconds, sizes

__all__ = ["report_of"]

#: Maximum number of levels of a factor in a sentence.
LEVELS = 12

_FIGURES = {
    "effects": "Effects at a glance",
    "scores": "Scores by factor",
    "interaction": "Interaction",
    "loss": "Training loss",
}


def report_of(content: Content, figures: Mapping[str, Figure]) -> Report:
    """The report of a sweep, with ``figures`` by name."""
    sections = [
        Section("In short", list(_in_short(content))),
        Section("What was found", list(findings(content))),
        Section("What failed", list(_failures(content))),
        *(Section(_FIGURES[name], [figure]) for name, figure in figures.items()),
        Section("Effects", list(effects_section(content))),
        Section("Trials", list(_trials(content))),
        Section("Contamination", list(_contamination(content))),
        Section("Exploratory trials", list(_exploratory(content))),
        Section("Where this comes from", list(_provenance(content))),
    ]
    return Report(
        content.result.name,
        str(content.design.get("description") or ""),
        [section for section in sections if section.blocks],
    )


def _in_short(content: Content) -> Iterator[Text | Facts]:
    result = content.result
    if result.pretended:
        yield Text(
            "The dummy backend made these numbers up: nothing was trained or measured.",
            warning=True,
        )
    hidden = {SEED, *bundled(content.design)}
    factors = [
        f"{name}: {_listed(content, name, levels)}"
        for name, levels in content.levels.items()
        if name not in hidden
    ]
    seeds = [level_text(seed) for seed in content.levels.get(SEED, [])]
    failed = f"{len(content.failed)} of {len(result.trials)} trials, see below"
    pairs = [
        ("found", "\n".join(verdicts(content)) or "nothing to compare"),
        ("failed", failed if content.failed else "nothing"),
        ("compared", "\n".join(factors) or "one configuration"),
        ("trials", _counts(content)),
        ("seeds", f"{len(seeds)}: {some_of(seeds, LEVELS)}" if seeds else "one"),
        ("measured", "; ".join(_measured(content)) or "nothing"),
    ]
    if spent := spending(result):
        pairs.append(("providers", str(spent)))
    yield Facts(pairs)


def _counts(content: Content) -> str:
    trials = content.result.trials
    by_status = Counter(trial.status for trial in trials).most_common()
    text = f"{len(trials)}: " + ", ".join(f"{count} {status}" for status, count in by_status)
    if controls := len(content.result.controls):
        text += f"; {controls} of them untouched base models (control trials)"
    if content.exploratory:
        text += f"; {len(content.exploratory)} exploratory (not in the first frozen design)"
    return text


def _listed(content: Content, factor: str, levels: Sequence[Any]) -> str:
    """The levels of a factor. A named bundle is followed by its levels."""
    texts = [level_text(level) for level in levels]
    if factor == BUNDLE:
        bundles = content.design["bundles"]
        texts = [
            f"{text} ({setting_text(bundles[text], ', ')})"
            if text in bundles and setting_text(bundles[text]) != text
            else text
            for text in texts
        ]
    return some_of(texts, LEVELS)


def _measured(content: Content) -> Iterator[str]:
    """Each task with its number of items and its metrics."""
    sizes_of: dict[str, set[int]] = {}
    for trial in content.result.trials:
        for stage in trial.stages:
            if stage.kind.scores:
                counts = sizes_of.setdefault(stage.task, set())
                if stage.evaluation:
                    counts |= stage.evaluation.sizes
    for task, counts in sizes_of.items():
        items = "/".join(map(str, sorted(counts))) or "no"
        metrics = [
            name.removeprefix(f"{task}/") for name in content.metrics if name.startswith(f"{task}/")
        ]
        yield f"{task} ({items} items)" + (f": {some_of(metrics, 4)}" if metrics else "")


def _failures(content: Content) -> Iterator[Text | Table]:
    trials = content.result.trials
    if content.failed:
        yield Text(
            f"{len(content.failed)} of {len(trials)} trials failed or were cancelled: "
            f"{some_of(content.failed, NAMES)}",
            warning=True,
        )
    else:
        yield Text("No trial failed.")
    if waiting := [trial.name for trial in trials if trial.status in ("running", "pending")]:
        yield Text(
            f"{len(waiting)} of {len(trials)} trials are not finished: {some_of(waiting, NAMES)}",
            warning=True,
        )
    stages: dict[str, tuple[StageResult, list[str]]] = {}
    for trial in trials:
        for stage in trial.stages:
            if stage.status in ("failed", "cancelled"):
                stages.setdefault(stage.key, (stage, []))[1].append(trial.name)
    if stages:
        header = ["trial", "stage", "status", "why", "log, from the sweep's folder"]
        rows = [
            [
                some_of(names, 2),
                stage.label,
                stage.status,
                stage.error or "",
                log_place(content, stage.log),
            ]
            for stage, names in stages.values()
        ]
        yield Table(header, rows, "mosweep summary lists all")


def _trials(content: Content) -> Iterator[Table | Text]:
    factors = list(content.levels)
    deltas = [f"Δ {name}" for name in content.metrics]
    header = ["trial", *factors, *content.metrics, "n", *deltas, "status", "seconds"]
    rows = []
    for trial in sorted(content.result.trials, key=lambda trial: not trial.control):
        kind = "exploratory" if trial.name in content.exploratory else "tuned"
        against = content.deltas(trial)
        marked = ", contaminated" if trial.name in content.contaminated else ""
        rows.append(
            [
                "control" if trial.control else kind,
                *(trial.factors.get(name) for name in factors),
                *(measured(trial, name) for name in content.metrics),
                sizes(trial),
                *(signed(against[name]) if name in against else None for name in content.metrics),
                f"{trial.status}{marked}",
                seconds(trial),
            ]
        )
    yield Table(header, rows, "trials.csv has all")
    yield Text(
        "± is the standard error over items. Δ is the difference from the untouched base model. "
        "The seconds are those of all stages of a trial."
    )


def _contamination(content: Content) -> Iterator[Table | Text]:
    hit = [one for one in content.overlaps if one.hits]
    if hit:
        allowed = f"; more than {content.limit:.1%} is refused" if content.limit is not None else ""
        yield Text(
            f"Some evaluation items are in the training data{allowed}. mosweep contamination "
            "shows them all.",
            warning=True,
        )
        header = ["trial", "task", "items", "hits", "overlap"]
        header += ["scorer", "all", "without hits", "hits only"]
        rows = []
        for one in hit:
            about = [one.trial, one.task, one.items, len(one.hits), f"{one.fraction:.1%}"]
            rows += overlap_rows(about, one)
        yield Table(header, rows)
        first = next(examples(hit))
        texts = {
            hit.snippet: [first.task, hit.id, hit.kind, hit.row, hit.snippet]
            for hit in first.hits[:5]
        }
        yield Table(["task", "item", "how", "training row", "text"], list(texts.values()))
    elif content.overlaps:
        yield Text(
            f"None: {len(content.overlaps)} evaluations share no items with the training data of "
            "their models."
        )


def _exploratory(content: Content) -> Iterator[Text | Table]:
    if content.exploratory:
        yield Text(
            "These trials are not in the first frozen design; a later launch added them. Their "
            "results are exploratory, because earlier results could be seen when they were chosen."
        )
        rows = [
            [trial.name, trial.status]
            for trial in content.result.trials
            if trial.name in content.exploratory
        ]
        yield Table(["trial", "status"], rows, "trials.csv has all")


def _provenance(content: Content) -> Iterator[Facts]:
    about = content.design.get("provenance") or {}
    git, versions = about.get("git") or {}, about.get("versions") or {}
    command = str(content.design.get("command") or "")
    later = dict.fromkeys(
        str(masked(launch.design.get("command") or "")) for launch in content.sweep.launches
    )
    commit = str(git.get("commit") or "none yet" if git else "")
    frozen = content.sweep.folder / "experiment.yaml"
    design = digest_bytes(frozen.read_bytes()) if frozen.exists() else ""
    pairs = [
        ("command", command),
        ("later commands", "\n".join(one for one in later if one not in (command, ""))),
        ("git commit", f"{commit} with uncommitted changes" if git.get("dirty") else commit),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("platform", str(about.get("platform") or "")),
        ("design", f"{design} (SHA-256 of experiment.yaml)" if design else ""),
        ("first launch", content.first.file.removesuffix(".json") if content.first else ""),
    ]
    yield Facts([(word, text) for word, text in pairs if text])
