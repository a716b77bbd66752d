"""Removing entries from the store: ``mosweep cache clear`` and ``gc``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mosweep.archive.inventory import Entry, contents, reachable, stages_of
from mosweep.core.drivers import running_sweeps
from mosweep.core.store import Store
from mosweep.launchers.lookup import launchers_with_jobs
from mosweep.sweep.folder import Sweep

__all__ = ["collect_garbage", "garbage", "in_use", "remove", "size_of"]

#: Seconds that a failed attempt is kept, because a new launch may resume it.
KEEP_S = 3600.0


def in_use(store: Store) -> set[str]:
    """The keys that running sweeps need, and those that are running or queued."""
    busy = {key for key in store.claims.held() if re.fullmatch(r"[0-9a-f]{64}", key)}
    for folder in running_sweeps(store):
        busy |= stages_of(Sweep(folder))
    for launcher in launchers_with_jobs(store):
        busy |= launcher.in_use(store)
    return busy | reachable(busy, contents(store))


def remove(store: Store, entries: Mapping[str, Entry]) -> int:
    """Remove entries that no process has claimed, and return the bytes freed."""
    freed = 0
    held = store.claims.held()
    for key, entry in entries.items():
        if key not in held:
            store.forget(key)
            freed += entry.size
    return freed


def garbage(store: Store, *, keep_s: float = KEEP_S) -> list[Path]:
    """Folders of attempts that failed or were killed.

    Folders that are younger than ``keep_s`` or still in use are not listed.
    """
    named = {entry.folder for entry in contents(store).values()}
    held = {key[:16] for key in store.claims.held()}
    folders = []
    for folder in (store.root / "artifacts").glob("?/*"):
        if str(folder.relative_to(store.root)) in named or folder.name.partition(".")[0] in held:
            continue
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime >= keep_s:
                folders.append(folder)
    return sorted(folders)


def collect_garbage(store: Store, folders: Iterable[Path]) -> int:
    """Remove these folders, with their logs, and return the bytes freed."""
    freed = 0
    for folder in folders:
        freed += size_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(f"{root}/{name}").st_size
    return total
