"""Sends a test run to EvalOps for every round of a loop, when the round's evaluation is done.

It is a projection: no result depends on it. A separate thread sends, so no stage waits. The sweep's
``evalops.jsonl`` records the rounds that were sent, so that none is sent twice. The next launch
sends the others.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mosweep.config.loop import EvalOps
from mosweep.core.errors import MosweepError
from mosweep.core.events import Recorder, StageFinished, SweepFinished
from mosweep.core.journal import Journal
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.store import Record
from mosweep.recorders.base import ProjectionWarning, turn
from mosweep.recorders.evalops.service import GRACE_S, Refused, Service

__all__ = ["EvalOpsRecorder", "test_run"]

#: Seconds without requests after EvalOps could not be reached.
PAUSE_S = 60.0
#: The most rounds that wait to be sent.
AHEAD = 1000


class EvalOpsRecorder(Recorder):
    """Sends a launch's rounds to EvalOps. At the end, one ``ProjectionWarning`` reports failures.

    ``rounds`` are the keys of the evaluations of rounds that the launch may run. ``look`` returns
    the current state of the sweep, and ``read`` the record of a key.
    """

    def __init__(
        self,
        options: EvalOps,
        look: Callable[[], SweepResult],
        read: Callable[[str], Record | None],
        rounds: Collection[str],
    ) -> None:
        self.service = Service(options)
        self.look = look
        self.read = read
        self.rounds = rounds
        self.waiting: queue.Queue[str | None] = queue.Queue(AHEAD)
        self.thread: threading.Thread | None = None
        self.last: SweepResult | None = None
        self.problem = "it has not answered yet"
        self.refused: dict[str, str] = {}
        self.paused_until = 0.0

    def stage_finished(self, event: StageFinished) -> None:
        """Send the result, if the stage is the evaluation of a round."""
        if event.key in self.rounds:
            with contextlib.suppress(queue.Full):  # The end of the launch sends the others.
                self.waiting.put_nowait(event.key)
            self._start()

    def sweep_finished(self, event: SweepFinished) -> None:
        """Send the remaining rounds for a few seconds, and wait for the last answer."""
        wanted = {stage.key for _, stage in _rounds(event.result) if stage.evaluation}
        if wanted - _sent(event.result.folder):
            self.last = event.result
            self._start()
        if self.thread is not None:
            self._end(self.thread)
        if missing := wanted - _sent(event.result.folder):
            problems = dict.fromkeys(
                problem for key, problem in self.refused.items() if key in missing
            )
            if missing - self.refused.keys():
                problems[self.problem] = None
            text = (
                f"not all rounds were sent to EvalOps: {', '.join(problems)}; the next launch "
                "retries"
            )
            warnings.warn(text, ProjectionWarning, stacklevel=2)

    def _start(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="evalops", daemon=True)
            self.thread.start()

    def _end(self, thread: threading.Thread) -> None:
        with contextlib.suppress(queue.Empty):  # The result contains the waiting rounds.
            while True:
                self.waiting.get_nowait()
        self.service.end()
        self.waiting.put(None)
        thread.join(GRACE_S)
        thread.join(self.service.seconds_left())

    def _work(self) -> None:
        """The thread's main function."""
        try:
            self._send_all()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _send_all(self) -> None:
        """Send unsent rounds of earlier launches, then new ones, then all that are left."""
        sweep: SweepResult | None = None
        rounds: dict[str, tuple[TrialResult, StageResult]] = {}
        left: dict[str, tuple[TrialResult, StageResult]] = {}
        while (key := self.waiting.get()) is not None:
            if sweep is None:
                sweep = self.look()
                rounds = {stage.key: (trial, stage) for trial, stage in _rounds(sweep)}
                left = {key: pair for key, pair in rounds.items() if pair[1].evaluation}
            if key in rounds and (record := self.read(key)):
                trial, stage = rounds[key]
                left[key] = (trial, replace(stage, record=record.data))
            self._send_some(sweep, left)
        if self.last is not None:
            left = {stage.key: (trial, stage) for trial, stage in _rounds(self.last)}
            self._send_some(self.last, {k: pair for k, pair in left.items() if pair[1].evaluation})

    def _send_some(
        self, sweep: SweepResult, left: dict[str, tuple[TrialResult, StageResult]]
    ) -> None:
        """Send the rounds that are ``left``, in order, until EvalOps cannot be reached.

        A round that it refuses is skipped for the rest of the launch.
        """
        for key, (trial, stage) in list(left.items()):
            if time.monotonic() < self.paused_until:
                return
            try:
                if key not in self.refused:
                    self._send(sweep, trial, stage)
            except Refused as error:
                self.refused[key] = str(error)
            except (MosweepError, OSError) as error:
                self.problem, self.paused_until = str(error), time.monotonic() + PAUSE_S
                return
            del left[key]

    def _send(self, sweep: SweepResult, trial: TrialResult, stage: StageResult) -> None:
        """Send a round, unless another process has sent it, or the loop did not need it."""
        if stage.evaluation:
            with turn(sweep.folder / ".evalops", "evalops"):
                if stage.key not in _sent(sweep.folder):
                    body = test_run(sweep.name, trial, stage, str(self.service.options.suite))
                    answer = self.service.post(body)
                    _ledger(sweep.folder).append("sent", key=stage.key, id=answer)


def test_run(experiment: str, trial: TrialResult, stage: StageResult, suite: str) -> dict[str, Any]:
    """The test run for the evaluation ``stage`` of a round."""
    evaluation, of_round = stage.evaluation, stage.round
    assert evaluation is not None and of_round is not None
    metadata = {
        "source": "mosweep",
        "checkpoint": evaluation.model_id,
        "round": of_round.number,
        "score": of_round.score,
        "watched": f"{evaluation.task}/{of_round.watched}",
        "metrics": dict(evaluation.metrics),
        "n": evaluation.n,
        "experiment": experiment,
        "trial": trial.name,
        "factors": dict(trial.factors),
        "key": stage.key,
        **({"dummy": True} if stage.pretended else {}),
    }
    return {
        "testSuiteId": suite,
        "name": f"Training Round {of_round.number}",
        "description": f"Round {of_round.number} of {trial.name} in the experiment {experiment}",
        "config": {"model": evaluation.model_id, "metadata": metadata},
        "tags": ["mosweep", f"round-{of_round.number}"],
        "visibility": "team",
        "sharedWithTeams": [],
    }


def _rounds(result: SweepResult) -> Iterator[tuple[TrialResult, StageResult]]:
    """The evaluations of rounds, done or not."""
    for trial in result.trials:
        for stage in trial.stages:
            if stage.of_round:
                yield trial, stage


def _sent(folder: Path) -> set[str]:
    """The keys of the evaluations that were sent."""
    return {event["key"] for event in _ledger(folder).read("sent")}


def _ledger(folder: Path) -> Journal:
    """The rounds of a sweep that were sent to EvalOps."""
    return Journal(folder / "evalops.jsonl")
