"""Jobs as squeue and sacct print them, and the ids of jobs as scancel reads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["ARRAY_SIZE_MAX", "LIVE", "Job", "compact", "ids_of", "job_of", "parts"]

#: States that are not final.
LIVE = frozenset(
    "PENDING CONFIGURING RUNNING COMPLETING SUSPENDED STOPPED REQUEUED REQUEUE_HOLD REQUEUE_FED "
    "RESV_DEL_HOLD RESIZING SIGNALING SPECIAL_EXIT STAGE_OUT".split()
)
#: The largest ``MaxArraySize`` that Slurm accepts.
ARRAY_SIZE_MAX = 4_000_001
#: Ids in one word of a command line. The kernel accepts 128 KiB.
PER_WORD = 2000


@dataclass(frozen=True)
class Job:
    """A job, or a task of an array, as Slurm reports it.

    - ``id``: ``<array>_<index>``, or the number of a job that is not in an array
    - ``state``: Slurm's long name, as in ``CANCELLED``
    - ``reason``: why it waits, or how it ended
    - ``node``: its nodes
    - ``elapsed_s``, ``started``: seconds, and Unix seconds; ``None`` if unknown or not started
    - ``exit_code``: Slurm's ``status:signal``
    - ``by``: the uid that cancelled it

    Unknown text is ``""``.
    """

    id: str
    state: str
    reason: str = ""
    node: str = ""
    elapsed_s: float | None = None
    started: float | None = None
    exit_code: str = ""
    by: str = ""

    @property
    def alive(self) -> bool:
        return self.state in LIVE


def job_of(
    id: str, state: str, node: str, elapsed: str, start: str, reason: str = "", exit_code: str = ""
) -> Job | None:
    """A job from the fields of squeue or sacct. ``None`` if they have no state."""
    match = re.match(r"([A-Z_]+)\+?(?: by (\d+))?", state.strip())
    if match is None:
        return None
    node = "" if node in ("None assigned", "(null)", "n/a", "N/A") else node
    # Without a node, squeue's start time is the expected start or the time of cancellation.
    started = _time(start) if node and match[1] != "PENDING" else None
    return Job(
        id,
        match[1],
        "" if reason in ("None", "(null)") else reason.strip(),
        node,
        _seconds(elapsed),
        started,
        exit_code,
        match[2] or "",
    )


def ids_of(array: str, indices: str) -> Iterator[str]:
    """The ids of array ``123`` and the indices ``""``, ``4``, ``1,3-7:2`` or ``[3-4%5]``.

    None if the indices are invalid.
    """
    if not array.isascii() or not array.isdigit():
        return
    if not indices:
        yield array
    for part in indices.strip("[]").partition("%")[0].split(",") if indices else ():
        span = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7})(?::(\d{1,7}))?)?", part)
        if (
            span
            and (last := int(span[2] or span[1])) < ARRAY_SIZE_MAX
            and (step := int(span[3] or 1))
        ):
            yield from (f"{array}_{index}" for index in range(int(span[1]), last + 1, step))


def compact(ids: Collection[str]) -> list[str]:
    """The ids as arguments of scancel: whole jobs, and tasks by array, as in ``123_[1,3-5]``."""
    wholes = sorted({id for id in ids if "_" not in id})
    tasks: dict[str, set[int]] = {}
    for id in ids:
        array, _, index = id.partition("_")
        if index and array not in wholes:
            tasks.setdefault(array, set()).add(int(index))
    return wholes + [
        f"{array}_[{','.join(part)}]"
        for array, found in sorted(tasks.items())
        for part in parts(_spans(found), PER_WORD)
    ]


def _spans(indices: Collection[int]) -> list[str]:
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]


def parts(words: list[str], size: int) -> Iterator[list[str]]:
    """The words in lists of at most ``size``."""
    for start in range(0, len(words), size):
        yield words[start : start + size]


def _seconds(text: str) -> float | None:
    """Seconds from ``[days-]hours:minutes:seconds``, ``minutes:seconds`` or ``seconds``.

    ``None`` for any other text.
    """
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(?:(\d+):)?(\d+)(?:\.\d+)?", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if match[2] and not match[3]:
        hours, minutes = 0, hours
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _time(text: str) -> float | None:
    """Unix seconds from an ISO time in UTC. ``None`` for other text (``N/A``, ``Unknown``)."""
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
