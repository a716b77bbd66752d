"""What a sweep promises: many processes, kills at any moment, damage on disk; one result, nothing
lost, nothing done twice.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

SLOW = (
    *DRY,
    "lora.rank=4,16,64",
    "seed=0,1",
    "backend.delay_s=0.25",
    "run_control_trials=false",
    "experiment.name=slow",
)


def table(text: str) -> str:
    """The final table, without progress lines."""
    return "\n".join(
        line for line in text.splitlines() if re.match(r"(trial|tuned|control|─)", line)
    )


def executions(shell: Shell, name: str) -> Counter[str]:
    """How often each stage ran to its end, by the attempts' folders and the journal of all
    processes.
    """
    return Counter(
        event["key"]
        for event in shell.journal(name)
        if event["event"] == "finished" and not event.get("elsewhere")
    )


def test_eight_processes_on_one_sweep(shell: Shell) -> None:
    processes = [shell.start("-m", *SLOW) for _ in range(8)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    tables = {table(out) for out, _ in outputs}
    assert len(tables) == 1
    assert tables.pop().count("succeeded") == 6
    counts = executions(shell, "slow")
    assert len(counts) == 12
    assert set(counts.values()) == {1}
    assert not [err for _, err in outputs if "Error" in err]
    store = shell.folder / ".mosweep" / "store"
    assert len(list(store.glob("records/*/*"))) == 12
    assert len(list(store.glob("artifacts/*/*"))) == 6, (
        "only evaluations leave files, and each once"
    )
    assert list((store / "claims").iterdir()) == []


def test_killed_fifty_times(shell: Shell) -> None:
    rng = random.Random(0)
    reference = Shell(shell.folder / "reference")
    reference.folder.mkdir()
    wanted = table(reference("-m", *SLOW).out)
    began = time.monotonic()
    assert reference("-m", *SLOW).status == 0
    cached_run_s = time.monotonic() - began
    store = shell.folder / ".mosweep" / "store"
    kills = 0
    while kills < 50:
        process = shell.start("-m", *SLOW, start_new_session=True)
        try:
            process.communicate(timeout=rng.uniform(0.05, 1.2 * cached_run_s + 0.6))
        except subprocess.TimeoutExpired:
            # The whole terminal session dies at once, or only the driver: its workers must notice
            # by themselves.
            os.killpg(process.pid, signal.SIGKILL) if kills % 2 else process.kill()
            process.communicate()
        kills += 1
        for record in store.glob("records/*/*.json"):
            json.loads(record.read_text().rsplit("\n", 2)[0])  # whole, always
    done = shell("-m", *SLOW)
    assert done.status == 0, done.err
    assert table(done.out) == wanted
    assert "damaged" not in done.err
    finished = executions(shell, "slow")
    assert all(count == 1 for count in finished.values())
    _no_stage_began_after_it_was_done(shell)


def _no_stage_began_after_it_was_done(shell: Shell) -> None:
    published = {
        path.stem: path.stat().st_mtime
        for path in (shell.folder / ".mosweep/store/records").glob("*/*.json")
    }
    late = [
        e
        for e in shell.journal("slow")
        if e["event"] == "started" and e["time"] > published[e["key"]] + 0.5
    ]
    assert late == []


def test_workers_die_with_their_driver(shell: Shell) -> None:
    process = shell.start(
        "-m",
        *DRY,
        "seed=0",
        "backend.delay_s=600",
        "run_control_trials=false",
        "experiment.name=orphans",
    )
    journal = shell.folder / "multirun" / "orphans" / "journal.jsonl"
    deadline = time.monotonic() + 30
    while not (journal.exists() and '"started"' in journal.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (event,) = [
        json.loads(line) for line in journal.read_text().splitlines() if '"started"' in line
    ]
    worker = int(event["job"].removeprefix("pid "))
    assert Path(f"/proc/{worker}").exists()
    process.kill()
    process.communicate()
    while (
        Path(f"/proc/{worker}").exists()
        and "Z" not in Path(f"/proc/{worker}/stat").read_text().split(")")[1]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "record"])
def test_damage_is_noticed_set_aside_and_mended(
    shell: Shell, started: Callable[[str], int], damage: str
) -> None:
    shell("-m", *DRY, "lora.rank=4,64", "experiment.name=grid")
    before = shell.summary("grid")
    store = shell.folder / ".mosweep" / "store"
    samples = sorted(store.glob("artifacts/*/*/samples.jsonl"))[0]
    times = samples.stat()
    if damage == "truncate":
        os.truncate(samples, 100)
    elif damage == "flip":
        data = bytearray(samples.read_bytes())
        data[50] ^= 4
        samples.write_bytes(data)
        os.utime(samples, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk does it
    elif damage == "remove":
        samples.unlink()
    else:
        (record,) = store.glob(f"records/*/{samples.parent.name.partition('.')[0]}*.json")
        record.write_text(record.read_text().replace('"score":0.', '"score":0.9', 1))
    done = shell("-m", *DRY, "lora.rank=4,64", "experiment.name=grid")
    assert done.status == 0, done.err
    assert "damaged" in done.err
    assert samples.parent.name.partition(".")[0][:12] in done.err
    assert started("grid") == 5 + 1
    assert len(list((store / "quarantine").iterdir())) == 1
    assert {n: t["metrics"] for n, t in shell.summary("grid").items()} == {
        n: t["metrics"] for n, t in before.items()
    }
    clean = shell("-m", *DRY, "lora.rank=4,64", "experiment.name=grid")
    assert "damaged" not in clean.err
