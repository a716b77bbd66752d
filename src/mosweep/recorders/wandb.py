"""Records a sweep in Weights & Biases. Like MLflow, this is a projection of the files on disk.

Each trial that has ended has a run. Its group is the sweep, its job type is ``tuned`` or
``control``, and its tags are the levels of its factors. Its config is the trial's, with the
``factors`` and, as ``lineage``, the keys and digests of data, model and evaluations. Its summary
has the scores ``<task>/<metric>``, and its history the training curves. No files are uploaded.

A run's id is derived from the sweep, the trial and the keys of its stages, so recording again
resumes it. ``wandb/recorded/`` in mosweep's home lists the recorded runs, because offline there is
no server to query. Without this list, runs are written again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosweep.config.groups import Tracking
from mosweep.config.secrets import masked
from mosweep.core import fingerprint
from mosweep.core.errors import MissingExtra, MosweepError
from mosweep.core.events import Recorder, SweepFinished
from mosweep.core.journal import Journal
from mosweep.core.levels import level_text
from mosweep.core.paths import home
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.yaml_text import load_yaml
from mosweep.recorders.base import Projection, ProjectionWarning, turn

__all__ = ["WandbRecorder", "project"]

#: Increase it when the content of a run changes. Then all runs are recorded again.
FORMAT = 1

#: The longest name that W&B accepts, in characters.
_NAME = 128
#: The longest tag.
_TAG = 64
#: Seconds to wait for an answer of the server.
_TIMEOUT_S = 60.0
#: Runs to write before they are listed as recorded.
_BATCH = 100


@dataclass(frozen=True)
class WandbRecorder(Recorder):
    """Records a sweep in W&B when it ends.

    A failure is a ``ProjectionWarning``, and does not affect the sweep.
    """

    tracking: Tracking

    def sweep_finished(self, event: SweepFinished) -> None:
        """Record the sweep's results."""
        try:
            project(event.result, self.tracking)
        except Exception as error:
            message = (
                f"not recorded in W&B ({_line(error)}); run `mosweep sync` later, or use "
                "tracking.mode=offline, which needs no server"
            )
            warnings.warn(message, ProjectionWarning, stacklevel=2)


def project(result: SweepResult, tracking: Tracking) -> Projection:
    """Update W&B with the trials of ``result`` that have ended.

    Offline, runs are written to ``wandb/`` in mosweep's home. Raises ``MissingExtra`` without the
    library, and ``MosweepError`` if W&B cannot be reached or refuses the runs.
    """
    folder = Path(os.environ.get("WANDB_DIR") or home()).absolute()
    mode = tracking.mode or os.environ.get("WANDB_MODE") or "online"
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)
    where = (
        [str(folder)]
        if mode == "offline"
        else [os.environ.get("WANDB_BASE_URL"), tracking.entity, tracking.project]
    )
    notes = folder / "wandb" / "recorded"
    ledger = Journal(
        notes
        / f"{fingerprint.fingerprint([mode, where, str(result.folder.absolute())])[:32]}.jsonl"
    )
    wanted = {
        trial.name: f"{FORMAT}-{trial.digest}"
        for trial in result.trials
        if trial.status not in ("running", "pending")
    }
    if mode == "disabled" or wanted.items() <= _recorded(ledger).items():
        return Projection(unchanged=len(result.trials))
    wandb = _import()
    with turn(notes / "claims", "wandb"):
        known = _recorded(ledger)
        missing = [
            trial
            for trial in result.trials
            if trial.name in wanted and known.get(trial.name) != wanted[trial.name]
        ]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            _write(wandb, [run_of(result, trial) for trial in batch], tracking, mode, folder)
            ledger.append_all(
                {"event": "recorded", "trial": trial.name, "digest": wanted[trial.name]}
                for trial in batch
            )
    updated = sum(trial.name in known for trial in missing)
    return Projection(len(missing) - updated, updated, len(result.trials) - len(missing))


