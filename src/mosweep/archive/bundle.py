"""``bundle``: a sweep as one archive that anyone can check with ``mosweep verify``.

    NAME/
      README.md, CITATION.cff     how to check and how to cite the bundle
      MANIFEST.json               size and SHA-256 of every other file, the design's hash, and the
                                  status of each trial
      environment.txt             the distributions installed where it was packed
      provenance.json             git, platform and versions of every launch and of the stages
      sweep/                      the frozen design: experiment.yaml, launches/, every config.yaml
      store/records/              the record of every stage, byte by byte
      store/artifacts/            the stages' files; weights and data sets only on request

The same content gives the same bytes. Files that seem to contain a secret are refused.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mosweep import __version__
from mosweep.archive.documents import README, citation, environment, provenance
from mosweep.archive.format import FORMAT, MANIFEST, design_hash, may_be_left_out, seal_of
from mosweep.archive.metrics import Scores, metric_findings
from mosweep.archive.verdict import Verdict
from mosweep.archive.verify import verify
from mosweep.config.secrets import find_secrets, masked
from mosweep.core import fingerprint
from mosweep.core.errors import MosweepError, UserError
from mosweep.core.files import replacing
from mosweep.core.results import SweepResult, TrialResult
from mosweep.core.samples import SAMPLES
from mosweep.core.store import Record
from mosweep.core.table import some_of
from mosweep.core.work import Kind
from mosweep.sweep.folder import Sweep
from mosweep.sweep.writing import restore

__all__ = ["pack"]


def pack(
    sweep: Sweep,
    target: Path,
    *,
    weights: bool = False,
    data: bool = False,
    authors: Sequence[str] = (),
    anyway: bool = False,
) -> Verdict:
    """Write ``sweep`` to ``target``, a ``.tar.gz``, and return the verdict of its verification.

    Raises ``UserError`` if something in it looks like a secret (unless ``anyway``), and
    ``MosweepError`` if what is on disk does not verify.
    """
    if not sweep.launches:
        raise UserError(f"{sweep.folder}: nothing was launched there yet")
    result, records = sweep.result(), _records(sweep)
    restore(sweep, {trial.name: {} for trial in result.trials})
    entries, exceptions = _entries(sweep, result, records, weights=weights, data=data)
    entries["environment.txt"] = environment()
    stages = [record for record, _ in records.values()]
    entries["provenance.json"] = _json(provenance(sweep, stages))
    try:
        digests = {name: _described(entry) for name, entry in entries.items()}
    except FileNotFoundError as error:
        raise MosweepError(f"{error.filename} is missing") from None
    if not anyway:
        _refuse_secrets(entries, _task_arguments(sweep, result))
    design = design_hash(
        {
            name.removeprefix("sweep/"): about["sha256"]
            for name, about in digests.items()
            if name.startswith("sweep/")
        }
    )
    title = str(result.design.get("description") or f"Results of the sweep {result.name}")
    for name, text in (
        ("README.md", README.format(title=title, version=__version__, name=result.name)),
        ("CITATION.cff", citation(title, result.name, design, stages, authors)),
    ):
        entries[name] = text.encode()
        digests[name] = _described(text.encode())
    entries[MANIFEST] = _json(_manifest(result, design, digests, exceptions))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        _write(temporary, result.name, entries, digests)
        verdict = verify(temporary)
        if not verdict.holds:
            raise MosweepError(
                f"{sweep.folder} differs from what was launched and recorded: "
                f"{'; '.join(verdict.problems[:3])}"
            )
    verdict.bundle = str(target)
    return verdict


def _entries(
    sweep: Sweep,
    result: SweepResult,
    records: Mapping[str, tuple[Record, Path]],
    *,
    weights: bool,
    data: bool,
) -> tuple[dict[str, Path | bytes], dict[str, list[str]]]:
    """The files to pack by path in the bundle, and by key the metrics that cannot be recomputed."""
    entries: dict[str, Path | bytes] = {
        f"sweep/{path.relative_to(sweep.folder)}": path for path in _design(sweep, result)
    }
    exceptions = {}
    kinds = _kinds(sweep)
    for key, (record, path) in records.items():
        entries[f"store/records/{key[:1]}/{key}.json"] = path
        kind = kinds[key]
        for file in record.data["files"]:
            included = data if kind.leaves == "data" else weights
            if included or not may_be_left_out(kind, file["name"]):
                entries[f"store/{record.data['folder']}/{file['name']}"] = (
                    record.folder / file["name"]
                )
        if kind.scores and (names := _not_recomputable(record)):
            exceptions[key] = names
    return entries, exceptions


def _manifest(
    result: SweepResult,
    design: str,
    digests: Mapping[str, Mapping[str, Any]],
    exceptions: Mapping[str, list[str]],
) -> dict[str, Any]:
    trials = {
        trial.name: {"id": trial.id, "status": trial.status, "error": _error(trial)}
        for trial in result.trials
    }
    manifest = {
        "format": FORMAT,
        "mosweep": __version__,
        "name": result.name,
        "design": design,
        "trials": trials,
        "files": digests,
        "not_recomputable": exceptions,
    }
    return {**manifest, "seal": seal_of(manifest)}


def _records(sweep: Sweep) -> dict[str, tuple[Record, Path]]:
    """All records of the sweep's stages, whole, and their files."""
    records: dict[str, tuple[Record, Path]] = {}
    for launch in sweep.launches:
        for key in launch.stages:
            if key not in records and (record := launch.store.read(key, whole=True)):
                records[key] = (record, launch.store.record_path(key))
    return records


