"""Nothing is paid for twice, and nobody is bothered who asked not to be, whatever goes wrong."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from tests.conftest import Shell
from tests.openai.conftest import Service
from tests.openai.storm import Watch, run_through

TRIALS, CONCURRENT, KILLS = 200, 100, 2
STORM = {"p_drop": 0.3, "p_error": 0.05, "storm_every": 600}


def test_a_storm(shell: Shell, openai: Service, words: Path) -> None:
    openai.set(tick_s=0.5, **STORM)
    sweep = [
        "-m",
        "backend=openai",
        "model=gpt-4o-mini",
        f"seed=range({TRIALS})",
        f"dataset.path={words.name}",
        "eval=dummy",
    ]
    sweep += [
        "tracking=none",
        "run_control_trials=false",
        "backend.poll_s=0.5",
        f"backend.max_concurrent={CONCURRENT}",
    ]
    with Watch() as watch:
        run_through(
            shell,
            lambda: openai.set(restart=True),
            [*sweep, "experiment.name=storm"],
            KILLS,
            6.0,
            random.Random(1),
        )
    report = openai.report
    keys = Counter(job["metadata"]["mosweep_key"] for job in report["jobs"])
    assert len(report["jobs"]) == TRIALS
    assert set(keys.values()) == {1}
    assert {job["metadata"]["mosweep_attempt"] for job in report["jobs"]} == {"1"}
    assert {job["status"] for job in report["jobs"]} == {"succeeded"}
    assert {job["seed"] for job in report["jobs"]} == set(range(TRIALS))
    assert len(report["files"]) == 1
    assert report["storms"] >= 2
    assert report["early"] == []
    assert 10 < report["most_active"] <= CONCURRENT
    assert watch.remote_at_a_time == 1
    assert 0 < watch.remote_mb < 300
    facts = [
        json.loads(path.read_text().rsplit("\n", 2)[0])
        for path in (shell.folder / ".mosweep/store/records").glob("*/*.json")
    ]
    jobs = [record["facts"]["remote_job"] for record in facts if record["kind"] == "finetune"]
    assert sorted(jobs) == sorted(job["id"] for job in report["jobs"])
