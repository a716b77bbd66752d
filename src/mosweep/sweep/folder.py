"""Reading the folder of a sweep: design, launches, journal, and one folder per trial.

    multirun/NAME/
      experiment.yaml       the design, frozen when the sweep was first launched
      launches/             the trials and stages of every launch; the same command, the same files
      journal.jsonl         what happened, for people and for ``status``
      <trial>/config.yaml   the trial's configuration; beside it a link per stage to its artifact

Readers need only this folder and the store. ``writing`` writes it. This module must not import
Hydra or any other heavy library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.config.claims import taken
from mosweep.core.claims import this_process
from mosweep.core.errors import UserError
from mosweep.core.journal import Journal
from mosweep.core.results import Queued, StageResult, SweepResult, TrialResult
from mosweep.core.store import LOG, Record
from mosweep.core.types import Status
from mosweep.core.work import Kind
from mosweep.core.yaml_text import load_yaml
from mosweep.sweep.launches import UNKNOWN, Launch, joined_stages, level_of

__all__ = ["Sweep", "find_sweep", "sweep_folders"]


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder."""

    folder: Path

    @cached_property
    def journal(self) -> Journal:
        """The sweep's journal."""
        return Journal(self.folder / "journal.jsonl")

    def add_launch(self, launch: Launch) -> None:
        """Add a launch that was just frozen, and note that this process runs it."""
        self._known[launch.file] = launch
        self.__dict__.pop("launches", None)
        self.note_launch(launch.file)

    def note_launch(self, file: str) -> None:
        """Note in the journal that this process runs the launch in ``file``."""
        owner = this_process()
        self.journal.append(
            "launch", file=file, pid=owner.pid, since=owner.started, host=owner.host
        )

    @cached_property
    def _known(self) -> dict[str, Launch]:
        """The launches that were read or written so far, by file."""
        return {}

    def config(self, trial: str) -> dict[str, Any]:
        """The full configuration of the trial called ``trial``, empty if its file is gone."""
        try:
            text = (self.folder / trial / "config.yaml").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        config: dict[str, Any] = load_yaml(text)
        return config

    @cached_property
    def launches(self) -> list[Launch]:
        """All launches, oldest first."""
        return _in_order(self._frozen_launches(), self._history("launch")[0])

    def _frozen_launches(self) -> dict[str, Launch]:
        """All launches by file."""
        names = sorted(path.name for path in (self.folder / "launches").glob("*.json"))
        for name in names:
            if name not in self._known:
                data = json.loads((self.folder / "launches" / name).read_bytes())
                self._known[name] = Launch(
                    name, data["trials"], data["stages"], data["store"], data["design"], self.folder
                )
        return {name: self._known[name] for name in names}

    def _history(
        self, kind: str | None = None
    ) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
        """When each launch was last given, in that order, and each stage's latest event.

        They come from the whole journal, or only from its events of one ``kind``.
        """
        launches: dict[str, float] = {}
        notes: dict[str, dict[str, Any]] = {}
        for event in self.journal.read(kind):
            if event["event"] == "launch":
                file = str(event["file"])
                launches[file] = max(launches.pop(file, 0.0), float(event["time"]))
            elif "key" in event:
                note = notes.setdefault(event["key"], {})
                if event["event"] in ("started", "queued"):
                    note.pop("error", None)
                note.update(event)
        return launches, notes

    def result(
        self,
        records: Mapping[str, Record] | None = None,
        queued: Mapping[str, Queued] | None = None,
    ) -> SweepResult:
        """The sweep's current state, from launches, store and journal.

        ``records`` are those that were already read. ``queued`` are the states of jobs in a queue.
        """
        seen: dict[str, Record | None] = dict(records or {})
        held: dict[str, Any] = {}
        frozen = self._frozen_launches()
        for launch in frozen.values():
            store = launch.store
            missing = [
                key
                for key in launch.stages
                if key not in seen and seen.setdefault(key, store.read(key)) is None
            ]
            held |= store.claims.held() if missing else {}
        given, notes = self._history("launch" if all(seen.values()) else None)
        launches, since = _in_order(frozen, given), max(given.values(), default=0.0)
        stages: dict[str, StageResult] = {}
        trials: dict[str, TrialResult] = {}
        takes: dict[str, Sequence[str]] = {}
        design = launches[0].design if launches else {}
        primary = design.get("primary_metric")
        for launch in launches:
            for key, spec in launch.stages.items():
                if key not in stages:
                    stages[key] = _stage(
                        key,
                        spec,
                        seen[key],
                        notes.get(key, {}),
                        key in held,
                        since,
                        (queued or {}).get(key),
                    )
            for trial in launch.trials:
                name = trial["name"]
                trial_stages = [_judged(stages[key], primary) for key in trial["stages"]]
                takes[name] = str(trial["takes"]).split()
                if name in trials:
                    trial_stages = joined_stages(trials[name].stages, trial_stages)
                trials[name] = TrialResult(
                    name,
                    trial["id"],
                    trial["factors"],
                    trial["control"],
                    tuple(trial_stages),
                    f"{self.folder}/{name}",
                )
        return SweepResult(
            str(design.get("name") or self.folder.name),
            self.folder,
            tuple(self._completed(trials.values(), takes)),
            design,
        )

    def _completed(
        self, trials: Collection[TrialResult], takes: Mapping[str, Sequence[str]]
    ) -> Iterator[TrialResult]:
        """The trials, each with a level of every factor of the sweep that it takes.

        A level that a trial does not name is read from its configuration.
        """
        factors = dict.fromkeys(
            key for trial in trials if not trial.control for key in trial.factors
        )
        for trial in trials:
            missing = [
                key for key in factors if key not in trial.factors and taken(key, takes[trial.name])
            ]
            config = self.config(trial.name) if missing else {}
            levels = {
                key: level
                for key in missing
                if config and (level := level_of(config, key)) is not UNKNOWN
            }
            yield replace(trial, factors={**trial.factors, **levels}) if levels else trial


