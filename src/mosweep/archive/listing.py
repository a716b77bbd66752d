"""The contents of the store as tables: ``mosweep cache list`` and ``stats``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mosweep.archive.inventory import Entry
from mosweep.archive.removal import garbage, size_of
from mosweep.core.store import Store
from mosweep.core.table import format_table

__all__ = ["listing", "size_text", "statistics", "statistics_text"]


def listing(entries: Mapping[str, Entry]) -> str:
    """A table with a line per entry, newest last."""
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


def statistics(store: Store, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Entries, bytes and computing time by kind and in total, and folders without a record."""
    kinds: dict[str, dict[str, Any]] = {}
    for entry in entries.values():
        kind = kinds.setdefault(entry.kind, {"entries": 0, "bytes": 0, "seconds": 0.0})
        kind["entries"] += 1
        kind["bytes"] += entry.size
        kind["seconds"] += entry.seconds
    total = {
        name: sum(kind[name] for kind in kinds.values()) for name in ("entries", "bytes", "seconds")
    }
    failed, quarantine = garbage(store, keep_s=0.0), store.root / "quarantine"
    return {
        "store": str(store.root),
        "kinds": kinds,
        "total": total,
        "without_record": {"folders": len(failed), "bytes": sum(map(size_of, failed))},
        "quarantine": {"folders": len(list(quarantine.glob("*"))), "bytes": size_of(quarantine)},
    }


def statistics_text(data: Mapping[str, Any]) -> str:
    """``statistics`` as a table."""
    rows = [
        (kind, of["entries"], size_text(of["bytes"]), f"{of['seconds']:.0f} s")
        for kind, of in sorted(data["kinds"].items())
    ]
    total = data["total"]
    rows.append(("all", total["entries"], size_text(total["bytes"]), f"{total['seconds']:.0f} s"))
    failed, damaged = data["without_record"], data["quarantine"]
    lines = [data["store"], "", format_table(("kind", "entries", "size", "computing"), rows)]
    if failed["folders"]:
        lines += [
            "",
            f"{failed['folders']} folders of failed attempts, {size_text(failed['bytes'])}: "
            "mosweep cache gc removes them",
        ]
    if damaged["folders"]:
        lines += [
            "",
            f"{damaged['folders']} damaged entries in {data['store']}/quarantine, "
            f"{size_text(damaged['bytes'])}",
        ]
    return "\n".join(lines)


def size_text(size: float) -> str:
    """A size as readable text: ``12.3 MB``."""
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
