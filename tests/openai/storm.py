"""A sweep at OpenAI while everything goes wrong: answers are lost, 429s and 5xx rain, and the
driver is killed again and again.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Shell


@dataclass
class Watch:
    """The memory (MB, at most) of mosweep's processes below this one: ``remote`` workers, and
    ``driver`` and the others.
    """

    remote_mb: float = 0.0
    driver_mb: float = 0.0
    remote_at_a_time: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            remote = 0
            for pid, words in processes().items():
                with contextlib.suppress(OSError, IndexError):
                    peak = (
                        int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])
                        / 1024
                    )
                    if words[-1] == "remote":
                        remote += 1
                        self.remote_mb = max(self.remote_mb, peak)
                    elif "mosweep.launchers.worker" not in words:
                        self.driver_mb = max(self.driver_mb, peak)
            self.remote_at_a_time = max(self.remote_at_a_time, remote)


def processes(of: str = "mosweep") -> dict[int, list[str]]:
    """The command lines of this user's processes that run ``of`` and descend from this one, or
    whose parent has died.
    """
    found, parents = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(place.name)] = int(
                (place / "stat").read_text().rpartition(")")[2].split()[1]
            )
            found[int(place.name)] = (
                (place / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            )

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return {
        pid: words
        for pid, words in found.items()
        if any(word.startswith(of) for word in words) and ours(pid)
    }


def run_through(
    shell: Shell,
    restarted: Callable[[], object],
    words: list[str],
    kills: int,
    every_s: float,
    rng: random.Random,
) -> tuple[str, float]:
    """Run the command, kill its driver ``kills`` times after about ``every_s``, then let it end;
    what it printed at last, and seconds.
    """
    begun = time.monotonic()
    for _ in range(kills):
        process = shell.start(*words)
        try:
            process.communicate(timeout=rng.uniform(0.5, 1.5) * every_s)
        except subprocess.TimeoutExpired:
            workers = [pid for pid in processes() if pid != process.pid]
            process.kill()
            process.communicate()
            # they notice by themselves
            while any(Path(f"/proc/{pid}").exists() for pid in workers):
                time.sleep(0.05)
        restarted()
    done = shell(*words, timeout=1200)
    assert done.status == 0, done.out[-2000:] + done.err[-2000:]
    return done.out, time.monotonic() - begun
