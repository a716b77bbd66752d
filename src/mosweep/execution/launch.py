"""Running trials: freeze the design, plan, launch, record, report. The one path that every launcher
and library user takes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mosweep.config.groups import Budget, Config, EvalOps, Tracking
from mosweep.core.drivers import at_work
from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.events import Recorder, Recorders, SweepFinished, SweepStarted
from mosweep.core.paths import home
from mosweep.core.provenance import provenance
from mosweep.core.results import SweepResult
from mosweep.core.schema import plain
from mosweep.core.store import Record, Store
from mosweep.core.types import Trial, load_work, unique_stages
from mosweep.core.work import RemoteWork
from mosweep.cost.budget import check_budget
from mosweep.launchers.base import Launcher, Outcome
from mosweep.launchers.lookup import remember
from mosweep.recorders.journal import JournalRecorder
from mosweep.recorders.progress import Progress
from mosweep.reports.summary import print_outcome
from mosweep.sweep.folder import Sweep
from mosweep.sweep.launches import Launch
from mosweep.sweep.plan import Plan, make_plan

__all__ = [
    "evalops_of",
    "tracking_of",
    "AccessWarning",
    "cancel_jobs",
    "check_access",
    "check_installed",
    "evalops_recorder",
    "finish",
    "launch",
    "link_and_record",
    "prepare",
    "run_trials",
    "store_of",
    "tracking_recorder",
    "tracking_uri",
]


class AccessWarning(UserWarning):
    """A provider would not take some of the stages that are to run."""


def store_of(config: Config) -> Store:
    """The store that a configuration means."""
    return Store(Path(config.store.dir).absolute() if config.store.dir else home() / "store")


def tracking_uri(uri: str | None) -> str:
    """MLflow's tracking URI: the one given, by default a SQLite file in mosweep's home."""
    return uri or f"sqlite:///{home() / 'mlflow.db'}"


def tracking_recorder(tracking: Tracking) -> list[Recorder]:
    """The projections that the configuration asks for; none for ``tracking=none``."""
    recorders: list[Recorder] = []
    if "mlflow" in tracking.recorders:
        from mosweep.recorders.mlflow import MLflowRecorder

        recorders.append(MLflowRecorder(tracking_uri(tracking.uri)))
    if "wandb" in tracking.recorders:
        from mosweep.recorders.wandb import WandbRecorder

        recorders.append(WandbRecorder(tracking))
    return recorders


def evalops_recorder(
    evalops: EvalOps, store: Store, sweep: Sweep, plan: Plan | None = None
) -> list[Recorder]:
    """Who tells EvalOps of loops' rounds, if anybody is to: as ``plan`` runs and at the end, or at
    the end alone.
    """
    if evalops.url is None:
        return []
    from mosweep.recorders.evalops import EvalOpsRecorder

    rounds = (
        {
            stage.key
            for stage in plan.to_run
            if stage.kind.optional and stage.kind.leaves == "scores"
        }
        if plan
        else frozenset[str]()
    )
    return [EvalOpsRecorder(evalops, Sweep(sweep.folder).result, store.read, rounds)]


def prepare(
    trials: Sequence[Trial], config: Config, store: Store, sweep: Sweep, design: Mapping[str, Any]
) -> list[Trial]:
    """Freeze ``trials`` in their sweep's folder; returns them under the names they have there."""
    asked = {"tracking": plain(config.tracking), "contamination": plain(config.contamination)}
    if config.loop.evalops.url:
        asked["evalops"] = plain(config.loop.evalops)
    if config.budget != Budget():
        asked["budget"] = plain(config.budget)
    modules = frozenset(
        name for stage in unique_stages(trials).values() for name in stage.work.traits.requires
    )
    about = {**design, **asked, "provenance": provenance(Path.cwd(), modules)}
    return sweep.freeze(trials, store, about)


def run_trials(
    trials: Sequence[Trial],
    config: Config,
    folder: Path,
    design: Mapping[str, Any],
    launcher: Launcher,
    *,
    within: bool = False,
) -> SweepResult:
    """Run ``trials`` as (part of) the sweep in ``folder``; returns all that is then known about
    these trials.

    ``within``: one job of a sweep whose design is frozen, recorded and reported elsewhere.
    """
    store, sweep = store_of(config), Sweep(folder)
    plan = replace(make_plan(trials, store), budget=config.budget)
    check_installed(plan, config)
    if plan.to_run:
        check_budget(plan, store)
        launcher.check(plan)
        if not within:
            check_access(plan, store)
    if within:
        launch(plan, store, sweep, launcher, quiet=True)
        return sweep.result()
    plan = replace(plan, trials=prepare(trials, config, store, sweep, design))
    evalops = evalops_recorder(config.loop.evalops, store, sweep, plan)
    if launch(plan, store, sweep, launcher, told=evalops).detached:
        return sweep.result()
    return finish(plan.trials, config, store, sweep, plan.records, evalops)


def check_installed(plan: Plan, config: Config) -> None:
    """Raise ``MissingExtra`` if what ``plan`` is to run, or tracking, needs a library that is not
    here; ``UserError`` for EvalOps' key.
    """
    if config.loop.evalops.url:
        from mosweep.recorders.evalops import api_key

        api_key()  # a missing one is told now
    needed = {
        name: (extra, stage.label)
        for stage in plan.to_run
        for name, extra in stage.work.traits.requires.items()
    }
    for name in config.tracking.recorders:
        needed[name] = (name, f"tracking={config.tracking.recorder} (or give tracking=none)")
    missing = {name: needs for name, needs in needed.items() if find_spec(name) is None}
    if missing:
        extras = dict.fromkeys(extra for extra, _ in missing.values())
        purposes = dict.fromkeys(purpose for _, purpose in missing.values())
        raise MissingExtra(", ".join(missing), ",".join(extras), ", ".join(purposes))


