"""``mosweep cache``: what is in the store, what it takes, whether it is sound; taking things out
and carrying them elsewhere.

Records are read as they are, without a look at their files, unless one asks to ``verify``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.claims import Owner
from mosweep.core.drivers import sweeps_at_work
from mosweep.core.errors import MosweepError, UserError, choices
from mosweep.core.files import replacing
from mosweep.core.store import LOG, DamageWarning, Store
from mosweep.core.table import format_table
from mosweep.core.work import Kind
from mosweep.sweep.folder import Sweep

__all__ = [
    "Entry",
    "Selection",
    "collect_garbage",
    "contents",
    "duration",
    "export",
    "garbage",
    "in_use",
    "listing",
    "remove",
    "selected",
    "shown",
    "size_text",
    "statistics",
    "statistics_text",
    "take_in",
    "verified",
]

#: What an attempt that nobody works on left is kept for so long, in seconds: a sweep that is given
#: again goes on from its checkpoints.
KEEP_S = 3600.0
#: The first line of an exported archive's list.
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One record: what it is, when it was made, what it takes, and what it was made from."""

    key: str
    kind: str
    label: str
    model: str
    finished: float
    seconds: float
    size: int
    folder: str
    needs: Mapping[str, str] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Which entries: by kind, model (part of its name), age, the sweeps whose trials use them, and
    what one of them was made from.

    ``older_than`` in seconds; ``reachable_from`` a key, the beginning of one, or an atom's id: that
    entry and all that went into it.
    """

    kind: str | None = None
    model: str | None = None
    older_than: float | None = None
    experiments: Sequence[Sweep] = ()
    reachable_from: str | None = None
    keys: Sequence[str] = ()

    @property
    def everything(self) -> bool:
        """Whether nothing was chosen."""
        return self == Selection()


def contents(store: Store) -> dict[str, Entry]:
    """All records, by key, oldest first. A record that cannot be read is left to ``verified``."""
    found = []
    for key in store.keys():  # noqa: SIM118
        with contextlib.suppress(OSError, ValueError, KeyError):
            found.append(_entry(store.unchecked(key)))
    return {
        entry.key: entry for entry in sorted(found, key=lambda entry: (entry.finished, entry.key))
    }


def _entry(data: Mapping[str, Any]) -> Entry:
    config, facts = data["payload"].get("config") or {}, data["facts"]
    model = facts.get("model_id") or config.get("model") or facts.get("name") or ""
    if not isinstance(model, str):
        model = ""
    times = float(data.get("finished", 0)), float(data.get("started", 0))
    size = sum(int(file["size"]) for file in data["files"])
    kind = Kind.of(data["kind"]).name
    label = str(data.get("label", kind))
    return Entry(
        str(data["key"]),
        kind,
        label,
        model,
        times[0],
        times[0] - times[1],
        size,
        str(data["folder"]),
        data["payload"]["inputs"],
    )


def selected(store: Store, selection: Selection) -> dict[str, Entry]:
    """The entries that ``selection`` means."""
    entries = contents(store)
    wanted: set[str] | None = None
    for text in selection.keys:
        wanted = (wanted or set()) | {_key(text, entries)}
    if selection.reachable_from is not None:
        below = _reachable([_key(selection.reachable_from, entries)], entries)
        wanted = below if wanted is None else wanted & below
    if selection.experiments:
        used = {key for sweep in selection.experiments for key in _stages_of(sweep)}
        wanted = used if wanted is None else wanted & used
    if selection.kind is not None and selection.kind not in (
        kinds := {entry.kind for entry in entries.values()}
    ):
        raise UserError(
            f"--kind {selection.kind}: the store has nothing of that kind; "
            f"{choices(selection.kind, kinds)}"
        )
    return {
        key: entry
        for key, entry in entries.items()
        if (wanted is None or key in wanted)
        and selection.kind in (None, entry.kind)
        and (selection.model is None or selection.model in entry.model)
        and (selection.older_than is None or time.time() - entry.finished > selection.older_than)
    }


def _key(text: str, entries: Collection[str]) -> str:
    """The one key that ``text`` means: the key, its beginning, or an atom's id."""
    digits = text.rpartition("-")[2]
    found = [key for key in entries if key.startswith(digits)] if digits else []
    if len(found) != 1:
        raise UserError(
            f"{text}: {'no entry' if not found else f'{len(found)} entries'} of that key in the "
            "store; mosweep cache list shows them"
        )
    return found[0]


def _reachable(keys: Iterable[str], entries: Mapping[str, Entry]) -> set[str]:
    """These entries and all that they were made from."""
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in entries and key not in found:
            found.add(key)
            waiting += entries[key].needs.values()
    return found


def _stages_of(sweep: Sweep) -> set[str]:
    return {key for launch in sweep.launches for key in launch.stages}


