"""Claim, run, publish: the only way that a computation puts its result into the store."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mosweep.core.claims import Owner, this_process
from mosweep.core.errors import MosweepError
from mosweep.core.provenance import versions
from mosweep.core.reuse import found_by, publish_found
from mosweep.core.store import Attempt, Record, Store

__all__ = ["Ended", "attempt", "note_failure"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. One of these is set:

    - ``record``: the result exists. ``seconds`` is how long it took, or ``None`` if it existed
      already.
    - ``owner``: another live process is computing it.
    - ``error``: the computation failed. ``place`` is the attempt, for its log.
    """

    record: Record | None = None
    seconds: float | None = None
    owner: Owner | None = None
    error: BaseException | None = None
    place: Attempt | None = None


async def attempt(
    store: Store,
    key: str,
    run: Callable[[Attempt], Awaitable[Mapping[str, Any]]],
    payload: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    libraries: Iterable[str] = (),
    accept: Callable[[Record], bool] = lambda record: True,
    content: Callable[[], str | None] = lambda: None,
) -> Ended:
    """Compute the result of ``key``, unless it exists and ``accept`` takes it.

    ``run`` returns the facts. It creates the attempt's folder if it writes files. ``about`` goes
    into the record beside time, host and the versions of ``libraries``. ``content`` returns the
    stage's identity by content: a finished result with the same content is taken instead. Any
    exception but a cancellation is a failure.
    """
    if (record := store.read(key)) and accept(record):
        return Ended(record)
    place = store.begin(key, folder=False)
    if isinstance(place, Owner):
        return Ended(owner=place)
    started = time.time()
    try:
        if (record := store.read(key)) and accept(record):  # Published before our claim.
            store.abandon(place)
            return Ended(record)
        same = content()
        if same and (found := found_by(store, payload, same)):
            return Ended(publish_found(store, place, found, payload, same, about))
        facts = await run(place)
        record = store.publish(
            place,
            payload=payload,
            facts=facts,
            content=same,
            started=round(started, 3),
            finished=round(time.time(), 3),
            host=this_process().host,
            job=this_process().job,
            versions=versions(libraries),
            **about,
        )
    except (Exception, SystemExit) as error:
        store.abandon(place)
        return Ended(error=error, place=place)
    except BaseException:
        store.abandon(place)
        raise
    return Ended(record, time.time() - started)


def note_failure(place: Attempt, error: BaseException) -> None:
    """Add the error to the attempt's log: the message of a ``MosweepError``, or a traceback."""
    text = (
        str(error)
        if isinstance(error, MosweepError)
        else "".join(traceback.format_exception(error)).rstrip()
    )
    place.folder.mkdir(parents=True, exist_ok=True)
    with open(place.log, "a", encoding="utf-8") as log:
        log.write(f"{text}\n")
