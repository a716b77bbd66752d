"""How this process asks a provider for things: one policy for all its calls, so that one call's
rate limit holds for all of them.

What may help is asked again, with growing, jittered pauses: after 429, 5xx, time-outs and lost
connections. What cannot help (400, 401, 403, 404 …) fails at once. A 429, or a ``Retry-After``,
makes *every* call to the provider wait; so many calls are under way at a time; and after
``patience_s`` without an answer a call fails, in one line. Knows no provider: what an error means
is told by ``read``.
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

__all__ = ["Policy", "RemoteError", "Trouble", "retry_after"]

T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """What an error of a call means, in one line (``text``).

    ``again``: asking again may help. ``wait_s``: how long the provider asks to be left alone;
    ``limited``: all of our calls are meant. ``unsure``: the request may have been carried out,
    though its answer was lost. ``status`` and ``code`` are the provider's own.
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
    """A call that came to nothing; ``trouble`` is the last that it met."""

    def __init__(self, message: str, trouble: Trouble) -> None:
        super().__init__(message)
        self.trouble = trouble

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, Trouble]]:
        return RemoteError, (self.message, self.trouble)


@dataclass
class Policy:
    """The calls of one event loop to one ``provider``. ``read`` tells what an exception means,
    ``None`` for one that no call raises.

    Pauses double from ``first_s`` to ``longest_s``.
    """

    provider: str
    read: Callable[[BaseException], Trouble | None]
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
        """The answer to ``request``, which is made anew for every try. ``RemoteError`` says
        ``what`` came to nothing, and why.

        A request of several parts waits for ``opened`` before each. One that is ``unsafe`` to
        repeat is not repeated where it may have been carried out: see ``find_or_make``.
        """
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay

        patience = self.patience_s if patience_s is None else patience_s
        met: Trouble | None = None

        async def once() -> T:
            nonlocal met
            async with self._slots:
                await self.opened()
                met = None
                try:
                    return await request()
                except Exception as error:
                    met = self.read(error)
                    if met is not None and met.limited:
                        self._close(met.wait_s if met.wait_s is not None else self.first_s)
                    raise

        def once_more() -> bool:
            return met is not None and met.again and not (unsafe and met.unsure)

        def pause(state: RetryCallState) -> float:
            assert met is not None
            return max(met.wait_s or 0.0, self._jittered(state.attempt_number))

        def note(state: RetryCallState) -> None:
            assert met is not None
            self.say(f"{self.provider}: {what}: {met.text}; again in {state.upcoming_sleep:.3g} s")

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Exception) and once_more()),
            stop=stop_before_delay(patience),
            wait=pause,
            before_sleep=note,
            reraise=True,
        )
        try:
            return await retrying(once)
        except Exception as error:
            if met is None:
                raise
            raise RemoteError(
                f"{self.provider}: {what}: "
                f"{met.text}{_given_up(met, patience) if once_more() else ''}",
                met,
            ) from error

    async def find_or_make(
        self,
        what: str,
        find: Callable[[], Awaitable[T | None]],
        make: Callable[[], Awaitable[T]],
        asked: int = 0,
    ) -> tuple[T, int]:
        """What ``find`` finds or else ``make`` makes, and how often that was asked: what is lost
        sight of is looked for, not repeated.

        Lists lag behind: after a ``make`` whose answer was lost, ``find`` is asked twice,
        ``settle_s`` apart. ``asked`` says how often earlier processes have asked, as far as is
        known.
        """
        begun = asyncio.get_running_loop().time()
        while True:
            found = await self.call(f"looking for {what}", find)
            if found is None and asked:
                await asyncio.sleep(self.settle_s)
                found = await self.call(f"looking for {what}", find)
            if found is not None:
                return found, asked
            asked += 1
            try:
                return await self.call(f"asking for {what}", make, unsafe=True), asked
            except RemoteError as error:
                trouble = error.trouble
                if (
                    not (trouble.again and trouble.unsure)
                    or asyncio.get_running_loop().time() - begun > self.patience_s
                ):
                    raise
                pause = max(trouble.wait_s or 0.0, self._jittered(asked))
                self.say(f"{error}; looking for it in {pause:.3g} s")
            await asyncio.sleep(pause)

    async def opened(self) -> None:
        """Wait until the provider may be asked."""
        while (left := self._closed_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left + random.uniform(0.0, min(1.0, 0.1 * left)))

    def _close(self, seconds: float) -> None:
        """Nobody asks for so long."""
        self._closed_until = max(self._closed_until, asyncio.get_running_loop().time() + seconds)

    def _jittered(self, attempt: int) -> float:
        """Somewhere in the upper half of a doubling pause, so that those who failed together do not
        come back together.
        """
        longest = min(self.first_s * 2.0 ** min(attempt - 1, 10), self.longest_s)
        return random.uniform(longest / 2, longest)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``retry-after-ms`` or ``Retry-After`` (a number, or a date) ask for; ``None``
    where they ask for nothing sensible.
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


def _given_up(met: Trouble, patience_s: float) -> str:
    """Why a call that may yet succeed was given up."""
    if not met.again:
        return ""
    if (met.wait_s or 0.0) > patience_s:
        return (
            f" (it asks to be left alone for {_span(met.wait_s or 0.0)}, longer than the "
            f"patience of {_span(patience_s)})"
        )
    return f" (tried for {_span(patience_s)})"


def _span(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"
