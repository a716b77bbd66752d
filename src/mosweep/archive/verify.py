"""``verify``: every digest and key in a bundle derived again, on any machine, without a store.

The archive is data: it is read as a stream and never unpacked, nothing in it is imported, evaluated
or unpickled, and what a name or a size in it claims is not believed. What can be checked and what
cannot is said in ``bundle.README``, which travels in every bundle.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mosweep.core import fingerprint
from mosweep.core.errors import MosweepError, UserError
from mosweep.core.work import DATA, Kind
from mosweep.sweep.folder import config_digest

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Scores",
    "Verdict",
    "design_hash",
    "may_be_left_out",
    "metric_findings",
    "seal_of",
    "verdict_text",
    "verify",
]

#: Version of what a bundle looks like.
FORMAT = 1

#: Lists all other files.
MANIFEST = "MANIFEST.json"

#: Most text that is held in memory; most files; longest line and longest name.
MAX_TEXT, MAX_FILES, MAX_LINE, MAX_NAME = 1 << 31, 2_000_000, 1 << 26, 2048

#: An archive may expand to so many bytes, or to so many times its own size: deflate can do a
#: thousand, results do not.
MAX_BYTES, MAX_RATIO = 1 << 30, 200

_CHUNK = 1 << 20
_WEIGHTS = frozenset(".safetensors .bin .pt .pth .ckpt .gguf .npz .npy .h5 .msgpack .onnx".split())


class _Unreadable(MosweepError):
    """The archive cannot be, or must not be, read to its end."""


@dataclass
class Verdict:
    """What a verification found. It ``holds`` if there is no problem.

    ``unchecked`` metrics do not follow from ``samples.jsonl``; ``notes`` are those among them that
    sound like a mean and by the manifest are none. ``left_out`` are files that records name and
    that did not come along, ``left_out_bytes`` their size.
    """

    bundle: str
    name: str = ""
    archive: str = ""
    design: str = ""
    files: int = 0
    trials: int = 0
    incomplete: int = 0
    stages: int = 0
    recomputed: int = 0
    unchecked: int = 0
    left_out: int = 0
    left_out_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(bundle: Path) -> Verdict:
    """Check everything that can be checked about ``bundle``; ``UserError`` if there is no such
    file.
    """
    verdict = Verdict(str(bundle))
    try:
        with open(bundle, "rb") as file:
            verdict.archive = fingerprint.digest_stream(file)
            limit = max(MAX_BYTES, MAX_RATIO * file.tell())
            file.seek(0)
            contents = _contents(file, limit)
        _check(contents, verdict)
    except (OSError, EOFError) as error:
        if not verdict.archive:
            raise UserError(f"{bundle}: {getattr(error, 'strerror', None) or error}") from None
        verdict.problems.append(f"no archive that can be read: {error}")
    except (_Unreadable, tarfile.TarError, zlib.error, *_ODD) as error:
        verdict.problems.append(f"no archive that can be read: {error}")
    return verdict


def verdict_text(verdict: Verdict, limit: int = 20) -> str:
    """What a person reads."""
    head = (
        "holds" if verdict.holds else f"DOES NOT HOLD: {_count(len(verdict.problems), 'problem')}"
    )
    lines = [
        f"{verdict.name or verdict.bundle}: {head}",
        *(f"  ✗ {problem}" for problem in verdict.problems[:limit]),
    ]
    if len(verdict.problems) > limit:
        lines.append(f"  … and {len(verdict.problems) - limit} more (--json lists all)")
    lines += [f"  ! {note}; the manifest says that it is no mean" for note in verdict.notes[:limit]]
    incomplete = f", {verdict.incomplete} of them without all results" if verdict.incomplete else ""
    lines.append(
        f"  {_count(verdict.trials, 'trial')}{incomplete}; {_count(verdict.stages, 'stage')}; "
        f"{_count(verdict.files, 'file')}"
    )
    lines.append(
        f"  {_count(verdict.recomputed, 'metric')} recomputed from the samples, "
        f"{verdict.unchecked} taken as recorded"
    )
    if verdict.left_out:
        size = f"{verdict.left_out_bytes / 1e6:,.1f} MB"
        lines.append(
            f"  not included: {_count(verdict.left_out, 'file')} ({size}) of weights and data, "
            "known by their SHA-256"
        )
    lines += [f"  design   {verdict.design}"] if verdict.design else []
    return "\n".join([*lines, f"  archive  {verdict.archive}"])


def design_hash(digests: Mapping[str, str]) -> str:
    """The hash of a frozen design, from the SHA-256 of its files by path: that of what
    ``sha256sum`` prints for them, in order.
    """
    return fingerprint.digest_bytes(
        "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()
    )


def seal_of(manifest: Mapping[str, Any]) -> str:
    """What the manifest says of itself."""
    return fingerprint.fingerprint(
        {name: value for name, value in manifest.items() if name != "seal"}
    )


def may_be_left_out(kind: Kind, name: str) -> bool:
    """Whether a file of a stage is one that bundles leave out unless asked: weights, and data
    sets.
    """
    return kind == DATA or Path(name).suffix in _WEIGHTS


# -- reading ---------------------------------------------------------------------------------------


@dataclass
class _File:
    """A file of the archive: digest and size of what is there, and its text or scores where they
    are needed.
    """

    sha256: str
    size: int
    text: bytes | None = None
    scores: Scores | None = None


class _Guarded:
    """A decompressed stream, read once: a header's claim of gigabytes is not believed. Goes back by
    one byte, as ``tarfile`` wants.
    """

    def __init__(self, file: gzip.GzipFile, limit: int) -> None:
        self.file, self.limit, self.position, self.last, self.again = file, limit, 0, b"", b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise _Unreadable("a header in it is absurdly long")
        data = self.again[:size] or self.file.read(size)
        self.again, self.last, self.position = b"", data[-1:], self.position + len(data)
        if self.position > self.limit:
            raise _Unreadable("its files are absurdly long")
        return data

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        if position == self.position - 1 and self.last:
            self.again, self.last, self.position = self.last, b"", position
        while self.position < position and self.read(min(_CHUNK, position - self.position)):
            pass
        return self.position


def _contents(file: IO[bytes], limit: int) -> dict[str, _File]:
    """The archive's files by their path below its one folder."""
    found: dict[str, _File] = {}
    roots: set[str] = set()
    held = 0
    guarded: Any = _Guarded(gzip.GzipFile(fileobj=file), limit)
    with tarfile.open(fileobj=guarded, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it would hold millions of them
            root, name = _placed(member)
            roots.add(root)
            if name in found:
                raise _Unreadable(f"{name!r} is in it twice")
            if len(found) >= MAX_FILES:
                raise _Unreadable("its files are absurdly many")
            keep = name == MANIFEST or name.startswith(("sweep/", "store/records/"))
            held += member.size if keep else 0
            if held > MAX_TEXT:
                raise _Unreadable("its text is absurdly long")
            content = archive.extractfile(member)
            assert content is not None
            found[name] = _read(
                content, member.size, keep, Scores() if name.endswith("/samples.jsonl") else None
            )
    while guarded.read(_CHUNK):  # to the end, for gzip's own checksum
        pass
    if len(roots) != 1:
        raise _Unreadable(f"it holds {len(roots)} folders where a bundle holds one")
    return found


def _placed(member: tarfile.TarInfo) -> tuple[str, str]:
    """Folder and path of an archive's member; only plain files at plain places are read."""
    parts = member.name.split("/")
    if (
        len(parts) < 2
        or len(member.name) > MAX_NAME
        or set(parts) & {"", ".", ".."}
        or re.search(r"[\\\x00-\x1f\x7f]", member.name)
    ):
        raise _Unreadable(f"{member.name[:100]!r} is no plain path")
    if (
        member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE)
        or member.sparse is not None
        or member.size < 0
    ):
        raise _Unreadable(f"{member.name[:100]!r} is no plain file")
    return parts[0], "/".join(parts[1:])


