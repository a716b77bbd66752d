"""Lists the sweeps that run on a store, so that their records are not removed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mosweep.core.claims import Claim
from mosweep.core.fingerprint import digest_bytes
from mosweep.core.store import Store

__all__ = ["mark_running", "running_sweeps"]


@contextlib.contextmanager
def mark_running(store: Store, sweep: Path) -> Iterator[None]:
    """List ``sweep`` in ``running_sweeps`` until the context ends or this process dies."""
    name = f"sweep-{digest_bytes(os.fsencode(sweep))[:16]}-{os.getpid()}"
    note = store.root / "drivers" / name
    claim = store.claims.acquire(name)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(sweep))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        if isinstance(claim, Claim):
            store.claims.release(claim)


def running_sweeps(store: Store) -> list[Path]:
    """The folders of the sweeps that live processes run on ``store``.

    Removes the notes of dead processes.
    """
    folders = []
    for note in sorted((store.root / "drivers").glob("sweep-*")):
        if store.claims.owner(note.name) is None:
            note.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):  # The sweep has just ended.
            folders.append(Path(note.read_text()))
    return list(dict.fromkeys(folders))
