"""Copying store entries to another machine: ``mosweep cache export`` and ``import``."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mosweep.archive.inventory import Entry, contents, reachable, verified
from mosweep.core import fingerprint
from mosweep.core.claims import Owner
from mosweep.core.errors import MosweepError, UserError
from mosweep.core.files import replacing
from mosweep.core.store import LOG, Store

__all__ = ["export", "import_archive"]

#: Version of the archive format.
FORMAT = 1

#: The fields of a record that ``Store.publish`` writes itself.
_OWN = frozenset("key kind payload facts folder files has_files artifact_digest".split())


def export(store: Store, keys: Iterable[str], target: Path) -> int:
    """Write these entries, and everything they were made from, to the archive ``target``.

    Returns their number. Raises ``MosweepError`` if one is damaged.
    """
    entries = contents(store)
    chosen = reachable(keys, entries)
    if target.exists():
        raise UserError(f"{target} already exists")
    if damage := verified(store, {key: entries[key] for key in chosen}):
        raise MosweepError(f"not exported, because of damage: {'; '.join(damage.values())}")
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


def import_archive(store: Store, source: Path) -> tuple[int, int]:
    """Add the entries of the archive ``source``, and return how many were new and how many known.

    The archive is not trusted: paths outside the store are refused. Nothing is imported if an entry
    differs from its record.
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
            raise MosweepError(f"{source}: nothing was imported; {'; '.join(damage.values())}")
        for entry in entries.values():
            payload = arrived.unchecked(entry.key)["payload"]
            if fingerprint.fingerprint(payload) != entry.key:
                raise MosweepError(
                    f"{source}: nothing was imported; the key of {entry.label} "
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
                raise UserError(f"{source} was not written by mosweep cache export")
            for member in archive:
                if member is first:
                    continue
                parts = PurePosixPath(member.name).parts
                if not member.isreg() or ".." in parts or not allowed.fullmatch(member.name):
                    raise MosweepError(
                        f"{source}: refused, because {member.name!r} does not belong in a store"
                    )
                archive.extract(member, target, set_attrs=True, filter="data")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, MosweepError):
            raise
        raise UserError(f"{source} cannot be read: {error}") from None


def _move(arrived: Store, store: Store, entry: Entry) -> bool:
    """Move one entry into the store, files first, and return whether it is new."""
    if store.read(entry.key) is not None:
        return False
    attempt = store.begin(entry.key, folder=False)
    if isinstance(attempt, Owner):
        return False  # Another process is producing it.
    data = arrived.unchecked(entry.key)
    about = {name: data[name] for name in data.keys() - _OWN}
    attempt.folder.parent.mkdir(parents=True, exist_ok=True)
    if (arrived.root / entry.folder).exists():
        (arrived.root / entry.folder).rename(attempt.folder)
    store.publish(attempt, payload=data["payload"], facts=data["facts"], **about)
    return True
