"""``verify``: recompute every digest and key in a bundle, on any machine, without a store.

The archive is data: nothing in it is imported, evaluated or unpickled. ``documents.README``,
which is in every bundle, says what this can show and what it cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mosweep.archive import reading
from mosweep.archive.format import (
    FORMAT,
    MANIFEST,
    UNEXPECTED,
    Unreadable,
    design_hash,
    may_be_left_out,
    seal_of,
)
from mosweep.archive.metrics import metric_findings
from mosweep.archive.reading import File, read_archive
from mosweep.archive.verdict import Verdict
from mosweep.core import fingerprint
from mosweep.core.errors import UserError
from mosweep.core.samples import SAMPLES
from mosweep.core.work import Kind
from mosweep.core.yaml_text import yaml_loader
from mosweep.sweep.launches import config_digest

__all__ = ["verify"]


def verify(bundle: Path) -> Verdict:
    """Check everything that can be checked in ``bundle``. ``UserError`` if it does not exist."""
    verdict = Verdict(str(bundle))
    try:
        with open(bundle, "rb") as file:
            verdict.archive = fingerprint.digest_stream(file)
            limit = max(reading.MAX_BYTES, reading.MAX_RATIO * file.tell())
            file.seek(0)
            files = read_archive(file, limit)
        _check(files, verdict)
    except (OSError, EOFError) as error:
        if not verdict.archive:
            raise UserError(f"{bundle}: {getattr(error, 'strerror', None) or error}") from None
        verdict.problems.append(f"the archive cannot be read: {error}")
    except (Unreadable, tarfile.TarError, zlib.error, *UNEXPECTED) as error:
        verdict.problems.append(f"the archive cannot be read: {error}")
    return verdict


def _check(files: Mapping[str, File], verdict: Verdict) -> None:
    manifest = _parsed(files, MANIFEST, verdict) if MANIFEST in files else None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        verdict.problems.append(
            f"{MANIFEST} is missing, or its format is not supported by this version ({FORMAT})"
        )
        manifest = {}
    with _finding(verdict, MANIFEST):
        if manifest and manifest.get("seal") != seal_of(manifest):
            verdict.problems.append(f"{MANIFEST} does not match its seal")
    verdict.name = str(manifest.get("name", ""))
    verdict.files = len(files)
    listed = _mapping(manifest.get("files"))
    for name in sorted({*listed, *files} - {MANIFEST}):
        if name not in files:
            verdict.problems.append(f"{name} is missing")
        elif name not in listed:
            verdict.problems.append(f"{name} is not in the manifest")
        elif listed[name] != {"sha256": files[name].sha256, "size": files[name].size}:
            verdict.problems.append(f"{name} does not match the manifest")
    verdict.design = design_hash(
        {
            name.removeprefix("sweep/"): file.sha256
            for name, file in files.items()
            if name.startswith("sweep/")
        }
    )
    if manifest.get("design") != verdict.design:
        verdict.problems.append(
            "the hash of the design is not the one in the manifest "
            f"({str(manifest.get('design'))[:12]})"
        )
    trials, specs = _check_launches(files, verdict)
    _check_configs(files, trials, verdict)
    exceptions = {
        str(key): frozenset(map(str, names))
        for key, names in _mapping(manifest.get("not_recomputable")).items()
    }
    records = _check_records(files, specs, exceptions, verdict)
    _check_trials(trials, records, _mapping(manifest.get("trials")), verdict)


def _check_launches(
    files: Mapping[str, File], verdict: Verdict
) -> tuple[dict[str, list[Any]], dict[str, Mapping[str, Any]]]:
    """The trials of all launches, by name, and all stages, by key."""
    trials: dict[str, list[Any]] = {}
    specs: dict[str, Mapping[str, Any]] = {}
    designs = []
    launches = [name for name in files if re.fullmatch(r"sweep/launches/\w+\.json", name)]
    if not launches:
        verdict.problems.append("the bundle has no launch")
    for name in sorted(launches):
        stages_name = name.removesuffix(".json") + ".stages.jsonl"
        launch = _parsed(files, name, verdict)
        lines = (files[stages_name].text or b"").split(b"\n") if stages_name in files else []
        digest = hashlib.sha256((files[name].text or b"") + b"".join(lines)).hexdigest()[:16]
        if name != f"sweep/launches/{digest}.json":
            verdict.problems.append(
                f"{name}: its name is not the digest of the launch and its stages"
            )
        with _finding(verdict, name):
            designs.append(fingerprint.canonical_json(launch["design"]))
            mine = {spec["key"]: spec for spec in map(json.loads, filter(None, lines))}
            specs |= mine
            for key, spec in mine.items():
                if fingerprint.fingerprint(spec["payload"]) != key:
                    verdict.problems.append(
                        f"{stages_name}: {spec['label']}: its key does not follow from what "
                        f"defines it ({key[:12]})"
                    )
                stage = f"{name}: {spec['label']} ({key[:12]})"
                described = [spec["label"], spec["kind"], spec["needs"]]
                if (
                    described != launch["stages"].get(key)
                    or spec["payload"]["inputs"] != spec["needs"]
                ):
                    verdict.problems.append(f"{stage}: its inputs do not match its key")
                if not set(spec["needs"].values()) <= mine.keys():
                    verdict.problems.append(f"{stage} needs a stage that is missing")
            for trial in launch["trials"]:
                trials.setdefault(trial["name"], []).append(trial)
                if fingerprint.fingerprint(trial["stages"]) != trial["id"]:
                    verdict.problems.append(
                        f"{name}: {trial['name']}: its id does not follow from its stages"
                    )
                if not set(trial["stages"]) <= mine.keys():
                    verdict.problems.append(f"{name}: {trial['name']} has a stage that is missing")
    with _finding(verdict, "sweep/experiment.yaml"):
        if (
            fingerprint.canonical_json(_yaml(files["sweep/experiment.yaml"].text or b""))
            not in designs
        ):
            verdict.problems.append("sweep/experiment.yaml does not match the design of any launch")
    verdict.trials = len(trials)
    return trials, specs


def _check_configs(
    files: Mapping[str, File], trials: Mapping[str, list[Any]], verdict: Verdict
) -> None:
    """Check that every configuration of a trial was launched."""
    for name, launched in trials.items():
        path = f"sweep/{name}/config.yaml"
        if path not in files:
            verdict.problems.append(f"{path} is missing")
            continue
        with _finding(verdict, path):
            if config_digest(_yaml(files[path].text or b"")) not in {
                trial["config"] for trial in launched
            }:
                verdict.problems.append(f"{path} is not the configuration that was launched")


def _check_records(
    files: Mapping[str, File],
    specs: Mapping[str, Mapping[str, Any]],
    exceptions: Mapping[str, frozenset[str]],
    verdict: Verdict,
) -> set[str]:
    """Check every record, and return the keys of the stages that have one."""
    keys = set()
    claimed = set()
    for path in sorted(name for name in files if name.startswith("store/records/")):
        key = Path(path).stem
        keys.add(key)
        body, _, seal = (files[path].text or b"").rstrip(b"\n").rpartition(b"\n")
        if fingerprint.digest_bytes(body) != seal.decode(errors="replace"):
            verdict.problems.append(f"{path}: the record does not match its seal")
        with _finding(verdict, path):
            record = json.loads(body)
            spec = specs.get(key)
            kind = Kind.of(spec["kind"] if spec else record["kind"])
            _check_record(path, record, spec, verdict)
            for file in record["files"]:
                place = f"store/{record['folder']}/{file['name']}"
                claimed.add(place)
                _check_file(place, file, kind, files.get(place), verdict)
            if kind.scores:
                _check_metrics(
                    record,
                    files.get(f"store/{record['folder']}/{SAMPLES}"),
                    exceptions.get(key, frozenset()),
                    verdict,
                )
    for name in files:
        if (
            name.startswith("store/")
            and not name.startswith("store/records/")
            and name not in claimed
        ):
            verdict.problems.append(f"{name} belongs to no record")
    verdict.stages = len(specs)
    return keys


def _check_record(
    path: str, record: Mapping[str, Any], spec: Mapping[str, Any] | None, verdict: Verdict
) -> None:
    """Check the key and the digest of a record, and that its stage was launched."""
    key = Path(path).stem
    if (
        record["key"] != key
        or fingerprint.fingerprint(record["payload"]) != key
        or path != f"store/records/{key[:1]}/{key}.json"
    ):
        verdict.problems.append(f"{path}: its key does not follow from its payload")
    if spec is None:
        verdict.problems.append(f"{path}: belongs to no launch")
    elif [Kind.of(record["kind"]).name, record["payload"]] != [
        Kind.of(spec["kind"]).name,
        spec["payload"],
    ]:
        verdict.problems.append(f"{path}: does not match the stage that was launched")
    digests = {file["name"]: file["sha256"] for file in record["files"]}
    if (
        fingerprint.fingerprint({"facts": record["facts"], "files": digests})
        != record["artifact_digest"]
    ):
        verdict.problems.append(
            f"{path}: the artifact's digest does not follow from its facts and files"
        )


def _check_file(
    place: str, file: Mapping[str, Any], kind: Kind, packed: File | None, verdict: Verdict
) -> None:
    """Compare a file of the archive with its entry in a record."""
    if packed is None and may_be_left_out(kind, file["name"]):
        verdict.left_out += 1
        verdict.left_out_bytes += int(file["size"])
    elif packed is None:
        verdict.problems.append(f"{place} is missing")
    elif (packed.sha256, packed.size) != (file["sha256"], file["size"]):
        verdict.problems.append(f"{place} does not match its record")


def _check_metrics(
    record: Mapping[str, Any], samples: File | None, exceptions: frozenset[str], verdict: Verdict
) -> None:
    for name, finding in metric_findings(
        record["facts"], samples.scores if samples else None
    ).items():
        verdict.recomputed += finding == "" and name != "n"
        verdict.unchecked += finding != "" and name != "n"
        if finding:
            (verdict.notes if name in exceptions else verdict.problems).append(
                f"{record['label']} ({record['key'][:12]}): {finding}"
            )


def _check_trials(
    trials: Mapping[str, list[Any]],
    records: set[str],
    described: Mapping[str, Any],
    verdict: Verdict,
) -> None:
    """Check that the status of each trial in the manifest agrees with the records."""
    for name, launched in trials.items():
        status = _mapping(described.get(name)).get("status")
        with _finding(verdict, name):
            # A trial has other stages after its task was edited.
            done = {set(trial["stages"]) <= records for trial in launched}
            verdict.incomplete += status != "succeeded"
            if done == {status != "succeeded"}:
                verdict.problems.append(
                    f"{name}: the manifest says {status}, but its results are "
                    f"{'complete' if True in done else 'incomplete'}"
                )
    for name in sorted(described.keys() - trials.keys()):
        verdict.problems.append(f"{name}: belongs to no launch")


@contextlib.contextmanager
def _finding(verdict: Verdict, name: str) -> Iterator[None]:
    """Report an error in reading a file as a problem of that file."""
    try:
        yield
    except UNEXPECTED as error:
        verdict.problems.append(
            f"{name} cannot be parsed: {type(error).__name__}: {str(error)[:100]}"
        )


def _parsed(files: Mapping[str, File], name: str, verdict: Verdict) -> Any:
    with _finding(verdict, name):
        return json.loads(files[name].text or b"")
    return {}


def _yaml(text: bytes) -> Mapping[str, Any]:
    """Parse a configuration. Refuses deep nesting and aliases, which can expand to gigabytes."""
    import yaml

    loader = yaml_loader()
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if isinstance(event, yaml.AliasEvent) or depth > 100:
                raise ValueError("it has aliases, or is nested too deeply")
        data = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"is not YAML: {error}") from None
    if not isinstance(data, Mapping):
        raise ValueError("is not a mapping")
    return data


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
