"""Finding finished work by content, so that no stage runs again for a reason without an effect."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mosweep.core.claims import Owner
from mosweep.core.contents import content_of
from mosweep.core.store import Attempt, Record, Store
from mosweep.core.task_code import code_digest
from mosweep.core.types import Stage
from mosweep.core.work import Artifact, Work

__all__ = [
    "adopt",
    "content_key",
    "find",
    "found_by",
    "keep_sources",
    "publish_found",
    "read_inputs",
]

#: The parts of a record that say how its result was computed.
_MADE = ("started", "finished", "host", "job", "versions", "resources", "tries")


def read_inputs(store: Store, needs: Mapping[str, str]) -> dict[str, Artifact | None]:
    """The inputs of a stage, by role. ``None`` for one that is not in the store."""
    records = {role: store.read(key) for role, key in needs.items()}
    return {role: record.artifact if record else None for role, record in records.items()}


def content_key(
    work: Work, payload: Mapping[str, Any], inputs: Mapping[str, Artifact | None]
) -> str | None:
    """The identity by content of a stage. ``None`` if one of its inputs is missing.

    Without inputs it is the stage's key.
    """
    reads = {role: work.reads(role, at) for role, at in inputs.items() if at is not None}
    return content_of(payload, reads) if len(reads) == len(inputs) else None


def found_by(store: Store, payload: Mapping[str, Any], content: str) -> Record | None:
    """The latest finished result with this content, read whole."""
    found = (store.read(key, whole=True) for key in store.contents.find(payload, content))
    return next((record for record in found if record), None)


def publish_found(
    store: Store,
    attempt: Attempt,
    found: Record,
    payload: Mapping[str, Any],
    content: str,
    about: Mapping[str, Any],
) -> Record:
    """Publish ``found`` as the result of the attempt's stage, too.

    The files are linked, not copied. Times, host and versions stay those of the computation.
    """
    files: Sequence[Mapping[str, Any]] = found.data["files"]
    for file in files:
        source, place = found.folder / file["name"], attempt.folder / file["name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, place)
        except OSError:  # A file system without hard links.
            shutil.copy2(source, place)
    made = {name: found.data[name] for name in _MADE if name in found.data}
    return store.publish(
        attempt,
        payload=payload,
        facts=found.facts,
        content=content,
        files=files,
        **{**made, **about, "found": found.data.get("found", found.key)},
    )


def find(store: Store, stage: Stage, records: Mapping[str, Record]) -> Record | None:
    """The finished result with the content of ``stage``. ``records`` has those of its inputs."""
    if store.contents.empty or not stage.needs:
        return None
    payload = stage.payload
    inputs = {role: records[need.key].artifact for role, need in stage.needs.items()}
    content = content_key(stage.work, payload, inputs)
    return found_by(store, payload, content) if content else None


def adopt(store: Store, stages: Iterable[Stage]) -> None:
    """Publish the results that are found by content as those of ``stages``.

    A stage comes after the stages it needs. A stage that another process has claimed is left to it.
    """
    for stage in stages:
        payload = stage.payload
        inputs = read_inputs(store, payload["inputs"])
        content = content_key(stage.work, payload, inputs)
        found = found_by(store, payload, content) if content else None
        place = store.begin(stage.key, folder=False) if found else None
        if content and found and place and not isinstance(place, Owner):
            about = {"label": stage.label, "kind": stage.kind.code}
            publish_found(store, place, found, payload, content, about)


def keep_sources(stages: Iterable[Stage], store: Store) -> None:
    """Keep the names of the files behind the digests of code in ``stages``."""
    seen: set[int] = set()
    for stage in stages:
        sources = stage.work.sources()
        if sources and id(sources[1]) not in seen:
            seen.add(id(sources[1]))
            store.contents.keep_sources(code_digest(sources[1]), sources[1])
