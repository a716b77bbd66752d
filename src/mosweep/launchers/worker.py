"""The process in which stages run: ``python -m mosweep.launchers.worker STORE``, or ``… STORE
remote``.

Reads one stage a line from standard input (``Stage.spec`` as JSON) and writes one event a line to
what was its standard output; what the stages themselves print goes to their logs. It runs one stage
at a time and keeps what it imported, so that the next stage of a kind starts at once; as
``remote``, it runs all that it is given at the same time in one event loop, for stages that wait
for somebody else's computer. When its standard input ends while a stage runs, whoever gave the
order is dead: the worker ends itself and the whole process group, so that nothing runs on unseen.

    → {"key": …, "target": "mosweep.backends.dummy.backend.DummyFinetune", "fields": {…}, …}
    ← {"event": "started", "key": …, "log": path}
    ← {"event": "finished", "key": …, "seconds": s}
    ← {"event": "failed", "key": …, "error": text, "log": path}
    ← {"event": "busy", "key": …}            another living process has claimed the stage
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mosweep.core import schema
from mosweep.core.claims import Owner, this_process
from mosweep.core.errors import MosweepError, StageError
from mosweep.core.provenance import versions
from mosweep.core.store import Attempt, DamageWarning, Store
from mosweep.core.types import load_work
from mosweep.core.work import Context, Resources, Work

__all__ = ["at_once", "main", "perform", "perform_now"]

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
    """Bring one stage to its end and return the closing event.

    ``emit`` is told when it starts; ``output`` sends what it prints to its log, by default all that
    the process prints; ``bounded`` may end its coroutine early; ``work`` is the stage's, if it has
    been loaded.
    """
    key = spec["key"]
    if store.read(key):
        return {"event": "finished", "key": key, "seconds": 0.0, "elsewhere": True}
    attempt = store.begin(key, folder=False)
    if isinstance(attempt, Owner):
        return {"event": "busy", "key": key, "owner": str(attempt)}
    if store.read(key):  # published between our look and our claim
        store.abandon(attempt)
        return {"event": "finished", "key": key, "seconds": 0.0, "elsewhere": True}
    emit({"event": "started", "key": key, "log": str(attempt.log)})
    begun = time.time()
    try:
        work = work or load_work(spec)
        if work.traits.silent:
            error = await _attempt(store, attempt, spec, work, begun, bounded)
        else:
            attempt.folder.mkdir(parents=True)
            with (output or _output_to)(attempt.log):
                error = await _attempt(store, attempt, spec, work, begun, bounded)
    # not the stage's own: its code cannot be loaded, its folder cannot be made
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    if error is None:
        return {"event": "finished", "key": key, "seconds": time.time() - begun}
    store.abandon(attempt)
    if not attempt.log.exists():
        attempt.folder.mkdir(parents=True, exist_ok=True)
        attempt.log.write_text(error + "\n")
    return {"event": "failed", "key": key, "error": error, "log": str(attempt.log)}


def perform_now(
    store: Store,
    spec: Mapping[str, Any],
    emit: Callable[[Event], None],
    run: Callable[..., Event] | None = None,
) -> Event:
    """``perform`` for who has no event loop: ``run`` runs the coroutine, by default in a loop of
    its own.
    """
    try:
        work = load_work(spec)
    except Exception:  # ``perform`` meets it again, and tells
        work = None
    performing = perform(store, spec, emit, work=work)
    return (
        at_once(performing)
        if work is None or work.traits.immediate
        else (run or _loop())(performing)
    )


async def _attempt(
    store: Store,
    attempt: Attempt,
    spec: Mapping[str, Any],
    work: Work,
    begun: float,
    bounded: Bounded | None,
) -> str | None:
    """Run and publish; ``None``, or what went wrong in one line, with the traceback on standard
    error.
    """
    try:
        inputs = {}
        for role, need in spec["needs"].items():
            record = store.read(need)
            if record is None:
                raise StageError(
                    f"its input {role} ({need[:12]}) is not in the store any more; run the sweep "
                    "again"
                )
            inputs[role] = record.artifact
        resources = schema.build(Resources, spec.get("resources", {}), "resources")
        previous = None if work.traits.silent else store.previous(attempt)
        spent = store.spent(spec["key"]) if work.traits.remote else frozenset[str]()
        running = work.run(Context(spec["key"], attempt.folder, inputs, resources, previous, spent))
        facts = await (bounded(running) if bounded else running)
        store.publish(
            attempt,
            payload=spec["payload"],
            facts=facts,
            label=spec["label"],
            kind=spec["kind"],
            started=round(begun, 3),
            finished=round(time.time(), 3),
            host=this_process().host,
            job=this_process().job,
            versions=versions(work.traits.requires),
            **_placed(spec),
        )
    except (Exception, SystemExit) as error:
        message = (
            str(error) if isinstance(error, MosweepError) else f"{type(error).__name__}: {error}"
        )
        if not work.traits.silent:
            if not isinstance(error, MosweepError):
                import traceback

                traceback.print_exc()
            print(message, file=sys.stderr)
        return message.strip().splitlines()[0] if message.strip() else type(error).__name__
    return None


def _placed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says of how the stage was placed: what it asked for, and what became of it
    before.
    """
    return {name: spec[name] for name in ("resources", "tries") if spec.get(name)}


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing. An event loop takes longer to load than a dry run's
    stage to run.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a work that calls itself immediate has awaited something")