def _read(content: IO[bytes], size: int, keep: bool, scores: Scores | None) -> _File:
    digest, kept, length = hashlib.sha256(), [], 0
    while chunk := content.read(_CHUNK):
        digest.update(chunk)
        length += len(chunk)
        if keep:
            kept.append(chunk)
        if scores is not None:
            scores.feed(chunk)
    if length != size:
        raise _Unreadable("it ends too early")
    if scores is not None:
        scores.close()
    return _File(digest.hexdigest(), length, b"".join(kept) if keep else None, scores)


# -- what follows from what ------------------------------------------------------------------------


def _check(files: Mapping[str, _File], verdict: Verdict) -> None:
    manifest = _parsed(files, MANIFEST, verdict) if MANIFEST in files else None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        verdict.problems.append(
            f"{MANIFEST} is missing, or not of a format that this version knows ({FORMAT})"
        )
        manifest = {}
    with _finding(verdict, MANIFEST):
        if manifest and manifest.get("seal") != seal_of(manifest):
            verdict.problems.append(f"{MANIFEST} is not what was sealed")
    verdict.name = str(manifest.get("name", ""))
    verdict.files = len(files)
    listed = _mapping(manifest.get("files"))
    for name in sorted({*listed, *files} - {MANIFEST}):
        if name not in files:
            verdict.problems.append(f"{name} is missing")
        elif name not in listed:
            verdict.problems.append(f"{name} is not in the manifest")
        elif listed[name] != {"sha256": files[name].sha256, "size": files[name].size}:
            verdict.problems.append(f"{name} is not what the manifest says")
    verdict.design = design_hash(
        {
            name.removeprefix("sweep/"): file.sha256
            for name, file in files.items()
            if name.startswith("sweep/")
        }
    )
    if manifest.get("design") != verdict.design:
        verdict.problems.append(
            "the design is not the one whose hash the manifest holds "
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
    files: Mapping[str, _File], verdict: Verdict
) -> tuple[dict[str, list[Any]], dict[str, Mapping[str, Any]]]:
    """The trials of all launches, by name, and all stages, by key."""
    trials: dict[str, list[Any]] = {}
    specs: dict[str, Mapping[str, Any]] = {}
    designs = []
    launches = [name for name in files if re.fullmatch(r"sweep/launches/\w+\.json", name)]
    if not launches:
        verdict.problems.append("there is no launch")
    for name in sorted(launches):
        stages_name = name.removesuffix(".json") + ".stages.jsonl"
        launch = _parsed(files, name, verdict)
        lines = (files[stages_name].text or b"").split(b"\n") if stages_name in files else []
        digest = hashlib.sha256((files[name].text or b"") + b"".join(lines)).hexdigest()[:16]
        if name != f"sweep/launches/{digest}.json":
            verdict.problems.append(
                f"{name}: launch and stages are not those that the name is the digest of"
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
                if [spec["label"], spec["kind"], spec["needs"]] != launch["stages"].get(
                    key
                ) or spec["payload"]["inputs"] != spec["needs"]:
                    verdict.problems.append(
                        f"{name}: {spec['label']} ({key[:12]}) has other inputs than its key "
                        "stands for"
                    )
                if not set(spec["needs"].values()) <= mine.keys():
                    verdict.problems.append(
                        f"{name}: {spec['label']} ({key[:12]}) needs a stage that is not there"
                    )
            for trial in launch["trials"]:
                trials.setdefault(trial["name"], []).append(trial)
                if fingerprint.fingerprint(trial["stages"]) != trial["id"]:
                    verdict.problems.append(
                        f"{name}: {trial['name']}: its id does not follow from its stages"
                    )
                if not set(trial["stages"]) <= mine.keys():
                    verdict.problems.append(
                        f"{name}: {trial['name']} has a stage that is not there"
                    )
    with _finding(verdict, "sweep/experiment.yaml"):
        if (
            fingerprint.canonical_json(_yaml(files["sweep/experiment.yaml"].text or b""))
            not in designs
        ):
            verdict.problems.append("sweep/experiment.yaml is the design of no launch")
    verdict.trials = len(trials)
    return trials, specs


def _check_configs(
    files: Mapping[str, _File], trials: Mapping[str, list[Any]], verdict: Verdict
) -> None:
    """Every trial's configuration is one that it was launched with."""
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
    files: Mapping[str, _File],
    specs: Mapping[str, Mapping[str, Any]],
    exceptions: Mapping[str, frozenset[str]],
    verdict: Verdict,
) -> set[str]:
    """Keys of the stages whose records are there."""
    keys = set()
    claimed = set()
    for path in sorted(name for name in files if name.startswith("store/records/")):
        key = Path(path).stem
        keys.add(key)
        body, _, seal = (files[path].text or b"").rstrip(b"\n").rpartition(b"\n")
        if fingerprint.digest_bytes(body) != seal.decode(errors="replace"):
            verdict.problems.append(f"{path}: the record is not what was sealed")
        with _finding(verdict, path):
            record = json.loads(body)
            spec = specs.get(key)
            if (
                record["key"] != key
                or fingerprint.fingerprint(record["payload"]) != key
                or path != f"store/records/{key[:1]}/{key}.json"
            ):
                verdict.problems.append(
                    f"{path}: its key does not follow from what it says defined it"
                )
            if spec is None:
                verdict.problems.append(f"{path}: a stage of no launch")
            elif [record["kind"], record["payload"]] != [spec["kind"], spec["payload"]]:
                verdict.problems.append(f"{path}: is not the stage that was launched")
            digests = {file["name"]: file["sha256"] for file in record["files"]}
            if (
                fingerprint.fingerprint({"facts": record["facts"], "files": digests})
                != record["artifact_digest"]
            ):
                verdict.problems.append(
                    f"{path}: the artifact's digest does not follow from its facts and files"
                )
            for file in record["files"]:
                place = f"store/{record['folder']}/{file['name']}"
                claimed.add(place)
                there = files.get(place)
                if there is None and may_be_left_out(Kind.of(record["kind"]), file["name"]):
                    verdict.left_out, verdict.left_out_bytes = (
                        verdict.left_out + 1,
                        verdict.left_out_bytes + int(file["size"]),
                    )
                elif there is None:
                    verdict.problems.append(f"{place} is missing")
                elif (there.sha256, there.size) != (file["sha256"], file["size"]):
                    verdict.problems.append(f"{place} is not what its record says")
            if Kind.of(record["kind"]).scores:
                _check_metrics(
                    record,
                    files.get(f"store/{record['folder']}/samples.jsonl"),
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


def _check_metrics(
    record: Mapping[str, Any], samples: _File | None, exceptions: frozenset[str], verdict: Verdict
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
    trials: Mapping[str, list[Any]], records: set[str], told: Mapping[str, Any], verdict: Verdict
) -> None:
    """What the manifest says became of each trial agrees with the records that are there."""
    for name, launched in trials.items():
        status = _mapping(told.get(name)).get("status")
        with _finding(verdict, name):
            # an edited task made others of the same trial
            done = {set(trial["stages"]) <= records for trial in launched}
            verdict.incomplete += status != "succeeded"
            if done == {status != "succeeded"}:
                verdict.problems.append(
                    f"{name}: the manifest says {status}, but its results are "
                    f"{'all' if True in done else 'not all'} there"
                )
    for name in sorted(told.keys() - trials.keys()):
        verdict.problems.append(f"{name}: a trial of no launch")


# -- metrics ---------------------------------------------------------------------------------------


class Scores:
    """The scores of a ``samples.jsonl``, read chunk by chunk, then closed.

    ``means`` are, by scorer: the mean over items of the mean over epochs, the number of items, and
    whether any had several epochs. ``counts`` is what may go by the number of samples: items or
    rows, all of them or those that some scorer scored.
    """

    def __init__(self) -> None:
        self.broken = ""
        self.rows = 0
        self.means: dict[str, tuple[float, int, bool]] = {}
        self.counts: set[int] = set()
        self._rest = b""
        self._values: dict[str, dict[str, list[float]]] = {}
        self._items: set[str] = set()

    def feed(self, chunk: bytes) -> None:
        """Read on."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise _Unreadable("a line of samples is absurdly long")
        for line in lines:
            self._row(line)

    def close(self) -> None:
        """Read what is left, a last line without an end, and keep no more than what is asked
        for.
        """
        self._row(self._rest)
        self.counts = {self.rows, len(self._items)}
        for scorer, items in self._values.items():
            self.counts |= {len(items), sum(map(len, items.values()))}
            means = [math.fsum(values) / len(values) for values in items.values()]
            if means:
                self.means[scorer] = (
                    math.fsum(means) / len(means),
                    len(means),
                    any(len(values) > 1 for values in items.values()),
                )
        self._values, self._items, self._rest = {}, set(), b""

    def _row(self, line: bytes) -> None:
        if not line or self.broken:
            return
        try:
            row = json.loads(line)
            item = json.dumps(row["id"])
            for scorer, value in row["scores"].items():
                of_item = self._values.setdefault(scorer, {})
                if value is not None:
                    of_item.setdefault(item, []).append(float(value))
        except _ODD as error:
            self.broken = f"samples.jsonl cannot be read: {type(error).__name__}"
            return
        self.rows += 1
        self._items.add(item)

    def mean_for(self, metric: str) -> tuple[float, int, bool] | None:
        """The mean that ``metric`` should be, if by its name it is one."""
        scorer, _, name = metric.rpartition("/")
        if metric in self.means:
            scorer = metric
        elif name not in ("accuracy", "mean"):
            return None
        elif not scorer and len(self.means) == 1:
            (scorer,) = self.means
        return self.means.get(scorer)


def metric_findings(facts: Mapping[str, Any], scores: Scores | None) -> dict[str, str | None]:
    """What the samples say of each metric, and of ``n``: ``""`` if it is what they give, ``None``
    if they do not tell, or what is wrong.
    """
    if scores is None or scores.broken:
        return dict.fromkeys([*facts["metrics"], "n"], scores.broken if scores else None)
    n = facts["n"]
    found: dict[str, str | None] = {
        "n": "" if n in scores.counts else f"n is {n}, but there are {scores.rows} samples"
    }
    for name, value in facts["metrics"].items():
        mean = scores.mean_for(name)
        if mean is None or (mean[1] != n and not mean[2]):
            found[name] = None
        elif math.isclose(mean[0], value, rel_tol=1e-9, abs_tol=1e-9):
            found[name] = ""
        else:  # epochs may have been reduced otherwise than by their mean
            found[name] = None if mean[2] else f"{name} is {value}, the samples give {mean[0]:.6g}"
    return found


# -- small parts -----------------------------------------------------------------------------------


#: What reading data of an unexpected form raises.
_ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def _finding(verdict: Verdict, name: str) -> Iterator[None]:
    """Makes what goes wrong with a file's content a problem of that file."""
    try:
        yield
    except _ODD as error:
        verdict.problems.append(
            f"{name} cannot be understood: {type(error).__name__}: {str(error)[:100]}"
        )


def _parsed(files: Mapping[str, _File], name: str, verdict: Verdict) -> Any:
    with _finding(verdict, name):
        return json.loads(files[name].text or b"")
    return {}


def _yaml(text: bytes) -> Mapping[str, Any]:
    """A configuration. Never in one: aliases, a few bytes of which can stand for gigabytes, and
    nests that overflow the stack.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
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
        raise ValueError("is no mapping")
    return data


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