def _kinds(sweep: Sweep) -> dict[str, Kind]:
    """The kinds of all stages, by key."""
    return {
        key: Kind.of(about[1]) for launch in sweep.launches for key, about in launch.stages.items()
    }


def _design(sweep: Sweep, result: SweepResult) -> Iterator[Path]:
    yield sweep.folder / "experiment.yaml"
    for launch in sweep.launches:
        yield sweep.folder / "launches" / launch.file
        yield launch.specs_file
    for trial in result.trials:
        yield Path(trial.folder) / "config.yaml"


def _not_recomputable(record: Record) -> list[str]:
    """Metrics that are named like a mean and are not one. They are not recomputed."""
    samples, scores = record.folder / SAMPLES, Scores()
    if not samples.exists():
        return []
    with open(samples, "rb") as file:
        while chunk := file.read(1 << 20):
            scores.feed(chunk)
    scores.close()
    return [name for name, finding in metric_findings(record.facts, scores).items() if finding]


def _error(trial: TrialResult) -> str | None:
    error = next((f"{stage.label}: {stage.error}" for stage in trial.stages if stage.error), None)
    return None if error is None else str(masked(error)).encode(errors="replace").decode()


def _task_arguments(sweep: Sweep, result: SweepResult) -> set[str]:
    """The names of all arguments of tasks in the sweep, which are the user's to choose."""
    names: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                names.add(str(name))
                collect(item)

    for trial in result.trials:
        collect((sweep.config(trial.name).get("inspect") or {}).get("task_args"))
    return names


def _refuse_secrets(entries: Mapping[str, Path | bytes], free: Collection[str]) -> None:
    suspects = []
    for name, entry in entries.items():
        by_name = name.startswith(("sweep/", "store/records/")) or (
            # ``eval.yaml`` has arguments of a task only.
            name.endswith((".yaml", ".yml")) and Path(name).name != "eval.yaml"
        )
        try:
            suspects += [
                f"{name}{where}, {place}"
                for where, text in _texts(entry)
                for place in find_secrets(text, keys=by_name, free=free)
            ]
        except NotImplementedError:
            suspects.append(f"{name}, which cannot be read without Inspect's libraries,")
    if suspects:
        raise UserError(
            f"nothing was packed: {some_of(suspects, 3, '; ')} may contain a secret. Look there; "
            "--anyway packs it if there is none"
        )


def _texts(entry: Path | bytes) -> Iterator[tuple[str, str]]:
    """The text of a file, or of each file in an Inspect log. Other binary files have none."""
    if isinstance(entry, bytes):
        yield "", entry.decode()
    elif entry.suffix == ".eval" and zipfile.is_zipfile(entry):
        # Inspect installs it. Before Python 3.14 its logs cannot be read without it.
        with contextlib.suppress(ImportError):
            importlib.import_module("zipfile_zstd")
        with zipfile.ZipFile(entry) as log:
            for member in log.namelist():
                yield f" ({member})", log.read(member).decode(errors="replace")
    else:
        with open(entry, "rb") as file:
            if b"\0" not in file.read(8192):
                file.seek(0)
                yield "", file.read().decode(errors="replace")


def _write(
    target: Path,
    root: str,
    entries: Mapping[str, Path | bytes],
    digests: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the archive: sorted, without times and owners, with the content of the manifest."""
    with (
        open(target, "wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(entries):
            entry = entries[name]
            with io.BytesIO(entry) if isinstance(entry, bytes) else open(entry, "rb") as file:
                info = tarfile.TarInfo(f"{root}/{name}")
                info.size = len(entry) if isinstance(entry, bytes) else digests[name]["size"]
                archive.addfile(info, file)


def _described(entry: Path | bytes) -> dict[str, Any]:
    if isinstance(entry, bytes):
        return {"sha256": fingerprint.digest_bytes(entry), "size": len(entry)}
    return {"sha256": fingerprint.digest_file(entry), "size": entry.stat().st_size}


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
