"""Works that wait for somebody else's computer, for tests: they end well, fail, cancel themselves,
or take their process along.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mosweep.core.fingerprint import unkeyed
from mosweep.core.work import Context, Kind, RemoteWork

now: Counter[str] = Counter()
most: Counter[str] = Counter()


@dataclass(frozen=True)
class Wait(RemoteWork):
    """Waits at the provider ``clock``."""

    number: int
    seconds: float
    how: str = "well"
    max_concurrent: int = field(default=10, metadata=unkeyed)

    kind: ClassVar[Kind] = Kind("wait")
    version: ClassVar[int] = 1
    provider: ClassVar[str] = "clock"

    async def run(self, context: Context) -> Mapping[str, Any]:
        now[self.provider] += 1
        most[self.provider] = max(most[self.provider], now[self.provider])
        print(f"{self.number} begins")
        try:
            if self.how == "exit" or (self.how == "exit once" and context.previous is None):
                (context.out / "begun").write_text("")
                await asyncio.sleep(0.2)
                os._exit(3)
            await asyncio.sleep(self.seconds)
            if self.how == "fail":
                raise ValueError("no luck")
            if self.how == "cancel":
                raise asyncio.CancelledError
        finally:
            now[self.provider] -= 1
        print(f"{self.number} ends")
        return {
            "pid": os.getpid(),
            "most": most[self.provider],
            "previous": context.previous is not None,
        }


@dataclass(frozen=True)
class WaitElsewhere(Wait):
    """Waits at another provider."""

    provider: ClassVar[str] = "sundial"
