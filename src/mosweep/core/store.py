"""The store: a folder of records and files by key. Disk is the truth.

    records/a/abcd….json     one per finished stage; written last, whole, and never changed
    artifacts/a/abcd….n/     what attempt n left; visible only through the record that names it
    claims/                  who works on what right now
    quarantine/              what was found damaged, kept for inspection
    spent/a/abcd…            a provider's jobs behind records that were forgotten, to be made anew

A stage is done if and only if its record exists and it and its files are what was published.
Reading verifies: a record carries its own digest and, per file, size, modification time and
SHA-256. A file whose size and time are as published is trusted, unless it is small (``SMALL``),
which is always hashed; a file whose time moved is hashed. ``verify`` hashes everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.claims import Claim, Claims, Owner
from mosweep.core.errors import CorruptRecord, StoreError
from mosweep.core.files import write_synced
from mosweep.core.work import Artifact, Kind

__all__ = ["Attempt", "DamageWarning", "Record", "Store"]

#: Files up to this many bytes are hashed at every read.
SMALL = 1 << 16
#: What a stage prints; lies in the attempt's folder and is not part of the artifact.
LOG = "log.txt"


#: What a record holds only when read whole, and what is the same in many records.
_BULKY, _COMMON = ("payload", "versions", "files"), ("kind", "label", "host")


class DamageWarning(UserWarning):
    """Something in the store was damaged and has been set aside."""


@dataclass(frozen=True, slots=True)
class Record:
    """A published record: what a finished stage left and how it came about."""

    data: Mapping[str, Any]
    place: str

    @property
    def folder(self) -> Path:
        """The artifact's folder."""
        return Path(self.place)

    @property
    def key(self) -> str:
        """Key of the stage."""
        return str(self.data["key"])

    @property
    def facts(self) -> Mapping[str, Any]:
        """Metrics, model id and the like."""
        facts: Mapping[str, Any] = self.data["facts"]
        return facts

    @property
    def artifact(self) -> Artifact:
        """The artifact that this record vouches for."""
        return Artifact(
            self.key,
            Kind.of(self.data["kind"]),
            self.folder,
            self.facts,
            str(self.data["artifact_digest"]),
        )


@dataclass(frozen=True)
class Attempt:
    """One owner's try at a stage: its claim and the folder it may make and write to."""

    claim: Claim
    folder: Path

    @property
    def log(self) -> Path:
        """Where the attempt's output goes."""
        return self.folder / LOG


