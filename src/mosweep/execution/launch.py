"""Runs trials: freezes the design, plans, launches, records and reports.

All launchers and library users take this path. It must not know any launcher by name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.config.groups import Budget, Config, Tracking
from mosweep.config.loop import EvalOps
from mosweep.core.drivers import mark_running
from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.events import Recorder, Recorders, SweepFinished, SweepStarted
from mosweep.core.imports import installed
from mosweep.core.paths import home
from mosweep.core.provenance import provenance
from mosweep.core.results import SweepResult
from mosweep.core.reuse import adopt, keep_sources
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
from mosweep.sweep.writing import freeze, link_artifacts

__all__ = [
    "AccessWarning",
    "cancel_jobs",
    "check_access",
    "check_installed",
    "evalops_of",
    "evalops_recorder",
    "finish",
    "launch",
    "link_and_record",
    "prepare",
    "run_trials",
    "settle",
    "store_of",
    "tracking_of",
    "tracking_recorder",
    "tracking_uri",
]


class AccessWarning(UserWarning):
    """A provider would refuse some of the stages to run."""


def store_of(config: Config) -> Store:
    """The store of a configuration."""
    return Store(Path(config.store.dir).absolute() if config.store.dir else home() / "store")


def tracking_uri(uri: str | None) -> str:
    """MLflow's tracking URI: ``uri``, by default an SQLite file in mosweep's home."""
    return uri or f"sqlite:///{home() / 'mlflow.db'}"


def tracking_recorder(tracking: Tracking) -> list[Recorder]:
    """The recorders in the configuration. Empty for ``tracking=none``."""
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
    """The recorder that sends the rounds of loops to EvalOps, if there is a service.

    With ``plan`` it sends each round as it ends, otherwise all of them at the end.
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
    """Freeze ``trials`` in their sweep's folder, and return them with their names there."""
    settings = {"tracking": plain(config.tracking), "contamination": plain(config.contamination)}
    if config.loop.evalops.url:
        settings["evalops"] = plain(config.loop.evalops)
    if config.budget != Budget():
        settings["budget"] = plain(config.budget)
    modules = frozenset(
        name for stage in unique_stages(trials).values() for name in stage.work.traits.requires
    )
    keep_sources(unique_stages(trials).values(), store)
    frozen = {**design, **settings, "provenance": provenance(Path.cwd(), modules)}
    return freeze(sweep, trials, store, frozen)


def run_trials(
    trials: Sequence[Trial],
    config: Config,
    folder: Path,
    design: Mapping[str, Any],
    launcher: Launcher,
    *,
    within: bool = False,
) -> SweepResult:
    """Run ``trials`` in the sweep in ``folder``, and return their results.

    ``within``: this is one job of a sweep that is frozen, recorded and reported elsewhere.
    """
    store, sweep = store_of(config), Sweep(folder)
    plan = make_plan(trials, store)
    if settle(plan, store):
        plan = make_plan(trials, store)
    plan = replace(plan, budget=config.budget)
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
    if launch(plan, store, sweep, launcher, recorders=evalops).detached:
        return sweep.result()
    return finish(plan.trials, config, store, sweep, plan.records, evalops)


def settle(plan: Plan, store: Store) -> bool:
    """Make results that were found by content those of the plan's stages, if there are any."""
    if plan.found:
        adopt(store, (stage for key, stage in plan.stages.items() if key in plan.found))
    return bool(plan.found)


def check_installed(plan: Plan, config: Config) -> None:
    """Raise ``MissingExtra`` if a library that the plan's stages or tracking need is missing.

    Raises ``UserError`` if EvalOps' key is missing.
    """
    if config.loop.evalops.url:
        from mosweep.recorders.evalops import api_key

        api_key()  # Raise for a missing key now, not when the first round ends.
    required = {
        name: (extra, stage.label)
        for stage in plan.to_run
        for name, extra in stage.work.traits.requires.items()
    }
    for name in config.tracking.recorders:
        required[name] = (name, f"tracking={config.tracking.recorder} (or give tracking=none)")
    missing = {name: needs for name, needs in required.items() if not installed(name)}
    if missing:
        extras = dict.fromkeys(extra for extra, _ in missing.values())
        purposes = dict.fromkeys(purpose for _, purpose in missing.values())
        raise MissingExtra(", ".join(missing), ",".join(extras), ", ".join(purposes))


