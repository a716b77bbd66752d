"""The entries of the store: ``mosweep cache list``, ``show`` and ``verify``.

Records are not checked. Only ``verified`` reads their files.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosweep.core.errors import UserError, choices
from mosweep.core.store import DamageWarning, Store
from mosweep.core.work import Kind
from mosweep.sweep.folder import Sweep

__all__ = [
    "Entry",
    "Selection",
    "contents",
    "reachable",
    "selected",
    "shown",
    "stages_of",
    "verified",
]


@dataclass(frozen=True)
class Entry:
    """One record.

    ``finished`` is in seconds since 1970, ``seconds`` is its duration, ``size`` is in bytes.
    ``needs`` are the keys of the entries it was made from.
    """

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
    """Filters that select entries.

    - ``model``: part of the model's name. ``older_than``: age in seconds.
    - ``experiments``: the sweeps whose trials use the entries.
    - ``reachable_from``: an entry, and everything it was made from. Like each of ``keys`` it is a
      key, a prefix of one, or an atom's id.
    """

    kind: str | None = None
    model: str | None = None
    older_than: float | None = None
    experiments: Sequence[Sweep] = ()
    reachable_from: str | None = None
    keys: Sequence[str] = ()

    @property
    def everything(self) -> bool:
        """Whether no filter is set."""
        return self == Selection()


def contents(store: Store) -> dict[str, Entry]:
    """All readable records by key, oldest first. ``verified`` reports the others."""
    entries = []
    for key in store.keys():  # noqa: SIM118
        with contextlib.suppress(OSError, ValueError, KeyError):
            entries.append(_entry(store.unchecked(key)))
    entries.sort(key=lambda entry: (entry.finished, entry.key))
    return {entry.key: entry for entry in entries}


def _entry(data: Mapping[str, Any]) -> Entry:
    config, facts = data["payload"].get("config") or {}, data["facts"]
    model = facts.get("model_id") or config.get("model") or facts.get("name") or ""
    if not isinstance(model, str):
        model = ""
    finished, started = float(data.get("finished", 0)), float(data.get("started", 0))
    kind = Kind.of(data["kind"]).name
    return Entry(
        key=str(data["key"]),
        kind=kind,
        label=str(data.get("label", kind)),
        model=model,
        finished=finished,
        seconds=finished - started,
        size=sum(int(file["size"]) for file in data["files"]),
        folder=str(data["folder"]),
        needs=data["payload"]["inputs"],
    )


def selected(store: Store, selection: Selection) -> dict[str, Entry]:
    """The entries that match ``selection``."""
    entries = contents(store)
    chosen: set[str] | None = None
    for text in selection.keys:
        chosen = (chosen or set()) | {_key(text, entries)}
    if selection.reachable_from is not None:
        below = reachable([_key(selection.reachable_from, entries)], entries)
        chosen = below if chosen is None else chosen & below
    if selection.experiments:
        used = {key for sweep in selection.experiments for key in stages_of(sweep)}
        chosen = used if chosen is None else chosen & used
    if selection.kind is not None and selection.kind not in (
        kinds := {entry.kind for entry in entries.values()}
    ):
        raise UserError(
            f"--kind {selection.kind}: the store has no entries of that kind; "
            f"{choices(selection.kind, kinds)}"
        )
    return {
        key: entry
        for key, entry in entries.items()
        if (chosen is None or key in chosen)
        and selection.kind in (None, entry.kind)
        and (selection.model is None or selection.model in entry.model)
        and (selection.older_than is None or time.time() - entry.finished > selection.older_than)
    }


def _key(text: str, entries: Collection[str]) -> str:
    """The key that ``text`` identifies: a key, a prefix of one, or an atom's id."""
    digits = text.rpartition("-")[2]
    keys = [key for key in entries if key.startswith(digits)] if digits else []
    if len(keys) != 1:
        count = f"{len(keys)} entries" if keys else "no entry"
        raise UserError(f"{text}: {count} of that key in the store; mosweep cache list shows them")
    return keys[0]


def reachable(keys: Iterable[str], entries: Mapping[str, Entry]) -> set[str]:
    """These entries and everything they were made from."""
    visited: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in entries and key not in visited:
            visited.add(key)
            waiting += entries[key].needs.values()
    return visited


def shown(store: Store, text: str) -> dict[str, Any]:
    """The whole record of one entry, and the entries that were made from it."""
    entries = contents(store)
    key = _key(text, entries)
    data = store.unchecked(key)
    users = [entry for entry in entries.values() if key in entry.needs.values()]
    return {
        **data,
        "path": str(store.root / data["folder"]),
        "used_by": [{"key": e.key, "kind": e.kind, "label": e.label} for e in users],
    }


def verified(store: Store, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Hash every file of the entries, and try to read records that cannot be listed.

    Returns the damage by key. Damaged entries are moved to quarantine.
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


def stages_of(sweep: Sweep) -> set[str]:
    """The keys of all stages of a sweep."""
    return {key for launch in sweep.launches for key in launch.stages}