def in_use(store: Store) -> set[str]:
    """Keys that must stay: what running sweeps count on, what is being worked on or waits in Slurm,
    and what that needs.
    """
    busy = {key for key in store.claims.held() if re.fullmatch(r"[0-9a-f]{64}", key)}
    for folder in sweeps_at_work(store):
        busy |= _stages_of(Sweep(folder))
    for mark in (store.root / "slurm" / "open").glob("*"):
        for line in _lines(store.root / "slurm" / mark.name / "stages.jsonl"):
            busy |= {line["spec"]["key"], *line["spec"]["needs"].values()}
    return busy | _reachable(busy, contents(store))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


# -- looking ---------------------------------------------------------------------------------------


def listing(entries: Mapping[str, Entry]) -> str:
    """A table, one entry a line, newest last."""
    rows = [
        (
            entry.key[:16],
            entry.kind,
            entry.label,
            entry.model,
            size_text(entry.size),
            _age(entry.finished),
            f"{entry.seconds:.1f} s",
        )
        for entry in entries.values()
    ]
    return (
        format_table(("key", "kind", "label", "model", "size", "age", "took"), rows)
        if rows
        else "nothing"
    )


def shown(store: Store, text: str) -> dict[str, Any]:
    """Everything about one entry, as its record has it; and what was made from it."""
    entries = contents(store)
    key = _key(text, entries)
    data = store.unchecked(key)
    users = [entry for entry in entries.values() if key in entry.needs.values()]
    return {
        **data,
        "path": str(store.root / data["folder"]),
        "used_by": [{"key": e.key, "kind": e.kind, "label": e.label} for e in users],
    }


