"""Running trials: freeze the design, plan, launch, record, report. The one path that every launcher and library user takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.config import Config, Tracking
from mosweep.core.events import Recorder, Recorders, SweepFinished, SweepStarted
from mosweep.core.provenance import provenance
from mosweep.core.results import SweepResult
from mosweep.core.schema import plain
from mosweep.core.store import Record, Store
from mosweep.core.types import Trial, unique_stages
from mosweep.launchers.base import Launcher
from mosweep.paths import home
from mosweep.plan import Plan, make_plan
from mosweep.recorders.journal import JournalRecorder
from mosweep.recorders.progress import Progress
from mosweep.reports.summary import print_outcome
from mosweep.sweep import Sweep

__all__ = ["finish", "launch", "link_and_record", "prepare", "run_trials", "store_of", "tracking_recorder", "tracking_uri"]


def store_of(config: Config) -> Store:
    """The store that a configuration means."""
    return Store(Path(config.store.dir).absolute() if config.store.dir else home() / "store")


def tracking_uri(uri: str | None) -> str:
    """MLflow's tracking URI: the one given, by default a SQLite file in mosweep's home."""
    return uri or f"sqlite:///{home() / 'mlflow.db'}"


def tracking_recorder(tracking: Tracking) -> list[Recorder]:
    """The projection that the configuration asks for; none for ``tracking=none``."""
    if tracking.recorder == "none":
        return []
    from mosweep.recorders.mlflow import MLflowRecorder

    return [MLflowRecorder(tracking_uri(tracking.uri))]


def prepare(trials: Sequence[Trial], config: Config, folder: Path, design: Mapping[str, Any]) -> tuple[list[Trial], Store, Sweep]:
    """Freeze ``trials`` in their sweep's folder; returns them under the names they have there."""
    store, sweep = store_of(config), Sweep(folder)
    about = {**design, "tracking": plain(config.tracking), "provenance": provenance(Path.cwd())}
    return sweep.freeze(trials, store, about), store, sweep


def run_trials(
    trials: Sequence[Trial],
    config: Config,
    folder: Path,
    design: Mapping[str, Any],
    launcher: Launcher,
    *,
    within: bool = False,
) -> SweepResult:
    """Run ``trials`` as (part of) the sweep in ``folder``; returns all that is then known about these trials.

    ``within``: one job of a sweep whose design is frozen, recorded and reported elsewhere.
    """
    if within:
        store, sweep = store_of(config), Sweep(folder)
    else:
        trials, store, sweep = prepare(trials, config, folder, design)
    plan = make_plan(trials, store)
    launch(plan, store, sweep, launcher, quiet=within)
    if within:
        return sweep.result()
    return finish(trials, config, store, sweep, plan.records)


def launch(plan: Plan, store: Store, sweep: Sweep, launcher: Launcher, *, quiet: bool = False) -> None:
    """Run what the plan lacks, telling journal and terminal."""
    if not plan.to_run:
        return
    recorder = Recorders([JournalRecorder(sweep.journal), *([] if quiet else [Progress()])])
    counts = plan.counts
    recorder.sweep_started(SweepStarted(sweep.folder, len(plan.trials), counts["total"], counts["cached"], len(plan.to_run)))
    launcher.run(plan, store, recorder)


def finish(trials: Sequence[Trial], config: Config, store: Store, sweep: Sweep, records: Mapping[str, Record] | None = None) -> SweepResult:
    """Link, record and print what ``trials`` have come to."""
    result = link_and_record(trials, config.tracking, store, sweep, records or {})
    print_outcome(result, os.path.relpath(sweep.folder))
    return result


def link_and_record(trials: Sequence[Trial], tracking: Tracking, store: Store, sweep: Sweep, records: Mapping[str, Record]) -> SweepResult:
    """Link the trials' folders to what their stages left, and record the sweep; what is known of these trials."""
    known = dict(records)
    for key in unique_stages(trials):
        if key not in known and (record := store.read(key)):
            known[key] = record
    sweep.link(trials, known)
    result = sweep.result(known)
    Recorders(tracking_recorder(tracking)).sweep_finished(SweepFinished(result))
    names = {trial.name for trial in trials}
    return replace(result, trials=tuple(trial for trial in result.trials if trial.name in names))
