"""Why the stages of a plan run: what has changed since the store had such a stage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mosweep.core.contents import code_in
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.sweep.plan import Plan

__all__ = ["changed_files", "reason", "reasons"]

NEW = "new"


def reasons(plan: Plan, store: Store) -> dict[str, str]:
    """Why each stage of ``plan.to_run`` runs, by key."""
    return {stage.key: reason(stage, plan, store) for stage in plan.to_run}


def reason(stage: Stage, plan: Plan, store: Store) -> str:
    """Why one stage runs.

    - ``new``: no such stage has finished
    - ``tasks/shout/data.py changed``
    - ``data will be made again``: if it turns out the same, this stage is done
    - ``data changed``
    """
    alike = store.contents.like(stage.payload)
    if not alike:
        return NEW
    waits = [need.label for need in stage.needs.values() if need.key not in plan.records]
    record = next((found for e in alike if (found := store.read(e.key, whole=True))), None)
    if record is None:
        return "its result is gone"
    before: Mapping[str, Any] = record.data["payload"]
    if code_in(before) != code_in(stage.payload):
        changed = changed_files(before, stage, store)
        return f"{', '.join(changed)} changed" if changed else "the task's code changed"
    if waits:
        return f"{' and '.join(dict.fromkeys(waits))} will be made again"
    other = [
        need.label for role, need in stage.needs.items() if before["inputs"].get(role) != need.key
    ]
    return f"{' and '.join(dict.fromkeys(other))} changed" if other else "asked for again"


def changed_files(before: Mapping[str, Any], stage: Stage, store: Store) -> list[str]:
    """The files of the user's code that differ from those of the payload ``before``."""
    sources = stage.work.sources()
    code = code_in(before)
    if not sources or not code:
        return []
    folder, files = sources
    old = store.contents.sources(code)
    if not old:
        return []
    where = os.path.relpath(folder)
    names = sorted(name for name in {*old, *files} if old.get(name) != files.get(name))
    return [
        name if name.endswith(" (module)") or name.startswith("./") else f"{where}/{name}"
        for name in names
    ]
