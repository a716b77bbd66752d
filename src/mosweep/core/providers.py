"""The retry policy for calls to a provider. All calls of a process share one rate limit.

Calls are retried after 429, 5xx, time-outs and lost connections, with growing, jittered pauses.
Other errors (400, 401, 403, 404 …) fail at once. A 429, or a ``Retry-After``, makes *every* call to
the provider wait. At most ``in_flight`` calls run at a time. After ``patience_s`` without an answer
a call fails, in one line. This module must not know any provider: ``read`` interprets its errors.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import TypeVar

from mosweep.core.errors import StageError

__all__ = ["Policy", "RemoteError", "Failure", "retry_after"]

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """The failure of a call, in one line (``text``).

    - ``again``: a retry may help.
    - ``wait_s``: how long the provider tells us to wait.
    - ``limited``: a rate limit, which applies to all calls.
    - ``unsure``: the request may have been carried out, but its answer was lost.
    - ``status``, ``code``, ``param``: as the provider reports them.
    """

    text: str
    again: bool = False
    wait_s: float | None = None
    limited: bool = False
    unsure: bool = False
    status: int | None = None
    code: str | None = None
    param: str | None = None


class RemoteError(StageError):
    """A call that failed. ``failure`` is its last error."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, Failure]]:
        return RemoteError, (self.message, self.failure)


@dataclass
class Policy:
    """The calls of one event loop to one ``provider``.

    ``read`` interprets an exception. It returns ``None`` for one that is not the provider's.
    Pauses double from ``first_s`` to ``longest_s``.
    """

    provider: str
    read: Callable[[BaseException], Failure | None]
    in_flight: int = 16
    patience_s: float = 1800.0
    first_s: float = 0.5
    longest_s: float = 30.0
    settle_s: float = 2.0
    say: Callable[[str], None] = print
    _slots: asyncio.Semaphore = field(init=False, repr=False)
    _closed_until: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.in_flight)

    async def call(
        self,
        what: str,
        request: Callable[[], Awaitable[T]],
        *,
        patience_s: float | None = None,
        unsafe: bool = False,
    ) -> T:
        """The answer to ``request``, which is called once per attempt.

        Raises ``RemoteError`` with ``what`` and the reason. A request of several parts awaits
        ``opened`` before each part. An ``unsafe`` request is not retried if it may have been
        carried out; see ``find_or_make``.
        """
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay

        patience = self.patience_s if patience_s is None else patience_s
        failure: Failure | None = None

        async def attempt() -> T:
            nonlocal failure
            async with self._slots:
                await self.opened()
                failure = None
                try:
                    return await request()
                except Exception as error:
                    failure = self.read(error)
                    if failure is not None and failure.limited:
                        self._close(failure.wait_s if failure.wait_s is not None else self.first_s)
                    raise

        def may_retry() -> bool:
            return failure is not None and failure.again and not (unsafe and failure.unsure)

        def pause(state: RetryCallState) -> float:
            assert failure is not None
            return max(failure.wait_s or 0.0, self._jittered(state.attempt_number))

        def note(state: RetryCallState) -> None:
            assert failure is not None
            wait = f"retry in {state.upcoming_sleep:.3g} s"
            self.say(f"{self.provider}: {what}: {failure.text}; {wait}")

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and may_retry()),
            stop=stop_before_delay(patience),
            wait=pause,
            before_sleep=note,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except Exception as error:
            if failure is None:
                raise
            reason = _give_up_reason(failure, patience) if may_retry() else ""
            raise RemoteError(
                f"{self.provider}: {what}: {failure.text}{reason}", failure
            ) from error

    async def find_or_make(
        self,
        what: str,
        find: Callable[[], Awaitable[T | None]],
        make: Callable[[], Awaitable[T]],
        asked: int = 0,
    ) -> tuple[T, int]:
        """The result of ``find``, or else of ``make``, and how often ``make`` was called.

        If the answer of ``make`` is lost, ``find`` is called before ``make`` is called again. A
        provider's lists are updated with a delay, so it is called twice, ``settle_s`` apart.
        ``asked`` is how often earlier processes called ``make``, as far as is known.
        """
        started = asyncio.get_running_loop().time()
        while True:
            result = await self.call(f"finding {what}", find)
            if result is None and asked:
                await asyncio.sleep(self.settle_s)
                result = await self.call(f"finding {what}", find)
            if result is not None:
                return result, asked
            asked += 1
            try:
                return await self.call(f"creating {what}", make, unsafe=True), asked
            except RemoteError as error:
                failure = error.failure
                if (
                    not (failure.again and failure.unsure)
                    or asyncio.get_running_loop().time() - started > self.patience_s
                ):
                    raise
                pause = max(failure.wait_s or 0.0, self._jittered(asked))
                self.say(f"{error}; checking again in {pause:.3g} s")
            await asyncio.sleep(pause)

    async def opened(self) -> None:
        """Wait until the provider's rate limit allows a call."""
        while (left := self._closed_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left + random.uniform(0.0, min(1.0, 0.1 * left)))

    def _close(self, seconds: float) -> None:
        """Let all calls wait for ``seconds``."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)

    def _jittered(self, attempt: int) -> float:
        """A random time in the upper half of a doubling pause.

        So calls that failed together are not retried together.
        """
        longest = min(self.first_s * 2.0 ** min(attempt - 1, 10), self.longest_s)
        return random.uniform(longest / 2, longest)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds to wait from ``retry-after-ms`` or ``Retry-After`` (a number or a date).

    ``None`` if there is no valid header.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None


def _give_up_reason(failure: Failure, patience_s: float) -> str:
    """Why a call is no longer retried, although a retry might help."""
    if not failure.again:
        return ""
    if (failure.wait_s or 0.0) > patience_s:
        return (
            f" (the provider requires a pause of {_span(failure.wait_s or 0.0)}, longer than the "
            f"limit of {_span(patience_s)})"
        )
    return f" (retried for {_span(patience_s)})"


def _span(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"
