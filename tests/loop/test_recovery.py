"""A loop that is killed at any step goes on where it was, and comes to what it would have come
to.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.conftest import DRY, Shell

LOOP = (
    *DRY,
    "loop.enabled=true",
    "loop.max_rounds=4",
    "loop.threshold=0.85",
    "backend.rounds=[0.3,0.5,0.9]",
    "backend.delay_s=0.2",
)
COMMAND = ("-m", *LOOP, "seed=0,1", "experiment.name=loop")


def outcome(shell: Shell) -> dict[str, Any]:
    """What the trials have come to: metrics, and key and status of every stage."""
    trials = shell.summary("loop")
    return {
        name: (
            trial["status"],
            trial["metrics"],
            {stage["label"]: (stage["key"], stage["status"]) for stage in trial["stages"]},
        )
        for name, trial in trials.items()
    }


def ended(shell: Shell) -> int:
    try:
        return sum(event["event"] == "finished" for event in shell.journal("loop"))
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def test_killed_after_every_step(shell: Shell) -> None:
    reference = Shell(shell.folder / "reference")
    reference.folder.mkdir()
    assert reference(*COMMAND).status == 0
    wanted = outcome(reference)
    kills = 0
    while True:
        before = ended(shell)
        process = shell.start(*COMMAND, start_new_session=True)
        while process.poll() is None and ended(shell) <= before:
            time.sleep(0.005)
        if kills % 2:
            time.sleep(0.1)  # within a round rather than between two stages
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL) if kills % 3 else process.kill()
        _, err = process.communicate()
        if process.returncode >= 0:
            break
        kills += 1
    assert process.returncode == 0, err
    assert kills > 3, "more than one for every round, which the two trials train side by side"
    assert outcome(shell) == wanted
    finished = Counter(
        event["key"]
        for event in shell.journal("loop")
        if event["event"] == "finished" and not event.get("elsewhere")
    )
    assert set(finished.values()) == {1}


def test_a_finished_loop_is_a_no_op_and_an_unfinished_one_says_its_best_again(
    shell: Shell, started: Callable[[str], int]
) -> None:
    never = (
        *LOOP,
        "backend.delay_s=0",
        "loop.threshold=0.95",
        "run_control_trials=false",
        "experiment.name=never",
    )
    first = shell("-m", *never)
    assert first.status == 1
    assert (
        "chosen: capitalization/score reached 0.95 in none of 4 rounds; the best is round"
        in first.out
    )
    count = started("never")
    again = shell("-m", *never)
    assert again.status == 1
    assert "the best is round" in again.out
    assert started("never") == count + 1, "nothing but the last look is taken again"
    (trial,) = shell.summary("never").values()
    assert (trial["status"], trial["metrics"]) == ("failed", {})

    done = shell("-m", *never, "loop.threshold=0.5", "experiment.name=done")
    assert done.status == 0
    assert "not needed, nor are later rounds: round" in done.out
    count = started("done")
    again = shell("-m", *never, "loop.threshold=0.5", "experiment.name=done")
    assert (again.status, started("done")) == (0, count)
    assert "nothing to do" in again.out


def test_thresholds_are_levels_of_a_factor_and_one_failure_costs_one_trial(shell: Shell) -> None:
    words = (*LOOP, "backend.delay_s=0", "backend.item_sd=0", "backend.seed_sd=0")
    done = shell("-m", *words, "loop.threshold=0.5,0.9,0.95", "experiment.name=grid")
    assert done.status == 1
    rows = [line.split() for line in done.out.splitlines() if line.startswith("tuned")]
    assert [(row[1], *row[-4:]) for row in rows] == [
        ("0.500", "2", "of", "4", "succeeded"),
        ("0.900", "3", "of", "4", "succeeded"),
        ("0.950", "4", "of", "4", "failed"),
    ]
    assert "round 4                  loop.threshold=0.9  0.0 s" not in done.out


def test_status_names_the_next_round_and_counts_those_behind_it(shell: Shell) -> None:
    process = shell.start(
        "-m",
        *LOOP,
        "loop.max_rounds=10",
        "backend.delay_s=600",
        "run_control_trials=false",
        "experiment.name=loop",
    )
    deadline = time.monotonic() + 30
    try:
        while not any(
            event["event"] == "started"
            for event in (shell.journal("loop") if ended(shell) or _exists(shell) else ())
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        text = shell("status", "loop").out
    finally:
        process.kill()
        process.communicate()
    assert "round 1 " in text
    assert "round 2" not in text
    assert "chosen" in text
    assert "… and 19 stages of later rounds, which run only if they are needed" in text


def _exists(shell: Shell) -> bool:
    return (shell.folder / "multirun" / "loop" / "journal.jsonl").exists()