@dataclass(frozen=True)
class Store:
    """A store in ``root``, which is made when first written to."""

    root: Path

    @cached_property
    def claims(self) -> Claims:
        """Who works on what."""
        return Claims(self.root / "claims")

    def read(self, key: str, *, thorough: bool = False, whole: bool = False) -> Record | None:
        """The record of ``key`` if it is there and sound; damage is set aside with a
        ``DamageWarning``.

        ``thorough`` hashes every file, however large. Without ``whole`` the record comes without
        ``payload``, ``versions`` and ``files`` (only ``has_files``), which few ask for and which
        would fill the memory of a sweep of ten thousand trials.
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
        """Claim ``key`` and make a fresh folder for it (or, without ``folder``, only find its
        place); or its living owner.
        """
        claim = self.claims.acquire(key)
        if isinstance(claim, Owner):
            return claim
        # Short enough that a link to it from a trial's folder fits into its inode. Folders that
        # failed attempts left are passed over.
        shard, number = self.root / "artifacts" / key[:1], claim.token
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
        """The folder of the latest attempt before this one that left more than a log. Costs nothing
        where this is the first.
        """
        stem, _, number = attempt.folder.name.rpartition(".")
        places = (attempt.folder.with_name(f"{stem}.{n}") for n in range(int(number) - 1, 0, -1))
        return next(
            (place for place in places if place.exists() and set(os.listdir(place)) - {LOG}), None
        )

    def attempted(self, key: str) -> bool:
        """Whether anybody has ever begun to make ``key``, and left a folder."""
        return any((self.root / "artifacts" / key[:1]).glob(f"{key[:16]}.*"))

    def publish(
        self,
        attempt: Attempt,
        *,
        payload: Mapping[str, Any],
        facts: Mapping[str, Any],
        **about: Any,
    ) -> Record:
        """Make the attempt's files and ``facts`` the result of its stage, durably and at once.

        ``about`` (label, times, provenance) is kept with the record but is not part of the
        artifact. Raises ``ClaimLost`` when the stage was taken over; if another attempt's result is
        already there, that one stands and is returned.
        """
        key = attempt.claim.key
        files = [
            _describe(attempt.folder, name) for name in sorted(_walk(attempt.folder)) if name != LOG
        ]
        data: dict[str, Any] = {
            "key": key,
            "kind": payload["kind"],
            "payload": dict(payload),
            "facts": dict(facts),
            "folder": str(attempt.folder.relative_to(self.root)),
            "files": files,
            "has_files": bool(files),
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
            os.link(temporary, path)  # unlike rename, never replaces what someone else published
        except FileExistsError:
            record = self.read(key)
        finally:
            temporary.unlink(missing_ok=True)
        self.claims.release(attempt.claim)
        if record is None:
            raise StoreError(
                f"another attempt's record of stage {key[:12]} was found damaged while ours was "
                "published"
            )
        return record

    def abandon(self, attempt: Attempt) -> None:
        """End an attempt that failed. Its folder stays: it holds the log."""
        self.claims.release(attempt.claim)

    def forget(self, key: str, *, again: bool = False) -> None:
        """Remove the record of ``key``, and its artifact; a no-op where there is none.

        ``again``: it is to be made anew, so a provider's job that it stood for is not to be found
        again.
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
        path.unlink(missing_ok=True)
        import shutil

        shutil.rmtree(self.root / data["folder"], ignore_errors=True)

    def spent(self, key: str) -> frozenset[str]:
        """The provider's jobs behind records of ``key`` that were forgotten so as to be made anew:
        they are not taken again.
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
        """What the record of ``key`` says, whole, whether or not it and its files are sound.

        ``OSError`` or ``ValueError`` where it says nothing.
        """
        data: dict[str, Any] = json.loads(self.record_path(key).read_bytes().split(b"\n", 1)[0])
        return data

    def keys(self) -> Iterator[str]:
        """Keys of all records, unverified."""
        for shard in sorted((self.root / "records").glob("?")):
            for path in sorted(shard.glob("*.json")):
                yield path.stem

    def record_path(self, key: str) -> Path:
        """Where the record of `key` is, or would be."""
        return self.root / "records" / key[:1] / f"{key}.json"

    def _quarantine(self, key: str, path: Path, folder: Path | None, damage: str) -> None:
        place = self.root / "quarantine" / f"{key[:16]}-{time.time_ns()}"
        place.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            path.rename(place / path.name)
            if folder is not None:
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(place / "artifact")
        warnings.warn(
            f"damaged: {damage}; set aside in {place}, it will be made again",
            DamageWarning,
            stacklevel=3,
        )


def _slim(data: dict[str, Any], key: str) -> dict[str, Any]:
    """A record as thousands of them can be held: without what few ask for, with one copy of what is
    the same in all.
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
        raise CorruptRecord(f"the record of stage {key[:12]} is not what was written")
    data: dict[str, Any] = json.loads(body)
    if data["key"] != key:
        raise CorruptRecord(
            f"the record of stage {key[:12]} is another stage's ({data['key'][:12]})"
        )
    return data


def _check_file(folder: Path, file: Mapping[str, Any], thorough: bool) -> None:
    path = folder / file["name"]
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptRecord(f"{path} is missing") from None
    if status.st_size != file["size"]:
        raise CorruptRecord(
            f"{path} has {status.st_size} bytes where {file['size']} were published"
        )
    trusted = status.st_size > SMALL and status.st_mtime_ns == file["mtime_ns"] and not thorough
    if not trusted and fingerprint.digest_file(path) != file["sha256"]:
        raise CorruptRecord(f"{path} has other content than was published")


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
    except FileNotFoundError:  # nothing was left
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
        raise StoreError(f"these facts cannot be recorded: {error}") from error
    return facts