def statistics(store: Store, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Entries, bytes and computing time by kind and in all; and what lies in the store without a
    record.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for entry in entries.values():
        kind = kinds.setdefault(entry.kind, {"entries": 0, "bytes": 0, "seconds": 0.0})
        kind["entries"] += 1
        kind["bytes"] += entry.size
        kind["seconds"] += entry.seconds
    total = {
        name: sum(kind[name] for kind in kinds.values()) for name in ("entries", "bytes", "seconds")
    }
    loose, set_aside = garbage(store, keep_s=0.0), store.root / "quarantine"
    return {
        "store": str(store.root),
        "kinds": kinds,
        "total": total,
        "without_record": {"folders": len(loose), "bytes": sum(map(_size, loose))},
        "quarantine": {"folders": len(list(set_aside.glob("*"))), "bytes": _size(set_aside)},
    }


def statistics_text(data: Mapping[str, Any]) -> str:
    """``statistics`` as a table."""
    rows = [
        (kind, of["entries"], size_text(of["bytes"]), f"{of['seconds']:.0f} s")
        for kind, of in sorted(data["kinds"].items())
    ]
    total = data["total"]
    rows.append(("all", total["entries"], size_text(total["bytes"]), f"{total['seconds']:.0f} s"))
    loose, aside = data["without_record"], data["quarantine"]
    lines = [data["store"], "", format_table(("kind", "entries", "size", "computing"), rows)]
    if loose["folders"]:
        lines += [
            "",
            f"{loose['folders']} folders of failed attempts, {size_text(loose['bytes'])}: "
            "mosweep cache gc removes them",
        ]
    if aside["folders"]:
        lines += [
            "",
            f"{aside['folders']} damaged entries set aside in {data['store']}/quarantine, "
            f"{size_text(aside['bytes'])}",
        ]
    return "\n".join(lines)


def verified(store: Store, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Hash every file of every entry, and of records that cannot even be read: what was wrong, by
    key. Damage is set aside.
    """
    damage: dict[str, str] = {}
    unreadable = set(store.keys()) - contents(store).keys()
    for key in [*entries, *sorted(unreadable)]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DamageWarning)
            record = store.read(key, thorough=True)
        if record is None:
            damage[key] = str(caught[-1].message) if caught else "gone"
    return damage


# -- taking out ------------------------------------------------------------------------------------


def remove(store: Store, entries: Mapping[str, Entry]) -> int:
    """Remove these entries, and return how many bytes that freed. What another process has claimed
    meanwhile is left.
    """
    freed = 0
    held = store.claims.held()
    for key, entry in entries.items():
        if key not in held:
            store.forget(key)
            freed += entry.size
    return freed


def garbage(store: Store, *, keep_s: float = KEEP_S) -> list[Path]:
    """Folders of artifacts that no record names: attempts that failed or were killed, unless young
    or being worked on.
    """
    named = {entry.folder for entry in contents(store).values()}
    held = {key[:16] for key in store.claims.held()}
    found = []
    for folder in (store.root / "artifacts").glob("?/*"):
        if str(folder.relative_to(store.root)) in named or folder.name.partition(".")[0] in held:
            continue
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime >= keep_s:
                found.append(folder)
    return sorted(found)


def collect_garbage(store: Store, folders: Iterable[Path]) -> int:
    """Remove these folders; the bytes that freed. Logs go, too."""
    freed = 0
    for folder in folders:
        freed += _size(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return freed


# -- carrying --------------------------------------------------------------------------------------


def export(store: Store, keys: Iterable[str], target: Path) -> int:
    """Write these entries, and all that went into them, to the archive ``target``; how many.
    ``MosweepError`` if one is damaged.
    """
    entries = contents(store)
    chosen = _reachable(keys, entries)
    if target.exists():
        raise UserError(f"{target} exists")
    if damage := verified(store, {key: entries[key] for key in chosen}):
        raise MosweepError(f"not exported, for it is damaged: {'; '.join(damage.values())}")
    with replacing(target) as temporary, tarfile.open(temporary, "w:gz") as archive:
        order = [key for key in entries if key in chosen]
        about = json.dumps({"format": FORMAT, "keys": order}).encode()
        info = tarfile.TarInfo("mosweep-cache.json")
        info.size = len(about)
        archive.addfile(info, io.BytesIO(about))
        for key in order:
            folder = store.root / entries[key].folder
            for file in sorted(
                path
                for path in folder.rglob("*")
                if path.is_file() and path.relative_to(folder) != Path(LOG)
            ):
                archive.add(file, f"{entries[key].folder}/{file.relative_to(folder)}")
            archive.add(store.record_path(key), f"records/{key[:1]}/{key}.json")
    return len(chosen)


def take_in(store: Store, source: Path) -> tuple[int, int]:
    """Take the entries of the archive ``source`` into the store: how many were new, and how many
    were there already.

    The archive is data: names that lead elsewhere are refused, and what is not as its record says
    is not taken in.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist")
    staging = store.root / f"import-{os.getpid()}-{time.time_ns()}"
    staging.mkdir(parents=True)
    try:
        _unpack(source, staging)
        arrived = Store(staging)
        entries = contents(arrived)
        if damage := verified(arrived, entries):
            raise MosweepError(f"{source}: nothing was taken in; {'; '.join(damage.values())}")
        for entry in entries.values():
            payload = arrived.unchecked(entry.key)["payload"]
            if fingerprint.fingerprint(payload) != entry.key:
                raise MosweepError(
                    f"{source}: nothing was taken in; the key of {entry.label} "
                    f"({entry.key[:12]}) does not follow from its payload"
                )
        new = sum(_move(arrived, store, entry) for entry in entries.values())
        return new, len(entries) - new
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack(source: Path, target: Path) -> None:
    allowed = re.compile(
        r"records/([0-9a-f])/\1[0-9a-f]{63}\.json|artifacts/([0-9a-f])/\2[0-9a-f]{15}\.\d+/.+"
    )
    try:
        with tarfile.open(source, "r:gz") as archive:
            first = archive.next()
            listed = (
                archive.extractfile(first)
                if first is not None and first.name == "mosweep-cache.json"
                else None
            )
            if listed is None or json.loads(listed.read()).get("format") != FORMAT:
                raise UserError(f"{source} is no archive of mosweep cache export")
            for member in archive:
                if member is first:
                    continue
                parts = PurePosixPath(member.name).parts
                if not member.isreg() or ".." in parts or not allowed.fullmatch(member.name):
                    raise MosweepError(
                        f"{source}: refused, {member.name!r} does not belong into a store"
                    )
                archive.extract(member, target, set_attrs=True, filter="data")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, MosweepError):
            raise
        raise UserError(f"{source} cannot be read: {error}") from None


def _move(arrived: Store, store: Store, entry: Entry) -> bool:
    """Move one entry into the store, its files first; whether it was new there."""
    if store.read(entry.key) is not None:
        return False
    attempt = store.begin(entry.key, folder=False)
    if isinstance(attempt, Owner):
        return False  # another process is making it
    data = arrived.unchecked(entry.key)
    about = {name: data[name] for name in data.keys() - _OWN}
    attempt.folder.parent.mkdir(parents=True, exist_ok=True)
    if (arrived.root / entry.folder).exists():
        (arrived.root / entry.folder).rename(attempt.folder)
    store.publish(attempt, payload=data["payload"], facts=data["facts"], **about)
    return True


#: What ``Store.publish`` says by itself.
_OWN = frozenset("key kind payload facts folder files has_files artifact_digest".split())


# -- words -----------------------------------------------------------------------------------------


def duration(text: str) -> float:
    """Seconds of ``90s``, ``15m``, ``12h``, ``7d`` or ``2w``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise UserError(f"{text!r} is no age; valid are 90s, 15m, 12h, 7d, 2w")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def size_text(size: float) -> str:
    """Bytes for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _age(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(f"{root}/{name}").st_size
    return total
