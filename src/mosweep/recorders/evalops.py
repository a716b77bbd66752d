"""EvalOps (https://evalops.dev): a test run for every round of a loop, told when the sweep ends.

A projection like the others: nothing of a result depends on it. What was told is noted in the sweep's ``evalops.jsonl``, so that no round
is told of twice, and what could not be is told at the next launch. Its requests are ``POST URL/api/v1/test-runs/`` with a bearer key.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mosweep.config import EvalOps
from mosweep.core.errors import MosweepError, UserError
from mosweep.core.events import Recorder, SweepFinished
from mosweep.core.journal import Journal
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.recorders.base import Projection, ProjectionWarning, turn
from mosweep.training.remote import retry_after

__all__ = ["KEY", "EvalOpsRecorder", "api_key", "project", "test_run"]

#: Environment variable with the key.
KEY = "EVALOPS_API_KEY"
#: The first pause before another try, and the longest, in seconds.
FIRST_S, LONGEST_S = 0.25, 10.0


@dataclass(frozen=True)
class EvalOpsRecorder(Recorder):
    """Tells EvalOps of a sweep's rounds when it ends. That it cannot is a ``ProjectionWarning``."""

    options: EvalOps

    def sweep_finished(self, event: SweepFinished) -> None:
        """Tell what is new."""
        try:
            project(event.result, self.options)
        except MosweepError as error:
            warnings.warn(f"EvalOps was not told of all rounds: {error}; the next launch tries again", ProjectionWarning, stacklevel=2)


def api_key() -> str:
    """The key in the environment; ``UserError`` if there is none."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(f"loop.evalops.url needs a key in the environment variable {KEY}")
    return key


def project(result: SweepResult, options: EvalOps) -> Projection:
    """Tell EvalOps of the rounds in ``result`` that it has not been told of; ``MosweepError`` at the first that it does not take."""
    ledger = Journal(result.folder / "evalops.jsonl")
    rounds = {stage.key: (trial, stage) for trial, stage in _rounds(result)}
    told = 0
    with turn(result.folder / ".evalops", "evalops"):
        known = {event["key"] for event in ledger.read()}
        new = {key: pair for key, pair in rounds.items() if key not in known}
        key_given = api_key() if new else ""
        for key, (trial, stage) in new.items():
            answer = _posted(test_run(result, trial, stage, options), options, key_given)
            ledger.append("told", key=key, id=answer)
            told += 1
    return Projection(created=told, unchanged=len(rounds) - told)


def test_run(result: SweepResult, trial: TrialResult, stage: StageResult, options: EvalOps) -> dict[str, Any]:
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
        "experiment": result.name,
        "trial": trial.name,
        "factors": dict(trial.factors),
        "key": stage.key,
        **({"dummy": True} if facts.get("dummy") else {}),
    }
    return {
        "testSuiteId": options.suite,
        "name": f"Training Round {number}",
        "description": f"Round {number} of {trial.name} in the experiment {result.name}",
        "config": {"model": model, "metadata": metadata},
        "tags": ["mosweep", f"round-{number}"],
        "visibility": "team",
        "sharedWithTeams": [],
    }


def _rounds(result: SweepResult) -> Iterator[tuple[TrialResult, StageResult]]:
    """The evaluations of rounds that were made."""
    for trial in result.trials:
        for stage in trial.stages:
            if stage.kind == "round-eval" and stage.record and not stage.stopped:
                yield trial, stage


def _posted(body: Mapping[str, Any], options: EvalOps, key: str) -> str | None:
    """The id of the test run that was made."""
    url = f"{str(options.url).rstrip('/')}/api/v1/test-runs/"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "User-Agent": "mosweep"}
    data = json.dumps(body).encode()
    for attempt in range(1, options.tries + 1):
        pause = random.uniform(0.5, 1.0) * min(FIRST_S * 2 ** (attempt - 1), LONGEST_S)
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers, method="POST"), timeout=options.timeout_s) as answer:
                return _id(answer.read())
        except urllib.error.HTTPError as error:
            problem = f"{url} answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                raise MosweepError(problem) from None
            pause = max(pause, min(retry_after({name.lower(): value for name, value in error.headers.items()}) or 0.0, LONGEST_S))
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            problem = f"{url}: {str(reason) or type(error).__name__}"
        if attempt < options.tries:
            time.sleep(pause)
    raise MosweepError(f"{problem} (tried {options.tries} times)")


def _id(answer: bytes) -> str | None:
    """The test run's id, where the answer has one: it was taken all the same."""
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    data = found.get("data", found) if isinstance(found, dict) else {}
    known = data.get("id") if isinstance(data, dict) else None
    return None if known is None else str(known)
