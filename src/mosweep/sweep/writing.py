"""Writing a sweep's folder: freeze a launch, name its trials, and link them to their artifacts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.core.errors import UserError
from mosweep.core.files import write_whole
from mosweep.core.paths import file_name
from mosweep.core.store import Record, Store
from mosweep.core.types import Trial, unique_stages
from mosweep.core.yaml_text import dump_yaml
from mosweep.sweep.folder import Sweep
from mosweep.sweep.launches import Launch, config_digest, described, to_json

__all__ = ["freeze", "link_artifacts", "restore", "set_link"]


def freeze(
    sweep: Sweep, trials: Sequence[Trial], store: Store, design: Mapping[str, Any]
) -> list[Trial]:
    """Freeze a launch, and return the trials with their names in the sweep's folder.

    A trial gets a suffix if the folder has its name for another configuration. The same
    configuration launched again, perhaps with edited task code, replaces the earlier one.
    """
    launch = _frozen(sweep.folder, trials, store, design)
    if not (sweep.folder / "launches" / launch.file).exists():
        named = _named(sweep, trials)
        if named != list(trials):
            trials, launch = named, _frozen(sweep.folder, named, store, design)
        launch = _same(sweep, launch, trials) or launch
    launches = sweep.folder / "launches"
    files = {
        launch.specs_file: lambda: _specs(trials),
        launch.configs_file: lambda: _configs(trials),
        launches / launch.file: launch.parts,  # The last one, as it makes the others count.
    }
    if not all(path.exists() for path in files):
        launches.mkdir(parents=True, exist_ok=True)
        _write_configs(sweep.folder, {trial.name: trial.config for trial in trials})
        for path, lines in files.items():
            if not path.exists():
                write_whole(path, lines())
    if not (sweep.folder / "experiment.yaml").exists():
        first = sweep.launches[0].design if sweep.launches else design
        write_whole(sweep.folder / "experiment.yaml", dump_yaml(dict(first)))
    sweep.add_launch(launch)
    return list(trials)


def _same(sweep: Sweep, launch: Launch, trials: Sequence[Trial]) -> Launch | None:
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

    for earlier in sweep.launches:
        same = len(earlier.trials) == len(trials) and identity(earlier) == identity(launch)
        if same and earlier.specs_file.read_text(encoding="utf-8") == "".join(_specs(trials)):
            return earlier
    return None


def _frozen(
    folder: Path, trials: Sequence[Trial], store: Store, design: Mapping[str, Any]
) -> Launch:
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
        os.path.relpath(store.root, folder),
        dict(design),
        folder,
    )
    digest = hashlib.sha256()
    for part in launch.parts():
        digest.update(part.encode())
    for stage in stages.values():
        digest.update(to_json(stage.spec).encode())
    return replace(launch, file=f"{digest.hexdigest()[:16]}.json")


def _named(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """The trials with unique names.

    A configuration keeps the name that it has in the folder. If the folder has the name for
    another configuration, the trial gets a suffix.
    """
    existing = {
        trial["name"]: (trial["config"], trial["id"])
        for launch in sweep.launches
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


def _write_configs(place: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write each trial's configuration, unless its folder already has one.

    A trial whose configuration is not known gets its folder only.
    """
    fragments: dict[Any, str] = {}
    for name, config in configs.items():
        folder = place / name
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise UserError(f"{folder}: a file is where the trial's folder should be") from None
        if not config or (folder / "config.yaml").exists():
            continue
        parts = []
        for key, value in config.items():
            # Trials share the sections that no factor changes: each is dumped once.
            identity = _identity(value)
            text = fragments.get(identity)
            if text is None:
                text = fragments[identity] = dump_yaml({"_": value})[2:]
            parts.append(f"{key}:{text}")
        write_whole(folder / "config.yaml", parts)


def _configs(trials: Iterable[Trial]) -> Iterator[str]:
    """The lines of a launch's file with the full configurations.

    A line has the trial's name, its configuration as numbers of values, and the new values.
    """
    numbers: dict[Any, int] = {}
    for trial in trials:
        config, new = {}, []
        for key, value in trial.config.items():
            identity = _identity(value)
            if identity not in numbers:
                numbers[identity] = len(numbers)
                new.append(value)
            config[key] = numbers[identity]
        yield f"{to_json([trial.name, config, new])}\n"


def _identity(value: Any) -> Any:
    return id(value) if isinstance(value, dict | list) else (type(value), value)


def restore(sweep: Sweep, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Make trials' folders that were deleted or moved, with their configurations.

    ``configs`` are those of the trials, by name. An empty one is read from the launch.
    """
    missing = {
        name: config
        for name, config in configs.items()
        if not (sweep.folder / name / "config.yaml").exists()
    }
    if not missing:
        return
    frozen: dict[str, Mapping[str, Any]] = {}
    for launch in sweep.launches:
        frozen |= launch.configs()
    _write_configs(
        sweep.folder, {name: config or frozen.get(name, {}) for name, config in missing.items()}
    )


def link_artifacts(sweep: Sweep, trials: Sequence[Trial], records: Mapping[str, Record]) -> None:
    """Link each trial's folder to the artifacts of its stages. Makes folders that are gone."""
    restore(sweep, {trial.name: trial.config for trial in trials})
    for trial in trials:
        folder = sweep.folder / trial.name
        for stage in trial.stages:
            record = records.get(stage.key)
            if record is not None and record.data["has_files"]:
                link = folder / file_name(stage.label)  # It may contain a path.
                set_link(link, os.path.relpath(record.folder, folder))


def _specs(trials: Iterable[Trial]) -> Iterator[str]:
    """The lines of a launch's file with the full stages."""
    return (f"{to_json(stage.spec)}\n" for stage in unique_stages(trials).values())


def set_link(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, replacing an existing link atomically.

    A file or folder of that name stays: it may be a copy that somebody made.
    """
    try:
        os.symlink(target, link)
    except FileExistsError:
        if link.is_symlink() and os.readlink(link) != target:
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            os.symlink(target, temporary)
            temporary.replace(link)
