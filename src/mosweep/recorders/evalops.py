"""EvalOps (https://evalops.dev): a test run for every round of a loop, told when the round's
evaluation is done.

A projection like the others: nothing of a result depends on it, and a thread of its own does the
telling, so that no stage waits for it. What was told is noted in the sweep's ``evalops.jsonl``, so
that no round is told of twice; what could not be told is told at the next launch. Its requests are
``POST URL/api/v1/test-runs/`` with a bearer key.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import queue
import random
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.config.groups import EvalOps
from mosweep.core.errors import MosweepError, UserError
from mosweep.core.events import Recorder, StageFinished, SweepFinished
from mosweep.core.journal import Journal
from mosweep.core.providers import retry_after
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.store import Record
from mosweep.core.work import ROUND_EVAL
from mosweep.recorders.base import ProjectionWarning, turn

__all__ = ["KEY", "EvalOpsRecorder", "api_key", "test_run"]

#: Environment variable with the key.
KEY = "EVALOPS_API_KEY"
#: The first pause before another try, and the longest, in seconds.
FIRST_S, LONGEST_S = 0.25, 10.0
#: How long EvalOps is left alone when it has not taken a round, in seconds.
REST_S = 60.0
#: For how long the end of a launch begins more requests, and how long it takes at most to note an
#: answer, in seconds.
WAIT_S, NOTING_S = 5.0, 1.0
#: Answers by which a round is refused for good are the others from 400 to 499.
NOT_OF_THE_ROUND = (401, 403, 408, 429)
#: How many rounds may wait to be told while the launch goes on.
AHEAD = 1000


class _Refused(MosweepError):
    """EvalOps does not want this very round."""


class EvalOpsRecorder(Recorder):
    """Tells EvalOps of a launch's rounds. That it was not told of all is one ``ProjectionWarning``,
    at the end.

    ``rounds`` are the keys of the evaluations of rounds that may come; ``look`` tells what is known
    of the sweep, ``read`` finds a record.
    """

    def __init__(
        self,
        options: EvalOps,
        look: Callable[[], SweepResult],
        read: Callable[[str], Record | None],
        rounds: Collection[str],
    ) -> None:
        self.options, self.look, self.read, self.rounds = options, look, read, rounds
        self.waiting: queue.Queue[str | None] = queue.Queue(AHEAD)
        self.thread: threading.Thread | None = None
        self.last: SweepResult | None = None
        self.problem = "it has not answered yet"
        self.refused: dict[str, str] = {}
        self.rests_until = 0.0
        self.lock, self.ending = threading.Lock(), threading.Event()
        self.asked_at, self.ends_at = -math.inf, math.inf

    def stage_finished(self, event: StageFinished) -> None:
        """Have it told, if it is the evaluation of a round."""
        if event.key in self.rounds:
            with contextlib.suppress(queue.Full):  # the end of the launch makes up for it
                self.waiting.put_nowait(event.key)
            self._start()

    def sweep_finished(self, event: SweepFinished) -> None:
        """Have told what has not been, for a few seconds and until the answer that is due then."""
        wanted = {stage.key for _, stage in _rounds(event.result) if _made(stage)}
        if wanted - self._told(event.result.folder):
            self.last = event.result
            self._start()
        if self.thread is not None:
            self._end()
        if missing := wanted - self._told(event.result.folder):
            problems = dict.fromkeys(
                problem for key, problem in self.refused.items() if key in missing
            )
            if missing - self.refused.keys():
                problems[self.problem] = None
            text = (
                f"EvalOps was not told of all rounds: {', '.join(problems)}; the next launch "
                "tries again"
            )
            warnings.warn(text, ProjectionWarning, stacklevel=2)

    def _start(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="evalops", daemon=True)
            self.thread.start()

    def _end(self) -> None:
        assert self.thread is not None
        with contextlib.suppress(queue.Empty):  # all that waits is part of the result
            while True:
                self.waiting.get_nowait()
        self.ends_at = time.monotonic() + WAIT_S
        self.ending.set()
        self.waiting.put(None)
        self.thread.join(WAIT_S)
        with self.lock:
            due = self.asked_at + self.options.timeout_s + NOTING_S
        self.thread.join(max(0.0, due - time.monotonic()))

    def _work(self) -> None:
        """What the thread does."""
        try:
            self._tell_all()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _tell_all(self) -> None:
        """Tell what an earlier launch has left, then each round as it comes, then whatever is left
        at the end.
        """
        sweep: SweepResult | None = None
        rounds: dict[str, tuple[TrialResult, StageResult]] = {}
        left: dict[str, tuple[TrialResult, StageResult]] = {}
        while (key := self.waiting.get()) is not None:
            if sweep is None:
                sweep = self.look()
                rounds = {stage.key: (trial, stage) for trial, stage in _rounds(sweep)}
                left = {key: pair for key, pair in rounds.items() if _made(pair[1])}
            if key in rounds and (record := self.read(key)):
                trial, stage = rounds[key]
                left[key] = (trial, replace(stage, record=record.data))
            self._tell_some(sweep, left)
        if self.last is not None:
            self._tell_some(
                self.last,
                {stage.key: (trial, stage) for trial, stage in _rounds(self.last) if _made(stage)},
            )

    def _tell_some(
        self, sweep: SweepResult, left: dict[str, tuple[TrialResult, StageResult]]
    ) -> None:
        """Tell of the rounds that are ``left``, in order, until EvalOps cannot be told; then it is
        left alone for a while.

        A round that it refuses is passed over in this launch.
        """
        for key, (trial, stage) in list(left.items()):
            if time.monotonic() < self.rests_until:
                return
            try:
                if key not in self.refused:
                    self._tell(sweep, trial, stage)
            except _Refused as error:
                self.refused[key] = str(error)
            except (MosweepError, OSError) as error:
                self.problem, self.rests_until = str(error), time.monotonic() + REST_S
                return
            del left[key]

    def _tell(self, sweep: SweepResult, trial: TrialResult, stage: StageResult) -> None:
        """Tell of a round, unless somebody has or it was found not to be needed."""
        if _made(stage):
            with turn(sweep.folder / ".evalops", "evalops"):
                if stage.key not in self._told(sweep.folder):
                    answer = self._posted(
                        test_run(sweep.name, trial, stage, self.options), api_key()
                    )
                    _ledger(sweep.folder).append("told", key=stage.key, id=answer)

    def _posted(self, body: Mapping[str, Any], key: str) -> str | None:
        """The id of the test run that was made."""
        url = f"{str(self.options.url).rstrip('/')}/api/v1/test-runs/"
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "User-Agent": "mosweep",
        }
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(_OneAddress)
        problem = "the launch ended before it could be asked"
        for attempt in range(1, self.options.tries + 1):
            if not self._may_begin():
                break
            pause = random.uniform(0.5, 1.0) * min(FIRST_S * 2 ** (attempt - 1), LONGEST_S)
            try:
                with opener.open(request, timeout=self.options.timeout_s) as answer:
                    return _id(answer.read())
            except urllib.error.HTTPError as error:
                problem = f"{url} answers {error.code} {error.reason}"
                if 400 <= error.code < 500 and error.code not in NOT_OF_THE_ROUND:
                    raise _Refused(problem) from None
                if error.code < 500 and error.code not in (408, 429):
                    raise MosweepError(problem) from None
                pause = max(
                    pause,
                    min(
                        retry_after({name.lower(): value for name, value in error.headers.items()})
                        or 0.0,
                        LONGEST_S,
                    ),
                )
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                problem = f"{url}: {str(reason) or type(error).__name__}"
            problem += f" (attempt {attempt} of {self.options.tries})"
            if attempt < self.options.tries:
                self._sleep(pause)
        raise MosweepError(problem)

    def _may_begin(self) -> bool:
        """Whether a request may begin. If so, the end of the launch waits for its answer."""
        with self.lock:
            now = time.monotonic()
            if now < self.ends_at:
                self.asked_at = now
            return now < self.ends_at

    def _sleep(self, seconds: float) -> None:
        """Sleep, unless the launch will have ended by then."""
        until = time.monotonic() + seconds
        if self.ending.wait(seconds) and until < self.ends_at:
            time.sleep(max(0.0, until - time.monotonic()))

    def _told(self, folder: Path) -> set[str]:
        return {event["key"] for event in _ledger(folder).read("told")}


def api_key() -> str:
    """The key in the environment; ``UserError`` if there is none, or none that can be sent."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(f"loop.evalops.url needs a key in the environment variable {KEY}")
    # what a header cannot hold is shown by the error that it causes
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in the environment variable {KEY} has characters that no key has")
    return key