def _judged(stage: StageResult, primary: str | None) -> StageResult:
    """The stage, failed if its value of the sweep's primary metric is undefined."""
    evaluation = stage.evaluation if primary and stage.kind.scores else None
    why = evaluation and evaluation.undefined.get(str(primary).removeprefix(f"{stage.task}/"))
    if not why:
        return stage
    return replace(
        stage, status="failed", error=f"the primary metric {primary} is undefined: {why}"
    )


def _in_order(launches: Mapping[str, Launch], given: Mapping[str, float]) -> list[Launch]:
    """The launches that the journal does not know, then the others in the order of ``given``."""
    return [
        *(launches[name] for name in launches if name not in given),
        *(launches[name] for name in given if name in launches),
    ]


def sweep_folders(root: str = "multirun") -> list[Path]:
    """The folders of the sweeps under ``root``, by the time of their design."""
    designs = Path(root).glob("**/experiment.yaml")
    return [path.parent for path in sorted(designs, key=lambda path: path.stat().st_mtime)]


def find_sweep(place: str | None) -> Sweep:
    """The sweep in the folder ``place``, or with that name under ``multirun/``.

    By default it is the latest sweep there. ``UserError`` if there is none.
    """
    if place is None:
        folders = sweep_folders()
        if not folders:
            raise UserError("no sweep under multirun/ yet; give a sweep's folder")
        return Sweep(folders[-1].absolute())
    for folder in (Path(place), Path("multirun") / place):
        if (folder / "experiment.yaml").exists():
            return Sweep(folder.absolute())
    known = ", ".join(
        sorted(path.parent.name for path in Path("multirun").glob("*/experiment.yaml"))[:8]
    )
    raise UserError(
        f"{place}: not the folder of a sweep (no experiment.yaml in it)"
        + (f"; known names: {known}" if known else "")
    )


def _stage(
    key: str,
    about: Sequence[Any],
    record: Record | None,
    note: Mapping[str, Any],
    held: bool,
    since: float,
    queue: Queued | None = None,
) -> StageResult:
    status: Status = "pending"
    if record is not None:
        status = "succeeded"
    elif held and not (queue and queue.status == "cancelled"):  # Then its process is about to end.
        status = "running"
    elif queue is not None:
        status = queue.status
        note = {**note, "error": note.get("error") or queue.error}
    elif note.get("event") in ("failed", "cancelled"):
        status = note["event"]
    cached = record is not None and float(record.data.get("finished", 0.0)) < since
    log = (queue and queue.log) or note.get("log")
    if record is not None and os.path.exists(f"{record.place}/{LOG}"):
        log = f"{record.place}/{LOG}"
    return StageResult(
        label=about[0],
        kind=Kind.of(about[1]),
        key=key,
        status=status,
        needs=about[2],
        cached=cached,
        job=(queue and queue.job)
        or note.get("job")
        or (record.data.get("job") if record else None),
        log=Path(log) if log else None,
        error=note.get("error") if status in ("failed", "cancelled") else None,
        record=record.data if record else None,
        folder=record.place if record else None,
        queue=queue,
        since=note.get("time") if note.get("event") == "started" else None,
    )
