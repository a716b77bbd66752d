"""The folder of a sweep: its design, its launches, its journal, and one folder per trial.

    multirun/NAME/
      experiment.yaml       the design, frozen when the sweep was first launched
      launches/             the trials and stages of every launch; the same command, the same files
      journal.jsonl         what happened, for people and for ``status``
      <trial>/config.yaml   the trial's configuration; beside it a link per stage to its artifact

Readers need only this folder and the store. This module must not import Hydra or any other heavy
library.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.config.claims import taken
from mosweep.core.claims import this_process
from mosweep.core.errors import UserError
from mosweep.core.files import write_whole, yaml_loader
from mosweep.core.journal import Journal
from mosweep.core.results import Queued, StageResult, SweepResult, TrialResult
from mosweep.core.store import LOG, Record, Store
from mosweep.core.types import Status, Trial, unique_stages
from mosweep.core.work import Kind
from mosweep.sweep.launches import (
    UNKNOWN,
    Launch,
    config_digest,
    described,
    joined_stages,
    level_of,
    to_json,
)

__all__ = ["Sweep", "find_sweep", "point"]


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder."""

    folder: Path

    @cached_property
    def journal(self) -> Journal:
        """The sweep's journal."""
        return Journal(self.folder / "journal.jsonl")

    def freeze(
        self, trials: Sequence[Trial], store: Store, design: Mapping[str, Any]
    ) -> list[Trial]:
        """Freeze a launch, and return the trials with their names in this folder.

        A trial gets a suffix if the folder has its name for another configuration. The same
        configuration launched again, perhaps with edited task code, replaces the earlier one.
        """
        launch = self._frozen(trials, store, design)
        if not (self.folder / "launches" / launch.file).exists():
            named = self._named(trials)
            if named != list(trials):
                trials, launch = named, self._frozen(named, store, design)
            launch = self._same(launch, trials) or launch
        launches = self.folder / "launches"
        if not (launches / launch.file).exists():
            launches.mkdir(parents=True, exist_ok=True)
            self._write_trials(trials)
            if not (self.folder / "experiment.yaml").exists():
                write_whole(self.folder / "experiment.yaml", _yaml(dict(design)))
            write_whole(launch.specs_file, _specs(trials))
            write_whole(launches / launch.file, launch.parts())
        self._known[launch.file] = launch
        self.__dict__.pop("launches", None)
        self.note_launch(launch.file)
        return list(trials)

    def _same(self, launch: Launch, trials: Sequence[Trial]) -> Launch | None:
        """The earlier launch of the same command, which may have named fewer factors.

        A later launch can add factors to the sweep.
        """

        def identity(other: Launch) -> str:
            design = {name: value for name, value in other.design.items() if name != "treatments"}
            return to_json(
                [
                    design,
                    other.store_path,
                    other.stages,
                    [(trial["name"], trial["id"], trial["config"]) for trial in other.trials],
                ]
            )

        for earlier in self.launches:
            same = len(earlier.trials) == len(trials) and identity(earlier) == identity(launch)
            if same and earlier.specs_file.read_text(encoding="utf-8") == "".join(_specs(trials)):
                return earlier
        return None

    def note_launch(self, file: str) -> None:
        """Note in the journal that this process runs the launch in ``file``."""
        owner = this_process()
        self.journal.append(
            "launch", file=file, pid=owner.pid, since=owner.started, host=owner.host
        )

    def _frozen(self, trials: Sequence[Trial], store: Store, design: Mapping[str, Any]) -> Launch:
        stages = unique_stages(trials)
        launch = Launch(
            "",
            [described(trial) for trial in trials],
            {
                key: [
                    stage.label,
                    stage.kind.code,
                    {role: need.key for role, need in stage.needs.items()},
                ]
                for key, stage in stages.items()
            },
            os.path.relpath(store.root, self.folder),
            dict(design),
            self.folder,
        )
        digest = hashlib.sha256()
        for part in launch.parts():
            digest.update(part.encode())
        for stage in stages.values():
            digest.update(to_json(stage.spec).encode())
        return replace(launch, file=f"{digest.hexdigest()[:16]}.json")

    @cached_property
    def _known(self) -> dict[str, Launch]:
        """The launches that were read or written so far, by file."""
        return {}

    def link(self, trials: Iterable[Trial], records: Mapping[str, Record]) -> None:
        """Link each trial's folder to the artifacts of its stages."""
        for trial in trials:
            folder = self.folder / trial.name
            for stage in trial.stages:
                record = records.get(stage.key)
                if record is not None and record.data["has_files"]:
                    # A label may contain a path.
                    point(
                        folder / stage.label.replace("/", "_"),
                        os.path.relpath(record.folder, folder),
                    )

    def config(self, trial: str) -> dict[str, Any]:
        """The full configuration of the trial called ``trial``, empty if its file is gone."""
        import yaml

        try:
            text = (self.folder / trial / "config.yaml").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        config: dict[str, Any] = yaml.load(text, yaml_loader())
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
                trial_stages = [stages[key] for key in trial["stages"]]
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
        design = launches[0].design if launches else {}
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

    def _named(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials with unique names.

        A configuration keeps the name that it has in the folder. If the folder has the name for
        another configuration, the trial gets a suffix.
        """
        existing = {
            trial["name"]: (trial["config"], trial["id"])
            for launch in self.launches
            for trial in launch.trials
        }
        names = {config: name for name, (config, _) in existing.items()}
        named = []
        for trial in trials:
            config = config_digest(trial.config)
            name = names.get(config, trial.name)
            existing_config, existing_id = existing.setdefault(name, (config, trial.id))
            if existing_config != config and existing_id != trial.id:
                name = f"{name}~{config[:8]}"
            named.append(trial if name == trial.name else replace(trial, name=name))
        return named

    def _write_trials(self, trials: Sequence[Trial]) -> None:
        fragments: dict[Any, str] = {}
        for trial in trials:
            folder = self.folder / trial.name
            try:
                folder.mkdir()
            except FileExistsError:
                if (folder / "config.yaml").exists():
                    continue
            parts = []
            for key, value in trial.config.items():
                # Trials share the sections that no factor changes: each is dumped once.
                identity = id(value) if isinstance(value, dict | list) else (type(value), value)
                text = fragments.get(identity)
                if text is None:
                    text = fragments[identity] = _yaml({"_": value})[2:]
                parts.append(f"{key}:{text}")
            write_whole(folder / "config.yaml", parts)


def _in_order(launches: Mapping[str, Launch], given: Mapping[str, float]) -> list[Launch]:
    """The launches that the journal does not know, then the others in the order of ``given``."""
    return [
        *(launches[name] for name in launches if name not in given),
        *(launches[name] for name in given if name in launches),
    ]


def find_sweep(place: str | None) -> Sweep:
    """The sweep in the folder ``place``, or with that name under ``multirun/``.

    By default it is the latest sweep there. ``UserError`` if there is none.
    """
    if place is None:
        designs = sorted(
            Path("multirun").glob("**/experiment.yaml"), key=lambda path: path.stat().st_mtime
        )
        if not designs:
            raise UserError("no sweep under multirun/ yet; give a sweep's folder")
        return Sweep(designs[-1].parent.absolute())
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


def _specs(trials: Iterable[Trial]) -> Iterator[str]:
    """The lines of a launch's file with the full stages."""
    return (f"{to_json(stage.spec)}\n" for stage in unique_stages(trials).values())


def _yaml(data: Any) -> str:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        data,
        Dumper=dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=120,
    )
    return text


def point(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, replacing an existing link atomically."""
    try:
        os.symlink(target, link)
    except FileExistsError:
        if os.readlink(link) != target:
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            os.symlink(target, temporary)
            temporary.replace(link)
