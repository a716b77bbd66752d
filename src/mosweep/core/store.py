"""The store: a folder of records and files by key. Disk is the truth.

    records/a/abcd….json     one per finished stage; written last, atomically, and never changed
    artifacts/a/abcd….n/     the files of attempt n; visible only through the record that names them
    claims/                  the owners of the stages that are running
    quarantine/              damaged records and files, kept for inspection
    spent/a/abcd…            provider jobs of records that were deleted to be computed again
    contents/ab              finished stages by the content of their inputs, to find them again

A stage is done if and only if its record exists, and the record and its files are unchanged.
Reading verifies this: a record carries its own digest and, per file, size, modification time and
SHA-256. A file is trusted if its size and time are as published. Small files (``SMALL``) are always
hashed, and so are files whose time has changed. ``verify`` hashes everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.claims import Claim, Claims, Owner
from mosweep.core.contents import Contents
from mosweep.core.errors import CorruptRecord, StoreError
from mosweep.core.files import write_synced
from mosweep.core.work import Artifact, Kind

__all__ = ["Attempt", "DamageWarning", "Record", "Store"]

#: Files up to this many bytes are hashed at every read.
SMALL = 1 << 16

#: The file with a stage's output, in the attempt's folder. It is not part of the artifact.
LOG = "log.txt"

#: The parts of a record that are kept only if it is read whole.
_BULKY = ("payload", "versions", "files")

#: The parts of a record that many records have in common.
_COMMON = ("kind", "label", "host")


class DamageWarning(UserWarning):
    """Something in the store was damaged and has been moved to quarantine."""


@dataclass(frozen=True, slots=True)
class Record:
    """A published record: the result of a finished stage, and how it was made."""

    data: Mapping[str, Any]
    place: str

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return Path(self.place)

    @property
    def key(self) -> str:
        """The stage's key."""
        return str(self.data["key"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """The stage's facts, such as metrics or a model id."""
        facts: Mapping[str, Any] = self.data["facts"]
        return facts

    @property
    def artifact(self) -> Artifact:
        """The artifact that this record describes."""
        return Artifact(
            self.key,
            Kind.of(self.data["kind"]),
            self.folder,
            self.facts,
            str(self.data["artifact_digest"]),
        )


@dataclass(frozen=True)
class Attempt:
    """One owner's attempt at a stage: its claim, and the folder that it may create and fill."""

    claim: Claim
    folder: Path

    @property
    def log(self) -> Path:
        """The file with the attempt's output."""
        return self.folder / LOG


@dataclass(frozen=True)
class Store:
    """A store in the folder ``root``, which is created when first written to."""

    root: Path

    @cached_property
    def claims(self) -> Claims:
        """The claims on the stages that are running."""
        return Claims(self.root / "claims")

    @cached_property
    def contents(self) -> Contents:
        """The finished stages by content."""
        return Contents(self.root / "contents")

    def read(self, key: str, *, thorough: bool = False, whole: bool = False) -> Record | None:
        """The record of ``key``, or ``None`` if there is none or it is damaged.

        A damaged record goes to quarantine, with a ``DamageWarning``. ``thorough`` hashes every
        file, however large. Without ``whole`` the record has no ``payload``, ``versions`` and
        ``files`` (only ``has_files``): they are rarely needed, and would take too much memory in a
        sweep of ten thousand trials.
        """
        path = self.record_path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        folder: Path | None = None
        try:
            data = _parse(text, key)
            folder = self.root / data["folder"]
            for file in data["files"]:
                _check_file(folder, file, thorough)
        except CorruptRecord as damage:
            self._quarantine(key, path, folder, str(damage))
            return None
        return Record(data if whole else _slim(data, key), f"{self.root}/{data['folder']}")

    def begin(self, key: str, *, folder: bool = True) -> Attempt | Owner:
        """Claim ``key`` and create a new folder for it. Returns its live owner if it is claimed.

        Without ``folder`` the path is chosen, but the folder is not created.
        """
        claim = self.claims.acquire(key)
        if isinstance(claim, Owner):
            return claim
        # The name is short, so that a link to it from a trial's folder fits into an inode. The
        # folders of failed attempts are skipped.
        shard = self.root / "artifacts" / key[:1]
        number = claim.token
        while True:
            place = shard / f"{key[:16]}.{number}"
            try:
                if folder:
                    place.mkdir(parents=True)
                if folder or not place.exists():
                    return Attempt(claim, place)
            except FileExistsError:
                pass
            number += 1

    def previous(self, attempt: Attempt) -> Path | None:
        """The folder of the latest earlier attempt with more than a log, if there is one."""
        stem, _, number = attempt.folder.name.rpartition(".")
        places = (attempt.folder.with_name(f"{stem}.{n}") for n in range(int(number) - 1, 0, -1))
        return next(
            (place for place in places if place.exists() and set(os.listdir(place)) - {LOG}), None
        )

    def attempted(self, key: str) -> bool:
        """Whether any attempt at ``key`` has left a folder."""
        return any((self.root / "artifacts" / key[:1]).glob(f"{key[:16]}.*"))

    def publish(
        self,
        attempt: Attempt,
        *,
        payload: Mapping[str, Any],
        facts: Mapping[str, Any],
        content: str | None = None,
        files: Sequence[Mapping[str, Any]] | None = None,
        **about: Any,
    ) -> Record:
        """Publish the attempt's files and ``facts`` as its stage's result, durably and atomically.

        ``about`` (label, times, provenance) is kept in the record but is not part of the artifact.
        ``content`` is the stage's identity by content, if it has one. ``files`` describes the files
        if they are known. Raises ``ClaimLost`` if the stage was taken over. If another attempt has
        already published a result, that one stays and is returned.
        """
        key = attempt.claim.key
        if files is None:
            names = sorted(name for name in _walk(attempt.folder) if name != LOG)
            files = [_describe(attempt.folder, name) for name in names]
        data: dict[str, Any] = {
            "key": key,
            "kind": payload["kind"],
            "payload": dict(payload),
            "facts": dict(facts),
            "folder": str(attempt.folder.relative_to(self.root)),
            "files": list(files),
            "has_files": bool(files),
            **({"content": content} if content else {}),
            "artifact_digest": fingerprint.fingerprint(
                {"facts": _finite(facts), "files": {file["name"]: file["sha256"] for file in files}}
            ),
            **about,
        }
        try:
            body = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the facts of stage {key[:12]} cannot be recorded: {error}"
            ) from error
        sealed = f"{body}\n{fingerprint.digest_bytes(body.encode())}\n"
        path = self.record_path(key)
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{key}.{attempt.folder.name.rpartition('.')[2]}")
        write_synced(temporary, sealed)
        record: Record | None = Record(data, str(attempt.folder))
        try:
            attempt.claim.check()
            os.link(temporary, path)  # Unlike rename, it never replaces another attempt's record.
            if content:
                self.contents.add(payload, content, key)
        except FileExistsError:
            record = self.read(key)
        finally:
            temporary.unlink(missing_ok=True)
        self.claims.release(attempt.claim)
        if record is None:
            raise StoreError(
                f"stage {key[:12]} was published by another attempt, but that record is damaged"
            )
        return record

    def abandon(self, attempt: Attempt) -> None:
        """End a failed attempt. Its folder stays, because it has the log."""
        self.claims.release(attempt.claim)

    def forget(self, key: str, *, again: bool = False) -> None:
        """Remove the record of ``key`` and its artifact, if there is one.

        ``again``: it is to be computed again, so the provider's job behind it must not be reused.
        """
        path = self.record_path(key)
        try:
            data = _parse(path.read_bytes(), key)
        except FileNotFoundError:
            return
        except CorruptRecord:
            path.unlink(missing_ok=True)
            return
        if again and (remote := data["facts"].get("remote_job")):
            self._spend(key, str(remote))
        if again and (content := data.get("content")):
            self.contents.forget(content, data["payload"])
        path.unlink(missing_ok=True)
        import shutil

        shutil.rmtree(self.root / data["folder"], ignore_errors=True)

    def spent(self, key: str) -> frozenset[str]:
        """The provider's jobs for ``key`` whose records were deleted to be computed again.

        They must not be reused.
        """
        try:
            return frozenset(self._spent(key).read_text().split())
        except FileNotFoundError:
            return frozenset()

    def _spent(self, key: str) -> Path:
        return self.root / "spent" / key[:1] / key

    def _spend(self, key: str, job: str) -> None:
        path = self._spent(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(f"{job}\n")

    def unchecked(self, key: str) -> dict[str, Any]:
        """The whole record of ``key``, without checking it or its files.

        Raises ``OSError`` or ``ValueError`` if it cannot be read.
        """
        data: dict[str, Any] = json.loads(self.record_path(key).read_bytes().split(b"\n", 1)[0])
        return data

    def keys(self) -> Iterator[str]:
        """The keys of all records, unverified."""
        for shard in sorted((self.root / "records").glob("?")):
            for path in sorted(shard.glob("*.json")):
                yield path.stem

    def record_path(self, key: str) -> Path:
        """The path of the record of ``key``, whether or not it exists."""
        return self.root / "records" / key[:1] / f"{key}.json"

    def _quarantine(self, key: str, path: Path, folder: Path | None, damage: str) -> None:
        place = self.root / "quarantine" / f"{key[:16]}-{time.time_ns()}"
        place.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):  # Another process was faster.
            path.rename(place / path.name)
            if folder is not None:
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(place / "artifact")
        warnings.warn(
            f"damaged: {damage}; moved to {place}, and will be computed again",
            DamageWarning,
            stacklevel=3,
        )


def _slim(data: dict[str, Any], key: str) -> dict[str, Any]:
    """A record in a form that fits into memory thousands of times.

    It leaves out the bulky parts, and shares the text that many records have in common.
    """
    slim = {sys.intern(name): value for name, value in data.items() if name not in _BULKY}
    slim["key"] = key
    slim["facts"] = {sys.intern(name): value for name, value in data["facts"].items()}
    slim["has_files"] = bool(data["files"])
    for name in _COMMON:
        if isinstance(slim.get(name), str):
            slim[name] = sys.intern(slim[name])
    return slim


def _parse(text: bytes, key: str) -> dict[str, Any]:
    body, _, seal = text.rstrip(b"\n").rpartition(b"\n")
    if fingerprint.digest_bytes(body) != seal.decode(errors="replace"):
        raise CorruptRecord(f"the record of stage {key[:12]} was changed after it was written")
    data: dict[str, Any] = json.loads(body)
    if data["key"] != key:
        raise CorruptRecord(
            f"the record of stage {key[:12]} is that of another stage ({data['key'][:12]})"
        )
    return data


def _check_file(folder: Path, file: Mapping[str, Any], thorough: bool) -> None:
    path = folder / file["name"]
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptRecord(f"{path} is missing") from None
    if status.st_size != file["size"]:
        raise CorruptRecord(f"{path} has {status.st_size} bytes, but {file['size']} were published")
    trusted = status.st_size > SMALL and status.st_mtime_ns == file["mtime_ns"] and not thorough
    if not trusted and fingerprint.digest_file(path) != file["sha256"]:
        raise CorruptRecord(f"{path} was changed after it was published")


def _describe(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    with open(path, "rb") as file:
        digest = fingerprint.digest_stream(file)
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
    return {"name": name, "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:  # The attempt created no folder.
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _finite(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        fingerprint.fingerprint(facts)
    except TypeError as error:
        raise StoreError(f"the facts cannot be recorded: {error}") from error
    return facts
