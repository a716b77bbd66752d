"""The process that runs stages: ``python -m mosweep.launchers.worker STORE EVENTS [remote]``.

It reads stages from standard input (``Stage.spec`` as JSON, one per line) and writes events to the
file descriptor EVENTS, one per line. User code gets an empty standard input, and its output goes to
the stages' logs, so it can read no stages and write no events. It runs one stage at a time,
and later stages reuse its imports. With ``remote``, it runs all its stages at the same time in one
event loop, for stages that wait for a provider. If its standard input ends while a stage runs, the
launcher is dead, and the worker kills its process group.

    → {"key": …, "target": "mosweep.backends.dummy.backend.DummyFinetune", "fields": {…}, …}
    ← {"event": "started", "key": …, "log": path}
    ← {"event": "finished", "key": …, "seconds": s}
    ← {"event": "failed", "key": …, "error": text, "log": path}
    ← {"event": "busy", "key": …}       another process has claimed the stage
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from mosweep.core import schema
from mosweep.core.attempt import attempt, note_failure
from mosweep.core.causes import reason_of
from mosweep.core.errors import StageError
from mosweep.core.imports import working_directory_last
from mosweep.core.reuse import content_key, read_inputs
from mosweep.core.store import Attempt, DamageWarning, Store
from mosweep.core.terminal import write_utf8
from mosweep.core.types import check_own_code, load_work
from mosweep.core.work import Artifact, Context, Resources, Work
from mosweep.launchers.output import PerTask, process_output_to, task_output_to

__all__ = ["run_immediate", "main", "perform", "perform_now"]

Event = dict[str, Any]
Output = Callable[[Path], contextlib.AbstractContextManager[None]]
Bounded = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]


async def perform(
    store: Store,
    spec: Mapping[str, Any],
    emit: Callable[[Event], None],
    output: Output | None = None,
    bounded: Bounded | None = None,
    work: Work | None = None,
) -> Event:
    """Run one stage and return its final event.

    ``emit`` is called when it starts. ``output`` redirects its output to its log. By default this
    is all output of the process. ``bounded`` wraps its coroutine, for a time limit. ``work`` is the
    stage's work, if it is already loaded.
    """
    key = spec["key"]

    @functools.cache
    def loaded_work() -> Work:
        return work or load_work(spec)

    @functools.cache
    def inputs() -> dict[str, Artifact | None]:
        return read_inputs(store, spec["needs"])

    def content() -> str | None:
        if not spec["needs"]:
            return str(key)
        return content_key(loaded_work(), spec["payload"], inputs())

    async def run(place: Attempt) -> Mapping[str, Any]:
        emit({"event": "started", "key": key, "log": str(place.log)})
        loaded = loaded_work()
        check_own_code(loaded, spec["payload"])
        if loaded.traits.silent:
            return await _run(store, place, spec, loaded, inputs(), bounded)
        place.folder.mkdir(parents=True)
        with (output or process_output_to)(place.log):
            return await _run(store, place, spec, loaded, inputs(), bounded)

    about = {name: spec[name] for name in ("label", "kind")}
    # The record shows the stage's resources and its earlier jobs.
    about |= {name: spec[name] for name in ("resources", "tries") if spec.get(name)}
    ended = await attempt(
        store,
        key,
        run,
        spec["payload"],
        about,
        libraries=spec.get("libraries", ()),
        content=content,
    )
    if ended.owner is not None:
        return {"event": "busy", "key": key, "owner": str(ended.owner)}
    if ended.error is None:
        elsewhere = {"elsewhere": True} if ended.seconds is None else {}
        return {"event": "finished", "key": key, "seconds": ended.seconds or 0.0, **elsewhere}
    assert ended.place is not None
    note_failure(ended.place, ended.error)
    log = str(ended.place.log)
    return {"event": "failed", "key": key, "error": reason_of(ended.error), "log": log}


def perform_now(
    store: Store,
    spec: Mapping[str, Any],
    emit: Callable[[Event], None],
    run: Callable[..., Event] | None = None,
) -> Event:
    """``perform`` outside of an event loop. ``run`` runs the coroutine (default: in a new loop)."""
    try:
        work = load_work(spec)
    except Exception:  # ``perform`` gets the same error and reports it.
        work = None
    performing = perform(store, spec, emit, work=work)
    return (
        run_immediate(performing)
        if work is None or work.traits.immediate
        else (run or _loop())(performing)
    )


async def _run(
    store: Store,
    place: Attempt,
    spec: Mapping[str, Any],
    work: Work,
    inputs: Mapping[str, Artifact | None],
    bounded: Bounded | None,
) -> Mapping[str, Any]:
    """Run the work on its inputs, and return its facts."""
    present = {role: artifact for role, artifact in inputs.items() if artifact is not None}
    for role in inputs.keys() - present.keys():
        raise StageError(
            f"its input {role} ({spec['needs'][role][:12]}) is no longer in the store; run the "
            "sweep again"
        )
    resources = schema.build(Resources, spec.get("resources", {}), "resources")
    previous = None if work.traits.silent else store.previous(place)
    spent = store.spent(spec["key"]) if work.traits.remote else frozenset[str]()
    running = work.run(Context(spec["key"], place.folder, present, resources, previous, spent))
    return await (bounded(running) if bounded else running)


def run_immediate(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing, without the cost of loading an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a work with the trait `immediate` must not await anything")


def _loop() -> Callable[..., Any]:
    import asyncio

    return asyncio.run


def main() -> None:
    """Run stages until standard input ends."""
    import warnings

    working_directory_last()
    write_utf8()
    root, channel, *mode = sys.argv[1:]
    store = Store(Path(root))
    os.set_inheritable(int(channel), False)
    events = os.fdopen(int(channel), "w", buffering=1, encoding="utf-8")
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The launcher handles Ctrl-C.
    warnings.simplefilter("always", DamageWarning)
    (_serve_together if mode == ["remote"] else _serve_in_turn)(
        store, orders, lambda event: print(json.dumps(event), file=events)
    )


def _serve_in_turn(store: Store, lines: Iterable[str], emit: Callable[[Event], None]) -> None:
    """Run one stage at a time. This handles thousands of quick stages per second."""
    import asyncio
    import queue
    import threading

    orders: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    busy, ended = threading.Event(), threading.Event()

    def listen() -> None:
        for line in lines:
            orders.put(json.loads(line))
        ended.set()
        if busy.is_set():
            os.killpg(0, signal.SIGKILL)
        orders.put(None)

    threading.Thread(target=listen, daemon=True).start()
    loop = asyncio.new_event_loop()
    while (order := orders.get()) is not None and not ended.is_set():
        busy.set()
        emit(perform_now(store, order, emit, loop.run_until_complete))
        busy.clear()
    loop.close()


def _serve_together(store: Store, lines: Iterable[str], emit: Callable[[Event], None]) -> None:
    """Run all stages at the same time in one event loop, each with its own log."""
    import asyncio
    import threading

    sys.stdout = sys.stderr = PerTask(sys.stderr)
    loop = asyncio.new_event_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(order: Mapping[str, Any]) -> None:
        async def bounded(running: Coroutine[Any, Any, Any]) -> Any:
            minutes = order["resources"].get("time_min")
            try:
                async with asyncio.timeout(minutes and minutes * 60) as limit:
                    return await running
            except TimeoutError:
                if limit.expired():
                    raise StageError(f"over its time limit of {minutes:g} min") from None
                raise
            except asyncio.CancelledError:  # The worker cancels no stages.
                raise StageError("the stage cancelled itself") from None

        emit(await perform(store, order, emit, task_output_to, bounded))

    def take(order: Mapping[str, Any] | None) -> None:
        if order is None:
            if tasks:
                os.killpg(0, signal.SIGKILL)
            loop.stop()
            return
        task = loop.create_task(serve(order))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def listen() -> None:
        for line in lines:
            loop.call_soon_threadsafe(take, json.loads(line))
        loop.call_soon_threadsafe(take, None)

    threading.Thread(target=listen, daemon=True).start()
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


if __name__ == "__main__":
    main()