def check_access(plan: Plan, store: Store, rerun: Collection[str] = ()) -> None:
    """Check that the providers of ``plan`` accept its stages.

    Raises ``UserError`` if one does not. Only new jobs can be refused: stages that already have a
    job continue with it. ``rerun``: stages whose results are about to be deleted.
    """
    works: dict[type[RemoteWork], dict[str, RemoteWork]] = {}
    for stage in plan.to_run:
        if work := stage.work.traits.remote:
            works.setdefault(type(work), {})[stage.key] = work
    for kind, by_key in works.items():
        try:
            kind.check_access(list(by_key.values()))
        except ConfigError:
            attached = kind.begun({key: _spent(store, key, key in rerun) for key in by_key})
            if not attached:
                raise
            new = [work for key, work in by_key.items() if key not in attached]
            if any(key in rerun and key not in attached for key in by_key):
                # This raises, because a result is only deleted if its new job is accepted.
                kind.check_access(new)
            elif new:
                _check_new_jobs(kind, new, len(attached))


def _spent(store: Store, key: str, rerun: bool) -> frozenset[str]:
    """The provider's jobs that a stage must not attach to.

    With ``rerun`` that includes the job of the result that is about to be deleted.
    """
    record = store.read(key) if rerun else None
    return store.spent(key) | frozenset(
        str(record.facts.get("remote_job", "")).split() if record else ()
    )


def _check_new_jobs(kind: type[RemoteWork], new: list[RemoteWork], attached: int) -> None:
    """Check the stages without a job, and warn if the provider refuses them.

    They will fail, but the ``attached`` stages, which have a job, will finish.
    """
    try:
        kind.check_access(new)
    except ConfigError as refusal:
        stages = (
            "1 stage that already has a job"
            if attached == 1
            else f"{attached} stages that already have a job"
        )
        warnings.warn(f"{refusal}; {stages} will still finish", AccessWarning, stacklevel=3)


def cancel_jobs(launched: Launch, keys: Collection[str]) -> dict[str, str]:
    """Cancel the jobs at providers for the stages ``keys`` of a launch.

    Returns the cancelled jobs by key. Stages that were never attempted have no job.
    """
    attempted = [key for key in keys if key in launched.stages and launched.store.attempted(key)]
    specs = launched.specs() if attempted else {}
    works: dict[type[RemoteWork], list[str]] = {}
    for key in attempted:
        if work := load_work(specs[key]).traits.remote:
            works.setdefault(type(work), []).append(key)
    return {
        key: job
        for kind, remote_keys in works.items()
        if kind.outlives
        for key, job in kind.cancel(remote_keys).items()
    }


def launch(
    plan: Plan,
    store: Store,
    sweep: Sweep,
    launcher: Launcher,
    *,
    quiet: bool = False,
    recorders: Sequence[Recorder] = (),
) -> Outcome:
    """Run the plan's missing stages.

    Events go to the journal, to the terminal (unless ``quiet``), and to ``recorders``.
    """
    if not plan.to_run:
        return Outcome(finished=set(plan.records))
    progress = [] if quiet else [Progress(reached=lambda key: _reached(plan, store, key))]
    recorder = Recorders([JournalRecorder(sweep.journal), *progress, *recorders])
    counts = plan.counts
    recorder.sweep_started(
        SweepStarted(
            sweep.folder, len(plan.trials), counts["total"], counts["cached"], len(plan.to_run)
        )
    )
    if launcher.outlives:
        remember(store, launcher)
    try:
        with mark_running(store, sweep.folder):
            return launcher.run(plan, store, recorder, sweep.folder)
    finally:
        for display in progress:
            display.close()


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
    recorders: Sequence[Recorder] | None = None,
) -> SweepResult:
    """Link, record and print the results of ``trials``.

    ``recorders`` are those that received the events of the launch.
    """
    if recorders is None:
        recorders = evalops_recorder(config.loop.evalops, store, sweep)
    result = link_and_record(
        trials, [*tracking_recorder(config.tracking), *recorders], store, sweep, records or {}
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
    """Link the trials' folders to their artifacts, record the sweep, and return the results."""
    all_records = dict(records)
    for key in unique_stages(trials):
        if key not in all_records and (record := store.read(key)):
            all_records[key] = record
    link_artifacts(sweep, trials, all_records)
    result = sweep.result(all_records)
    Recorders(recorders).sweep_finished(SweepFinished(result))
    names = {trial.name for trial in trials}
    return replace(result, trials=tuple(trial for trial in result.trials if trial.name in names))


def tracking_of(design: Mapping[str, Any]) -> Tracking:
    """The tracking settings in a sweep's frozen design."""
    return Tracking(**design.get("tracking", {}))


def evalops_of(design: Mapping[str, Any]) -> EvalOps:
    """The EvalOps settings in a sweep's frozen design."""
    return EvalOps(**design.get("evalops", {}))
