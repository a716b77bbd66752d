"""Remote stages in the local launcher: one process, one event loop, so many at a time; what becomes
of them when things go wrong.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.launchers.waiting import Wait, WaitElsewhere

from mosweep.core.events import Recorder, StageStarted
from mosweep.core.store import Attempt, Store
from mosweep.core.types import Stage, Trial
from mosweep.core.work import Resources
from mosweep.launchers.base import Outcome
from mosweep.launchers.local import Local
from mosweep.sweep.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]


class Seen(Recorder):
    """The stages that were started."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def stage_started(self, event: StageStarted) -> None:
        self.started.append(event.key)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    return Store(tmp_path / "store")


def stage(work: Wait, **resources: Any) -> Stage:
    return Stage(f"wait {work.number}", work, resources=Resources(**resources))


def run(store: Store, stages: list[Stage], seen: Recorder | None = None) -> Outcome:
    trials = [Trial(made.label, {}, (made,)) for made in stages]
    return Local().run(make_plan(trials, store), store, seen or Recorder(), store.root)


def facts(store: Store, stages: list[Stage]) -> list[dict[str, Any]]:
    records = [store.read(made.key) for made in stages]
    return [dict(record.facts) for record in records if record]


def test_a_thousand_wait_in_one_process(store: Store) -> None:
    stages = [stage(Wait(n, 0.3, max_concurrent=1000)) for n in range(1000)]
    begun = time.monotonic()
    outcome = run(store, stages)
    took = time.monotonic() - begun
    assert len(outcome.finished) == 1000
    found = facts(store, stages)
    assert len({fact["pid"] for fact in found}) == 1
    assert took < 60, "one after another they would take 300 s"
    log = store.read(stages[7].key)
    assert log is not None
    assert (log.folder / "log.txt").read_text() == "7 begins\n7 ends\n"


def test_so_many_of_each_provider_at_a_time(store: Store) -> None:
    stages = [
        stage(kind(n, 0.15, max_concurrent=most))
        for kind, most in ((Wait, 3), (WaitElsewhere, 5))
        for n in range(12)
    ]
    run(store, stages)
    found = facts(store, stages)
    assert len(found) == 24
    assert max(fact["most"] for fact in found[:12]) == 3
    assert max(fact["most"] for fact in found[12:]) == 5
    assert len({fact["pid"] for fact in found}) == 1


def test_one_that_fails_fails_alone(store: Store) -> None:
    stages = [
        stage(Wait(0, 0.1)),
        stage(Wait(1, 0.1, "fail")),
        stage(Wait(2, 0.1, "cancel")),
        stage(Wait(3, 60), time_min=0.005),
    ]
    outcome = run(store, stages)
    assert outcome.finished == {stages[0].key}
    errors = [outcome.failed[made.key] for made in stages[1:]]
    assert errors == [
        "ValueError: no luck",
        "the stage cancelled itself",
        "over its time limit of 0.005 min",
    ]


def test_one_that_ends_the_process_once_costs_nothing(store: Store) -> None:
    stages = [stage(Wait(0, 0.5)), stage(Wait(1, 0.1, "exit once")), stage(Wait(2, 0.6))]
    outcome = run(store, stages)
    assert outcome.failed == {}
    assert facts(store, [stages[1]])[0]["previous"] is True


def test_one_that_always_ends_the_process_fails(store: Store) -> None:
    stages = [
        stage(Wait(0, 0.01)),
        stage(Wait(1, 0.1, "exit", max_concurrent=1)),
        stage(Wait(2, 0.01, max_concurrent=1)),
    ]
    outcome = run(store, stages)
    assert outcome.failed == {stages[1].key: "its process died (exit status 3)"}


def test_what_another_process_is_at_counts(store: Store) -> None:
    stages = [stage(Wait(n, 0.05, max_concurrent=2)) for n in range(6)]
    ours = [store.begin(made.key) for made in stages[:2]]
    seen, outcomes = Seen(), []
    launched = threading.Thread(target=lambda: outcomes.append(run(store, stages, seen)))
    launched.start()
    time.sleep(2.0)
    assert seen.started == []
    for attempt in ours:
        assert isinstance(attempt, Attempt)
        store.abandon(attempt)
    launched.join(30)
    assert len(outcomes[0].finished) == 6
