"""``status``, ``watch`` and ``cancel`` for Slurm. Works in any process that can read the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mosweep.core.results import Queued
from mosweep.core.store import Store
from mosweep.core.types import Status
from mosweep.launchers.slurm.answers import Job
from mosweep.launchers.slurm.client import SlurmClient
from mosweep.launchers.slurm.errors import NoAccounting, SlurmUnavailable
from mosweep.launchers.slurm.submissions import Submission, Submissions
from mosweep.launchers.slurm.verdict import is_unclear

__all__ = ["observe", "withdraw"]


def observe(
    store: Store, keys: Collection[str], client: SlurmClient | None = None
) -> dict[str, Queued]:
    """The jobs of the stages in ``keys`` without a record.

    Takes one query, and one of the accounting if a state is unclear.
    """
    client = client or SlurmClient()
    places = _places(store, keys)
    if not places:
        return {}
    arrays = {
        submission.array: submission.job_name
        for submission, _ in places.values()
        if submission.array
    }
    try:
        jobs = dict(client.queue(arrays)) if arrays else {}
        unknown = {
            s.array
            for s, index in places.values()
            if s.array and is_unclear(jobs.get(f"{s.array}_{index}"))
        }
        if unknown:
            jobs |= _accounted(client, {array: arrays[array] for array in unknown}, jobs)
        silent = ""
    except SlurmUnavailable as error:
        jobs, silent = {}, f"Slurm does not answer: {error}"
    return {
        key: _queued(submission, index, jobs, silent) for key, (submission, index) in places.items()
    }


def withdraw(
    store: Store, keys: Collection[str], client: SlurmClient | None = None
) -> dict[str, str]:
    """Cancel the jobs of the stages in ``keys`` without a record.

    Returns the jobs' ids by stage. Raises ``SlurmUnavailable``.
    """
    client = client or SlurmClient()
    places = {key: place for key, place in _places(store, keys).items() if place[0].array}
    ids = {key: f"{submission.array}_{index}" for key, (submission, index) in places.items()}
    if ids:
        jobs = client.queue(
            {str(submission.array): submission.job_name for submission, _ in places.values()}
        )
        ids = {key: name for key, name in ids.items() if name in jobs and jobs[name].alive}
        client.cancel(ids.values())
    return ids


def _places(store: Store, keys: Collection[str]) -> dict[str, tuple[Submission, int]]:
    """The latest job of each stage."""
    places: dict[str, tuple[Submission, int]] = {}
    wanted = set(keys)
    for submission in Submissions(store.root / "slurm").open().values():
        submission.read_answer()
        for index, key in submission.keys.items():
            if key in wanted and not store.record_path(key).exists():
                places[key] = (submission, index)
    return places


def _accounted(
    client: SlurmClient, arrays: Mapping[str, str], jobs: dict[str, Job]
) -> dict[str, Job]:
    try:
        accounted = client.accounting(arrays)
    except (NoAccounting, SlurmUnavailable):
        return {}
    return {
        name: job
        for name, job in accounted.items()
        if is_unclear(jobs.get(name)) and not (name in jobs and job.alive)
    }


def _queued(submission: Submission, index: int, jobs: dict[str, Job], silent: str) -> Queued:
    started, ended = submission.mark(index, "started"), submission.mark(index, "ended")
    log = Path(started["log"]) if started else submission.log(index)
    name = f"{submission.array}_{index}" if submission.array else ""
    job = jobs.get(name)
    error, status = None, _status(job) if job else "pending"
    if job is None:
        state = "?" if silent or submission.array is None else "UNKNOWN"
        reason = silent or (
            "being submitted" if submission.array is None else "no longer known to Slurm"
        )
        job = Job(name, state, reason=reason)
    elif status in ("failed", "cancelled"):
        error = f"{job.state}{f' on {job.node}' if job.node else ''}"
    if ended is not None and ended["event"] == "failed":
        status, error, log = "failed", ended["error"], Path(ended["log"])
    return Queued(
        name,
        job.state,
        status,
        job.reason,
        job.node,
        job.elapsed_s,
        error,
        log if log.exists() else None,
    )


def _status(job: Job) -> Status:
    if job.alive:
        return "running" if job.state in ("RUNNING", "COMPLETING") else "pending"
    if job.state == "CANCELLED":
        return "cancelled"
    # completed: its record is about to be seen
    return "running" if job.state == "COMPLETED" else "failed"