def _loop() -> Callable[..., Any]:
    import asyncio

    return asyncio.run


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send this process's output, and its children's, to ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in enumerate(saved, 1):
            os.dup2(copy, descriptor)
            os.close(copy)


def main() -> None:
    """Serve stages until standard input ends."""
    import warnings

    store = Store(Path(sys.argv[1]))
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which decides
    warnings.simplefilter("always", DamageWarning)
    (_serve_together if sys.argv[2:] == ["remote"] else _serve_in_turn)(
        store, lambda event: print(json.dumps(event), file=events)
    )


def _serve_in_turn(store: Store, emit: Callable[[Event], None]) -> None:
    """One stage at a time; thousands of quick ones a second."""
    import asyncio
    import queue
    import threading

    orders: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    busy, ended = threading.Event(), threading.Event()

    def listen() -> None:
        for line in sys.stdin:
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


def _serve_together(store: Store, emit: Callable[[Event], None]) -> None:
    """All stages at the same time, in one event loop; what each prints goes to its own log."""
    import asyncio
    import threading

    sys.stdout = sys.stderr = _Routed(sys.stderr)
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
            except asyncio.CancelledError:  # nobody here cancels stages
                raise StageError("the stage cancelled itself") from None

        emit(await perform(store, order, emit, _routed_to, bounded))

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
        for line in sys.stdin:
            loop.call_soon_threadsafe(take, json.loads(line))
        loop.call_soon_threadsafe(take, None)

    threading.Thread(target=listen, daemon=True).start()
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


#: Where what the running task prints goes.
_log: contextvars.ContextVar[Path | None] = contextvars.ContextVar("log", default=None)


class _Routed(io.TextIOBase):
    """A standard stream that many tasks share: each one's text is added to its log, everybody
    else's goes to ``rest``.
    """

    def __init__(self, rest: IO[str]) -> None:
        self.rest = rest

    def write(self, text: str) -> int:
        log = _log.get()
        if log is None:
            return self.rest.write(text)
        with open(log, "a") as file:
            return file.write(text)

    def flush(self) -> None:
        self.rest.flush()


@contextlib.contextmanager
def _routed_to(log: Path) -> Iterator[None]:
    """Send what this task prints to ``log``."""
    token = _log.set(log)
    try:
        yield
    finally:
        _log.reset(token)


if __name__ == "__main__":
    main()