def test_run(
    experiment: str, trial: TrialResult, stage: StageResult, options: EvalOps
) -> dict[str, Any]:
    """What EvalOps is told of the evaluation ``stage`` of a round."""
    facts = stage.facts
    number, model = int(facts["round"]), str(facts["model_id"])
    metadata = {
        "source": "mosweep",
        "checkpoint": model,
        "round": number,
        "score": facts["score"],
        "watched": f"{facts['task']}/{facts['watched']}",
        "metrics": dict(facts["metrics"]),
        "n": facts["n"],
        "experiment": experiment,
        "trial": trial.name,
        "factors": dict(trial.factors),
        "key": stage.key,
        **({"dummy": True} if facts.get("dummy") else {}),
    }
    return {
        "testSuiteId": options.suite,
        "name": f"Training Round {number}",
        "description": f"Round {number} of {trial.name} in the experiment {experiment}",
        "config": {"model": model, "metadata": metadata},
        "tags": ["mosweep", f"round-{number}"],
        "visibility": "team",
        "sharedWithTeams": [],
    }


def _rounds(result: SweepResult) -> Iterator[tuple[TrialResult, StageResult]]:
    """The evaluations of rounds, made or not."""
    for trial in result.trials:
        for stage in trial.stages:
            if stage.kind == ROUND_EVAL:
                yield trial, stage


def _made(stage: StageResult) -> bool:
    """Whether the round was evaluated, rather than found not to be needed."""
    return stage.record is not None and not stage.stopped


def _ledger(folder: Path) -> Journal:
    """What EvalOps was told of a sweep."""
    return Journal(folder / "evalops.jsonl")


class _OneAddress(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: neither with the key, nor with a ``GET`` that makes no test run."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Another address is an error."""


def _id(answer: bytes) -> str | None:
    """The test run's id, where the answer has one: it was taken all the same."""
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    data = found.get("data", found) if isinstance(found, dict) else {}
    known = data.get("id") if isinstance(data, dict) else None
    return None if known is None else str(known)
