"""Publishes the files of an atom in the store."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.claims import this_process
from mosweep.core.errors import StoreError
from mosweep.core.paths import home
from mosweep.core.provenance import versions
from mosweep.core.store import Attempt, Record, Store

__all__ = ["DATA", "POLL_S", "default_store", "publish"]

#: Seconds between checks for the result of another process that does the same work.
POLL_S = 0.05
#: The subfolder with an atom's data.
DATA = "data"


def default_store() -> Store:
    """The store in mosweep's home, which sweeps use, too."""
    return Store(home() / "store")


def publish(
    store: Store,
    payload: Mapping[str, Any],
    facts: Mapping[str, Any],
    place: Path,
    *,
    move: bool = False,
    label: str = "",
) -> Record:
    """The record for ``payload``. If it does not exist, it is created with a copy of ``place``.

    With ``move``, ``place`` is moved instead of copied.
    """
    key = fingerprint.fingerprint(payload)
    while True:
        if (record := store.read(key, whole=True)) is not None:
            return record
        attempt = store.begin(key)
        if isinstance(attempt, Attempt):
            break
        time.sleep(POLL_S)  # Another process is creating it.
    try:
        _take(place, attempt.folder / DATA, move)
        now = round(time.time(), 3)
        about: dict[str, Any] = {
            "label": label or str(payload["kind"]),
            "started": now,
            "finished": now,
            "host": this_process().host,
        }
        store.publish(attempt, payload=payload, facts=facts, versions=versions(), **about)
    except BaseException:
        store.abandon(attempt)
        shutil.rmtree(attempt.folder, ignore_errors=True)
        raise
    record = store.read(key, whole=True)
    if record is None:
        raise StoreError(f"{payload['kind']} {key[:12]} was damaged right after it was written")
    return record


def _take(place: Path, target: Path, move: bool) -> None:
    if place.is_dir():
        if move:
            place.rename(target)
        else:
            shutil.copytree(place, target, symlinks=False)
        return
    target.mkdir()
    if move:
        place.rename(target / place.name)
    else:
        shutil.copyfile(place, target / place.name)