@dataclass(frozen=True)
class Run:
    """The run of a trial in W&B."""

    id: str
    name: str
    group: str
    job_type: str
    notes: str | None
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    history: Mapping[int, Mapping[str, float]]
    failed: bool


def run_of(result: SweepResult, trial: TrialResult) -> Run:
    """The run of ``trial`` in W&B."""
    tags = [f"{name}={level_text(level)}" for name, level in trial.factors.items()]
    if trial.pretended:
        tags.append("dummy")
    errors = [f"{stage.label}: {stage.error}" for stage in trial.stages if stage.error]
    summary: dict[str, Any] = {**trial.metrics, "status": trial.status}
    return Run(
        id=fingerprint.fingerprint([result.name, trial.name, trial.id])[:16],
        name=trial.name[:_NAME],
        group=result.name[:_NAME],
        job_type="control" if trial.control else "tuned",
        notes=result.design.get("description"),
        tags=tuple(dict.fromkeys(tag[:_TAG] for tag in tags)),
        config=masked(
            {
                **_configuration(trial),
                "factors": trial.factors,
                "lineage": {s.label: _lineage(s) for s in trial.stages},
            }
        ),
        summary=masked({**summary, **({"error": errors[0]} if errors else {})}),
        history=_history(trial.stages),
        failed=trial.status != "succeeded",
    )


def _history(stages: Iterable[StageResult]) -> dict[int, dict[str, float]]:
    """The training curves: for each step, the values by name."""
    history: dict[int, dict[str, float]] = {}
    for stage in stages:
        for name, points in stage.curves.items():
            for step, value in points:
                history.setdefault(int(step), {})[f"train/{name}"] = float(value)
    return history


def _lineage(stage: StageResult) -> dict[str, Any]:
    """The keys and digests of a stage's result and inputs, from the store's record."""
    known = ("name", "digest", "rows", "model_id", "dataset", "n")
    return {
        "key": stage.key,
        "needs": stage.needs,
        "artifact_digest": stage.record and stage.record["artifact_digest"],
        **{name: stage.facts[name] for name in known if name in stage.facts},
    }


def _configuration(trial: TrialResult) -> dict[str, Any]:
    """The trial's resolved configuration. Trials of the Python API have none."""
    import yaml

    try:
        data = load_yaml((Path(trial.folder) / "config.yaml").read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(wandb: Any, runs: Sequence[Run], tracking: Tracking, mode: str, folder: Path) -> None:
    """Write runs, and wait until they are on disk or at the server."""
    settings = wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        save_code=False,
        disable_git=True,
        init_timeout=_TIMEOUT_S,
        finish_timeout=_TIMEOUT_S,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    try:
        # Without this, W&B prompts for a key at the terminal.
        wandb.setup(wandb.Settings(silent=True))
        for run in runs:
            made = wandb.init(
                id=run.id,
                name=run.name,
                group=run.group,
                job_type=run.job_type,
                notes=run.notes,
                tags=run.tags,
                config=run.config,
                project=tracking.project,
                entity=tracking.entity,
                mode=mode,
                dir=str(folder),
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
            for step, values in sorted(run.history.items()):
                made.log(dict(values), step=step)
            made.summary.update(run.summary)
            made.finish(exit_code=int(run.failed))
        if wandb.run is None:  # The user has no run in this process.
            # W&B's service is still processing finished runs. This ends it.
            wandb.teardown()
    except (wandb.Error, TimeoutError) as error:
        raise MosweepError(f"W&B: {_line(error)}") from error


def _import() -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ModuleNotFoundError as error:
        if error.name == "wandb":
            raise MissingExtra("wandb", "wandb", "tracking=wandb") from error
        raise
    return wandb


def _recorded(ledger: Journal) -> dict[str, str]:
    """The digests of the recorded trials, by name."""
    return {event["trial"]: event["digest"] for event in ledger.read("recorded")}


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
