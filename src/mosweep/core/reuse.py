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

__all__ = ["adopt", "content_key", "find", "found_by", "keep_sources", "publish_found"]

#: The parts of a record that say how its result was computed.
_MADE = ("started", "finished", "host", "job", "versions", "resources", "tries")


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
    inputs = {role: records[need.key].artifact for role, need in stage.needs.items()}
    return found_by(store, stage.payload, _content(stage.work, stage.payload, inputs))


def adopt(store: Store, stages: Iterable[Stage]) -> None:
    """Publish the results that are found by content as those of ``stages``.

    A stage comes after the stages it needs. A stage that another process has claimed is left to it.
    """
    for stage in stages:
        content = content_key(store, stage.work, stage.payload)
        found = found_by(store, stage.payload, content) if content else None
        place = store.begin(stage.key, folder=False) if found else None
        if content and found and place and not isinstance(place, Owner):
            about = {"label": stage.label, "kind": stage.kind.code}
            publish_found(store, place, found, stage.payload, content, about)


def keep_sources(stages: Iterable[Stage], store: Store) -> None:
    """Keep the names of the files behind the digests of code in ``stages``."""
    seen: set[int] = set()
    for stage in stages:
        sources = stage.work.sources()
        if sources and id(sources[1]) not in seen:
            seen.add(id(sources[1]))
            store.contents.keep_sources(code_digest(sources[1]), sources[1])


def _content(work: Work, payload: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> str:
    return content_of(payload, {role: work.reads(role, at) for role, at in inputs.items()})
