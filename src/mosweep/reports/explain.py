"""``explain``: why each stage of a trial is cached, or what differs from the nearest result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mosweep.core.contents import code_in
from mosweep.core.errors import UserError, choices
from mosweep.core.fingerprint import differences
from mosweep.core.store import Store
from mosweep.core.work import Kind
from mosweep.sweep.folder import Sweep

__all__ = ["explain_data", "explain_text"]


def explain_data(sweep: Sweep, trial: str) -> dict[str, Any]:
    """Why each stage of ``trial`` is cached or not, as JSON-able data."""
    for launch in reversed(sweep.launches):
        launched = next((t for t in launch.trials if t["name"] == trial), None)
        if launched is not None:
            store = launch.store
            nearest = _Nearest(store)
            specs = launch.specs()
            return {
                "trial": trial,
                "stages": [_stage(specs[key], store, nearest) for key in launched["stages"]],
            }
    names = {t["name"] for launch in sweep.launches for t in launch.trials}
    raise UserError(f"{trial}: {sweep.folder.name} has no such trial; {choices(trial, names)}")


def _stage(spec: Mapping[str, Any], store: Store, nearest: _Nearest) -> dict[str, Any]:
    record = store.read(str(spec["key"]))
    data = {
        "label": spec["label"],
        "kind": Kind.of(spec["kind"]).name,
        "key": spec["key"],
        "cached": record is not None,
    }
    if record is not None:
        about = record.data
        return data | {
            "finished": about.get("finished"),
            "host": about.get("host"),
            "folder": str(record.folder),
            "found": about.get("found"),
            "code": dict(_sources(spec, store)),
        }
    key, moved = nearest.to(spec["payload"])
    return data | {
        "nearest": key,
        "differences": [{"field": f, "there": old, "here": new} for f, old, new in moved],
    }


def _sources(spec: Mapping[str, Any], store: Store) -> Mapping[str, str]:
    """The files of the user's code that the stage runs, each with its digest."""
    code = code_in(spec["payload"])
    return store.contents.sources(code) if code else {}


class _Nearest:
    """The stored payload with the fewest differing fields."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.payloads: dict[str, Mapping[str, Any]] | None = None

    def to(self, payload: Mapping[str, Any]) -> tuple[str | None, list[tuple[str, Any, Any]]]:
        if self.payloads is None:
            records = ((key, self.store.read(key, whole=True)) for key in self.store.keys())  # noqa: SIM118 - a method, not a mapping's
            self.payloads = {key: record.data["payload"] for key, record in records if record}
        same_kind = {
            key: there for key, there in self.payloads.items() if there["kind"] == payload["kind"]
        }
        ranked = sorted(
            (len(moved), key, moved)
            for key, there in same_kind.items()
            if (moved := differences(there, payload))
        )
        return (ranked[0][1], ranked[0][2]) if ranked else (None, [])


def explain_text(data: Mapping[str, Any]) -> str:
    """The same as text."""
    lines = [str(data["trial"])]
    for stage in data["stages"]:
        head = f"  {stage['label']:<24} {stage['key'][:12]}  "
        if stage["cached"]:
            when = (
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stage["finished"]))
                if stage["finished"]
                else "at an unknown time"
            )
            lines.append(f"{head}cached: made {when} on {stage['host']}\n{'':<27}{stage['folder']}")
            if stage["found"]:
                lines.append(
                    f"{'':<27}the result of stage {stage['found'][:12]}, whose inputs contain the "
                    "same"
                )
            if stage["code"]:
                lines.append(
                    f"{'':<27}depends on {', '.join(stage['code'])}; not on the network, on "
                    "installed packages and on files whose names are computed"
                )
        elif stage["nearest"] is None:
            lines.append(f"{head}not cached: the store has no {stage['kind']} stage yet")
        else:
            lines.append(f"{head}not cached: nearest is {stage['nearest'][:12]}, which differs in")
            lines += [
                f"{'':<27}{d['field']}: {_short(d['there'])} there, {_short(d['here'])} here"
                for d in stage["differences"]
            ]
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