def check_access(plan: Plan, store: Store, redo: Collection[str] = ()) -> None:
    """Ask the providers that ``plan`` needs whether they would take its stages; ``UserError`` if
    one would not.

    A refusal concerns new jobs: stages whose jobs are there go on with them. ``redo``: stages whose
    results are about to be forgotten.
    """
    works: dict[type[RemoteWork], dict[str, RemoteWork]] = {}
    for stage in plan.to_run:
        if work := stage.work.traits.remote:
            works.setdefault(type(work), {})[stage.key] = work
    for kind, mine in works.items():
        try:
            kind.check_access(list(mine.values()))
        except ConfigError:
            begun = kind.begun({key: _spent(store, key, key in redo) for key in mine})
            if not begun:
                raise
            new = [work for key, work in mine.items() if key not in begun]
            if any(key in redo and key not in begun for key in mine):
                # raises: a result that is there is forgotten only for a job that would be taken
                kind.check_access(new)
            elif new:
                _try_the_others(kind, new, len(begun))


def _spent(store: Store, key: str, redo: bool) -> frozenset[str]:
    """The provider's jobs for a stage that it is not to attach to; with ``redo``, that of the
    result about to be forgotten is one.
    """
    record = store.read(key) if redo else None
    return store.spent(key) | frozenset(
        str(record.facts.get("remote_job", "")).split() if record else ()
    )


def _try_the_others(kind: type[RemoteWork], new: list[RemoteWork], begun: int) -> None:
    """Ask for the stages without a job. A refusal is a warning: they will fail, while the ``begun``
    that have one are finished.
    """
    try:
        kind.check_access(new)
    except ConfigError as refusal:
        stages = (
            "1 stage whose job is there is"
            if begun == 1
            else f"{begun} stages whose jobs are there are"
        )
        warnings.warn(f"{refusal}; {stages} finished all the same", AccessWarning, stacklevel=3)


def cancel_jobs(launched: Launch, keys: Collection[str]) -> dict[str, str]:
    """End the jobs that go on at a provider for stages of a launch, among ``keys``, that were
    begun; the jobs by key.
    """
    begun = [key for key in keys if key in launched.stages and launched.store.attempted(key)]
    specs = launched.specs() if begun else {}
    works: dict[type[RemoteWork], list[str]] = {}
    for key in begun:
        if work := load_work(specs[key]).traits.remote:
            works.setdefault(type(work), []).append(key)
    return {
        key: job
        for kind, mine in works.items()
        if kind.outlives
        for key, job in kind.cancel(mine).items()
    }


def launch(
    plan: Plan,
    store: Store,
    sweep: Sweep,
    launcher: Launcher,
    *,
    quiet: bool = False,
    told: Sequence[Recorder] = (),
) -> Outcome:
    """Run what the plan lacks, telling journal, terminal (unless ``quiet``) and who else is to be
    ``told``.
    """
    if not plan.to_run:
        return Outcome(finished=set(plan.records))
    progress = [] if quiet else [Progress(reached=lambda key: _reached(plan, store, key))]
    recorder = Recorders([JournalRecorder(sweep.journal), *progress, *told])
    counts = plan.counts
    recorder.sweep_started(
        SweepStarted(
            sweep.folder, len(plan.trials), counts["total"], counts["cached"], len(plan.to_run)
        )
    )
    if launcher.outlives:
        remember(store, launcher)
    try:
        with at_work(store, sweep.folder):
            return launcher.run(plan, store, recorder, sweep.folder)
    finally:
        for shown in progress:
            shown.close()


def _reached(plan: Plan, store: Store, key: str) -> int | None:
    """The round that made this stage of a loop unnecessary, if one did."""
    record = store.read(key) if plan.stages[key].kind.optional else None
    return record.facts.get("reached") if record else None


def finish(
    trials: Sequence[Trial],
    config: Config,
    store: Store,
    sweep: Sweep,
    records: Mapping[str, Record] | None = None,
    told: Sequence[Recorder] | None = None,
) -> SweepResult:
    """Link, record and print what ``trials`` have come to; ``told`` are those who were told of it
    as it ran.
    """
    told = evalops_recorder(config.loop.evalops, store, sweep) if told is None else told
    result = link_and_record(
        trials, [*tracking_recorder(config.tracking), *told], store, sweep, records or {}
    )
    print_outcome(result, os.path.relpath(sweep.folder))
    return result


def link_and_record(
    trials: Sequence[Trial],
    recorders: Sequence[Recorder],
    store: Store,
    sweep: Sweep,
    records: Mapping[str, Record],
) -> SweepResult:
    """Link the trials' folders to what their stages left, and record the sweep; what is known of
    these trials.
    """
    known = dict(records)
    for key in unique_stages(trials):
        if key not in known and (record := store.read(key)):
            known[key] = record
    sweep.link(trials, known)
    result = sweep.result(known)
    Recorders(recorders).sweep_finished(SweepFinished(result))
    names = {trial.name for trial in trials}
    return replace(result, trials=tuple(trial for trial in result.trials if trial.name in names))


def tracking_of(design: Mapping[str, Any]) -> Tracking:
    """How a sweep is tracked, by its design."""
    return Tracking(**design.get("tracking", {}))


def evalops_of(design: Mapping[str, Any]) -> EvalOps:
    """Where a sweep's rounds are sent, by its design."""
    return EvalOps(**design.get("evalops", {}))
