"""``bundle``: a sweep as one archive that anyone can check anywhere with ``mosweep verify``.

    NAME/
      README.md, CITATION.cff     for people
      MANIFEST.json               size and SHA-256 of every other file, the design's hash, and what
                                  became of each trial
      environment.txt             what is installed where it was packed
      provenance.json             git, platform and versions: of every launch, and of the stages
      sweep/                      the frozen design: experiment.yaml, launches/, every config.yaml
      store/records/              the record of every stage, byte by byte
      store/artifacts/            what the stages left; weights and data sets only if asked for

The same content gives the same bytes. What looks like a secret is refused.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mosweep import __version__
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

__all__ = ["README", "pack"]

README = """# {title}

A sweep run with mosweep {version}, packed with everything that its numbers rest on. You can check
it on any machine that has mosweep:

    mosweep verify {name}.tar.gz

## What verification shows

That the parts of this bundle are consistent:

- Every file is the one that `MANIFEST.json` lists. None is missing, and none was added.
- Every record in `store/records` has its own digest, and the digest of its files and facts.
- Every stage's key follows from what defines it: its configuration, its code and the keys of its
  inputs. Every trial's id follows from its stages, and every launch's file name from its trials
  and stages. Every trial's `config.yaml` is the one that was launched.
- Means and accuracies are those of the samples in `samples.jsonl`. Other metrics, such as standard
  errors, are taken as recorded.

Weights and data sets may have been left out. Their SHA-256 is in the records, so you can compare a
copy from elsewhere.

## What it cannot show

That the numbers were measured. A bundle in which somebody has rewritten scores, samples, records
and manifest consistently still verifies: digests bind the parts to one another, not to the world.
So compare two lines of `mosweep verify` with what the authors published elsewhere, such as in a
paper, a preregistration or a repository:

- `archive` is the SHA-256 of the whole file. If it is the same, nothing has changed since.
- `design` is the hash of what is in `sweep/` (`sha256sum` of its files, sorted by path, and
  `sha256sum` of that). If it was published before the results were known, these are all the trials
  that were planned.

To show more, run it again: `sweep/experiment.yaml` has the command, `provenance.json` and
`environment.txt` have the versions.

Records and launches name folders and the host of the machine that they ran on.
"""


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
    entries: dict[str, Path | bytes] = {
        f"sweep/{path.relative_to(sweep.folder)}": path for path in _design(sweep, result)
    }
    exceptions = {}
    kinds = _kinds(sweep)
    for key, (record, path) in records.items():
        entries[f"store/records/{key[:1]}/{key}.json"] = path
        kind = kinds[key]
        for file in record.data["files"]:
            wanted = data if kind.leaves == "data" else weights
            if wanted or not may_be_left_out(kind, file["name"]):
                entries[f"store/{record.data['folder']}/{file['name']}"] = (
                    record.folder / file["name"]
                )
        if kind.scores and (odd := _not_recomputable(record)):
            exceptions[key] = odd
    entries["environment.txt"] = _environment()
    entries["provenance.json"] = _json(_provenance(sweep, records))
    try:
        digests = {name: _described(entry) for name, entry in entries.items()}
    except FileNotFoundError as error:
        raise MosweepError(f"{error.filename} is missing") from None
    if not anyway:
        _refuse_secrets(entries)
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
        ("CITATION.cff", _citation(title, result.name, design, records, authors)),
    ):
        entries[name] = text.encode()
        digests[name] = _described(text.encode())
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
    }
    manifest |= {"not_recomputable": exceptions}
    entries[MANIFEST] = _json({**manifest, "seal": seal_of(manifest)})
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
    """Metrics with the name of a mean that are none: verification takes them as recorded."""
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


def _environment() -> bytes:
    """The installed distributions, as ``pip freeze`` lists them."""
    from importlib.metadata import distributions

    installed = {
        f"{distribution.name}=={distribution.version}"
        for distribution in distributions()
        if distribution.name
    }
    python = ".".join(map(str, sys.version_info[:3]))
    return "\n".join(
        [
            f"# Python {python}; installed where this bundle was packed",
            *sorted(installed, key=str.lower),
            "",
        ]
    ).encode()


def _provenance(sweep: Sweep, records: Mapping[str, tuple[Record, Path]]) -> dict[str, Any]:
    launches = {
        launch.file: {
            "command": launch.design.get("command"),
            **launch.design.get("provenance", {}),
        }
        for launch in sweep.launches
    }
    used = Counter(json.dumps(record.data.get("versions", {})) for record, _ in records.values())
    stages = [
        {"stages": count, "versions": json.loads(versions)}
        for versions, count in sorted(used.items())
    ]
    return {"launches": launches, "stages": stages}


def _citation(
    title: str,
    name: str,
    design: str,
    records: Mapping[str, tuple[Record, Path]],
    authors: Sequence[str],
) -> str:
    """A file in Citation File Format 1.2.0, which requires at least one author."""
    import yaml

    last = max(
        (float(record.data.get("finished", 0)) for record, _ in records.values()), default=0.0
    )
    citation = {
        "cff-version": "1.2.0",
        "type": "dataset",
        "message": "If you use these results, please cite them.",
        "title": title,
        "authors": [_author(author) for author in authors] or [{"name": f"The authors of {name}"}],
        "version": design[:12],
        "identifiers": [
            {
                "type": "other",
                "value": f"sha256:{design}",
                "description": "the hash of the frozen design",
            }
        ],
        **({"date-released": time.strftime("%Y-%m-%d", time.gmtime(last))} if last else {}),
    }
    text: str = yaml.safe_dump(citation, sort_keys=False, allow_unicode=True, width=120)
    return text


def _author(text: str) -> dict[str, str]:
    """``Lovelace, Ada`` is a person, a name without a comma may be anything."""
    family, comma, given = (part.strip() for part in text.partition(","))
    return {"family-names": family, "given-names": given} if comma else {"name": family}


def _refuse_secrets(entries: Mapping[str, Path | bytes]) -> None:
    suspects = []
    for name, entry in entries.items():
        by_name = name.startswith(("sweep/", "store/records/")) or name.endswith((".yaml", ".yml"))
        try:
            suspects += [
                f"{name}{where}, {place}"
                for where, text in _texts(entry)
                for place in find_secrets(text, keys=by_name)
            ]
        except NotImplementedError:
            suspects.append(f"{name}, which cannot be read without Inspect's libraries,")
    if suspects:
        raise UserError(
            f"nothing was packed: {some_of(suspects, 3, '; ')} may contain a secret. Look there; "
            "--anyway packs it if there is none"
        )


def _texts(entry: Path | bytes) -> Iterator[tuple[str, str]]:
    """The text of a file, or of each file in an Inspect log; nothing for other binary files."""
    if isinstance(entry, bytes):
        yield "", entry.decode()
    elif entry.suffix == ".eval" and zipfile.is_zipfile(entry):
        # comes with Inspect, whose logs need it before Python 3.14
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
