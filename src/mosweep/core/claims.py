"""Claims: one owner at a time for a key, among processes and machines that share a file system.

Every process has one *card*, a small file that identifies it. The process keeps renewing the
card's modification time. A claim is a hard link ``<key>.<n>`` to that card: ``link(2)`` is atomic,
and succeeds only once. ``n`` is the *fencing token*. A process that finds the owner of
``<key>.<n>`` dead makes ``<key>.<n+1>``, and again only one can. The owner is the holder of the
highest token, so a process that stalled and resumes sees that it has lost its claim
(``Claim.check``).

An owner on this machine is dead when its process is gone. An owner elsewhere is dead when its card
has not been renewed for ``STALE_S`` by *our* clock, so clocks need not agree. This works on NFS. It
uses neither flock nor SQLite.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from mosweep.core.errors import ClaimLost

__all__ = ["Claim", "Claims", "Owner", "start_time", "this_process"]

#: Seconds between renewals of a card.
RENEW_S = 5.0

#: Seconds without a renewal after which an owner on another machine counts as dead.
STALE_S = 60.0


@dataclass(frozen=True)
class Owner:
    """The holder of a claim.

    ``machine`` names host, boot and process namespace. Process ids compare only within one machine.
    """

    host: str
    machine: str
    pid: int
    started: str
    job: str | None = None

    def __str__(self) -> str:
        return f"{self.host} pid {self.pid}" + (f" (job {self.job})" if self.job else "")


@dataclass(frozen=True)
class Claim:
    """A held claim. ``token`` grows with every takeover."""

    key: str
    token: int
    path: Path
    card: _Card = field(repr=False)

    def check(self) -> None:
        """Raise ``ClaimLost`` unless this claim still holds.

        Within this process, the claim that acquired ``key`` last is the one that holds.
        """
        try:
            is_owner = (
                self.card.claims.get(self.key) is self
                and self.path.stat().st_ino == self.card.inode
            )
        except FileNotFoundError:
            is_owner = False
        if not is_owner or self.path.with_name(f"{self.key}.{self.token + 1}").exists():
            raise ClaimLost(f"stage {self.key[:12]} was taken over while this process was stalled")


@dataclass
class Claims:
    """The claims in one folder."""

    folder: Path
    _seen: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict, repr=False)

    def acquire(self, key: str) -> Claim | Owner:
        """Claim ``key``. Returns the claim, or the live owner if there is one already."""
        card = _card(self.folder)
        with card.acquiring:
            return self._acquire(key, card)

    def _acquire(self, key: str, card: _Card) -> Claim | Owner:
        while True:
            tokens = self._tokens(key)
            for token in tokens:
                owner = self._living(key, token)
                if owner is not None:
                    return owner
            path = self._path(key, tokens[0] + 1 if tokens else 1)
            if not _link(card, path):
                continue
            claim = Claim(key, tokens[0] + 1 if tokens else 1, path, card)
            # Another process may not have seen our link before it acted: check again, and back off
            # if in doubt.
            others = [token for token in self._tokens(key) if token != claim.token]
            if any(token > claim.token or self._living(key, token) for token in others):
                path.unlink(missing_ok=True)
                continue
            for token in others:
                self._path(key, token).unlink(missing_ok=True)
            card.claims[key] = claim
            return claim

    def owner(self, key: str) -> Owner | None:
        """The live owner of ``key``, if there is one."""
        return next(
            (owner for token in self._tokens(key) if (owner := self._living(key, token))), None
        )

    def release(self, claim: Claim) -> None:
        """Release the claim. A claim that was taken over stays with its new owner."""
        with contextlib.suppress(ClaimLost):
            claim.check()
            claim.path.unlink(missing_ok=True)
        if claim.card.claims.get(claim.key) is claim:
            del claim.card.claims[claim.key]

    def held(self) -> dict[str, Owner]:
        """The live owners by key."""
        # NFS keeps files named .nfs… for a while.
        keys = {name.rpartition(".")[0] for name in _names(self.folder) if name[:1] != "."}
        return {key: owner for key in sorted(keys) if (owner := self.owner(key))}

    def _path(self, key: str, token: int) -> Path:
        return self.folder / f"{key}.{token}"

    def _tokens(self, key: str) -> list[int]:
        """The tokens of ``key``, highest first."""
        prefix = f"{key}."
        return sorted(
            (int(name[len(prefix) :]) for name in _names(self.folder) if name.startswith(prefix)),
            reverse=True,
        )

    def _living(self, key: str, token: int) -> Owner | None:
        path = self._path(key, token)
        try:
            owner = Owner(**json.loads(path.read_text()))
            status = path.stat()
        except FileNotFoundError:
            return None
        if owner.machine == this_process().machine:
            return owner if start_time(owner.pid) == owner.started else None
        now = time.monotonic()
        renewed, since = self._seen.get((key, status.st_ino), (None, now))
        if renewed != status.st_mtime:
            self._seen[key, status.st_ino] = (status.st_mtime, now)
            return owner
        return owner if now - since < STALE_S else None


@dataclass(frozen=True)
class _Card:
    """The card of this process.

    ``claims`` are this process's latest claims by key. All its links point to one card, so the disk
    does not show which of its claims is the latest.
    """

    path: Path
    inode: int
    claims: dict[str, Claim] = field(default_factory=dict, compare=False, repr=False)
    acquiring: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)


@cache
def this_process() -> Owner:
    """The identity of the calling process."""
    host = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # macOS has no /proc, so only the host's name identifies the machine.
        boot = namespace = ""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = (
        f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
        if array
        else os.environ.get("SLURM_JOB_ID")
    )
    return Owner(
        host, f"{host}/{boot}/{namespace}", os.getpid(), start_time(os.getpid()) or "", job
    )


def start_time(pid: int) -> str | None:
    """When process ``pid`` started, as the kernel reports it, or ``None`` if it is gone.

    It distinguishes a process from a later one with the same id.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        try:  # Without /proc, only the existence of a process is known.
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    return None if fields[0] in "ZX" else fields[19]


@cache
def _card(folder: Path) -> _Card:
    """This process's card in ``folder``. A background thread renews it while the process lives."""
    process = this_process()
    cards = folder.with_name(folder.name + ".cards")
    cards.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    path = cards / f"{process.host}-{process.pid}-{time.time_ns()}"
    path.write_text(json.dumps(asdict(process)))
    _remove_dead_cards(cards, process)
    atexit.register(path.unlink, missing_ok=True)
    threading.Thread(target=_renew, args=(path,), name="mosweep-claims", daemon=True).start()
    return _Card(path, path.stat().st_ino)


def _remove_dead_cards(cards: Path, process: Owner) -> None:
    """Remove the cards of dead processes of this machine."""
    for name in _names(cards):
        # A card may just have been removed, or may be half written.
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            owner = Owner(**json.loads((cards / name).read_text()))
            if owner.machine == process.machine and start_time(owner.pid) != owner.started:
                (cards / name).unlink(missing_ok=True)


def _renew(path: Path) -> None:
    while True:
        time.sleep(RENEW_S)
        with contextlib.suppress(OSError):  # The disk is full, or the server is slow.
            os.utime(path)


def _link(card: _Card, path: Path) -> bool:
    try:
        os.link(card.path, path)
    except FileExistsError:
        # On NFS a lost reply can make a successful link look like a failed one.
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_ino == card.inode
        return False
    return True


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
