"""The policy that all calls to a provider share, against a provider that answers by script."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from mosweep.core.providers import Failure, Policy, RemoteError, retry_after

BUSY = Failure("503: busy", again=True, unsure=True, status=503)
DENIED = Failure("401: no", status=401)


class Answer(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Provider:
    """Answers each request by the next of ``script``, then well; knows when it was asked, and by
    how many at a time.
    """

    def __init__(self, *script: Failure, takes_s: float = 0.0) -> None:
        self.script, self.takes_s = list(script), takes_s
        self.asked: list[float] = []
        self.now = self.most = 0

    async def __call__(self) -> str:
        self.asked.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.takes_s)
        self.now -= 1
        if self.script:
            raise Answer(self.script.pop(0))
        return "well"


def policy(said: Callable[[str], None] = lambda _: None, **options: Any) -> Policy:
    return Policy(
        "them",
        lambda error: getattr(error, "failure", None),
        first_s=0.02,
        longest_s=0.1,
        say=said,
        **options,
    )


def test_what_may_help_is_asked_again_and_said() -> None:
    said: list[str] = []
    provider = Provider(BUSY, BUSY, BUSY)

    async def go() -> str:
        return await policy(said.append).call("making a thing", provider)

    assert asyncio.run(go()) == "well"
    assert len(provider.asked) == 4
    pauses = [b - a for a, b in zip(provider.asked, provider.asked[1:], strict=False)]
    assert 0.01 <= pauses[0] < pauses[2]
    assert len(said) == 3
    assert said[0].startswith("them: making a thing: 503: busy; retry in 0.0")


def test_what_cannot_help_fails_at_once() -> None:
    provider = Provider(DENIED)

    async def go() -> str:
        return await policy().call("making a thing", provider)

    with pytest.raises(RemoteError, match=r"^them: making a thing: 401: no$") as caught:
        asyncio.run(go())
    assert len(provider.asked) == 1
    assert pickle.loads(pickle.dumps(caught.value)).failure == DENIED


def test_patience_ends() -> None:
    provider = Provider(*[BUSY] * 1000)

    async def go() -> str:
        return await policy(patience_s=0.4).call("making a thing", provider)

    begun = time.monotonic()
    with pytest.raises(RemoteError, match=r"503: busy \(retried for 0\.4 s\)"):
        asyncio.run(go())
    assert 0.25 < time.monotonic() - begun < 2
    assert 3 < len(provider.asked) < 20


def test_who_asks_for_more_patience_than_there_is_is_told_so() -> None:
    provider = Provider(Failure("429: limit", again=True, limited=True, wait_s=7200))

    async def go() -> str:
        return await policy(patience_s=60).call("making a thing", provider)

    with pytest.raises(
        RemoteError, match="requires a pause of 120 min, longer than the limit of 60 s"
    ):
        asyncio.run(go())


def test_one_calls_limit_holds_for_all() -> None:
    first, others = (
        Provider(Failure("429: limit", again=True, limited=True, wait_s=0.3)),
        Provider(),
    )

    async def go() -> None:
        shared = policy()
        await asyncio.gather(shared.call("first", first), *(delayed(shared) for _ in range(20)))

    async def delayed(shared: Policy) -> None:
        await asyncio.sleep(0.05)
        await shared.call("other", others)

    asyncio.run(go())
    limited = first.asked[0]
    assert all(asked >= limited + 0.3 for asked in [*first.asked[1:], *others.asked])
    assert len(first.asked) == 2
    assert max(others.asked) < limited + 1.5


def test_an_error_of_another_kind_is_no_answer() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def go() -> None:
        await policy().call("making a thing", broken)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(go())


def test_so_many_calls_at_a_time() -> None:
    provider = Provider(*[BUSY] * 10, takes_s=0.005)

    async def go() -> None:
        shared = policy(in_flight=4)
        await asyncio.gather(*(shared.call("making a thing", provider) for _ in range(40)))

    asyncio.run(go())
    assert provider.most == 4
    assert len(provider.asked) == 50


def test_who_pauses_holds_nobody_up() -> None:
    slow = Failure("503: busy", again=True, wait_s=0.5)

    async def go() -> float:
        shared = policy(in_flight=1)
        waiting = asyncio.create_task(shared.call("slow", Provider(slow)))
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        await shared.call("quick", Provider())
        took = time.monotonic() - begun
        await waiting
        return took

    assert asyncio.run(go()) < 0.25


def test_a_cancelled_call_is_not_asked_again() -> None:
    provider = Provider(BUSY, takes_s=0.0)

    async def go() -> None:
        shared = policy()

        async def hangs() -> str:
            if not provider.asked:
                return await provider()
            provider.asked.append(time.monotonic())
            await asyncio.sleep(60)
            return "never"

        task = asyncio.create_task(shared.call("making a thing", hangs))
        while len(provider.asked) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
    assert len(provider.asked) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25", "retry-after-ms": "100"}, 0.1),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "-3"}, 0.0),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": at}) == pytest.approx(30, abs=2)


class Shop:
    """Makes one thing per request; its answers are lost by script (``True``: after the thing was
    made), its list lags behind.
    """

    def __init__(self, *lost: bool, lag: int = 0) -> None:
        self.lost, self.lag, self.looks = list(lost), lag, 0
        self.made: list[str] = []

    async def make(self) -> str:
        lost = self.lost.pop(0) if self.lost else None
        if lost is not False:
            self.made.append(f"thing {len(self.made) + 1}")
        if lost is not None:
            raise Answer(Failure("the answer was lost", again=True, unsure=True))
        return self.made[-1]

    async def find(self) -> str | None:
        self.looks += 1
        return self.made[0] if self.made and self.looks > self.lag else None


@pytest.mark.parametrize(
    ("shop", "made", "asked"),
    [
        (Shop(), 1, 1),
        (Shop(True), 1, 1),
        (Shop(False), 1, 2),
        (Shop(False, False, True), 1, 3),
        (Shop(True, lag=2), 1, 1),  # seen at the second look after the loss only
    ],
)
def test_what_is_lost_sight_of_is_looked_for(shop: Shop, made: int, asked: int) -> None:
    async def go() -> tuple[str, int]:
        return await policy(settle_s=0.01).find_or_make("a thing", shop.find, shop.make)

    assert asyncio.run(go()) == ("thing 1", asked)
    assert len(shop.made) == made


def test_what_is_there_is_not_made() -> None:
    shop = Shop()
    shop.made.append("thing 1")

    async def go() -> tuple[str, int]:
        return await policy().find_or_make("a thing", shop.find, shop.make)

    assert asyncio.run(go()) == ("thing 1", 0)


def test_looking_for_it_ends_with_patience_too() -> None:
    shop = Shop(*[False] * 1000)

    async def go() -> None:
        await policy(settle_s=0.01, patience_s=0.3).find_or_make("a thing", shop.find, shop.make)

    with pytest.raises(RemoteError, match=r"them: creating a thing: the answer was lost$"):
        asyncio.run(go())
    assert shop.made == []
