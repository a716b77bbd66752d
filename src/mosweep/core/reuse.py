"""Finding finished work by content, so that no stage runs again for a reason without an effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mosweep.core.claims import Owner
from mosweep.core.contents import code_in, content_of
from mosweep.core.store import Record, Store
from mosweep.core.task_code import code_digest
from mosweep.core.types import Stage
from mosweep.core.work import Artifact, Work

__all__ = ["adopt", "content_key", "find", "keep_sources"]


def content_key(store: Store, work: Work, payload: Mapping[str, Any]) -> str | None:
    """The identity by content of a stage with these inputs. ``None`` if one of them is missing."""
    inputs: dict[str, Artifact] = {}
    if not payload["inputs"]:
        return content_of(payload, {})
    for role, key in payload["inputs"].items():
        record = store.read(key)
        if record is None:
            return None
        inputs[role] = record.artifact
    return _content(work, payload, inputs)


def find(store: Store, stage: Stage, records: Mapping[str, Record]) -> Record | None:
    """The finished result with the content of ``stage``. ``records`` has those of its inputs."""
    if store.contents.empty or not stage.needs:
        return None
    inputs = {role: records[need.key].artifact for role, need in stage.needs.items()}
    return store.find(stage.payload, _content(stage.work, stage.payload, inputs))


def adopt(store: Store, stages: Iterable[Stage]) -> None:
    """Publish the results that are found by content as those of ``stages``.

    A stage comes after the stages it needs. A stage that another process has claimed is left to it.
    """
    for stage in stages:
        content = content_key(store, stage.work, stage.payload)
        found = store.find(stage.payload, content) if content else None
        place = store.begin(stage.key, folder=False) if found else None
        if content and found and place and not isinstance(place, Owner):
            about = {"label": stage.label, "kind": stage.kind.code}
            store.adopt(place, found, stage.payload, content, **about)


def keep_sources(stages: Iterable[Stage], store: Store) -> None:
    """Keep the names of the files behind the digests of code in ``stages``."""
    seen: set[str] = set()
    for stage in stages:
        code = code_in(stage.payload)
        if code and code not in seen and (sources := stage.work.sources()):
            seen.add(code)
            store.contents.keep_sources(code_digest(sources[1]), sources[1])


def _content(work: Work, payload: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> str:
    return content_of(payload, {role: work.reads(role, at) for role, at in inputs.items()})
