"""A thousand fine-tunes at a server that behaves like OpenAI's on a very bad day.

    python -m benchmarks.openai_storm [--calm] [TRIALS [KILLS [CONCURRENT]]]

30 % of all answers are lost, half of them after the work was done; 5 % are 5xx; now and then
everything is answered 429 for 1.5 s; and the driver is killed with SIGKILL again and again
(``--calm``: none of the weather). Prints what came of it, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conftest import Shell
from tests.openai import storm
from tests.openai.conftest import COMMAND, ROOT, Service


def main(trials: int, kills: int, concurrent: int, calm: bool) -> None:
    with (
        subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        service, shell = Service(int(server.stdout.readline())), Shell(Path(folder))
        os.environ.update(service.environment)
        weather = {} if calm else {"p_drop": 0.3, "p_error": 0.05, "storm_every": 1000}
        service.set(tick_s=0.5, **weather)
        words = Path(folder) / "words.jsonl"
        rows = [
            [{"role": "user", "content": f"w{n}"}, {"role": "assistant", "content": f"W{n}"}]
            for n in range(12)
        ]
        words.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        sweep = [
            "-m",
            "backend=openai",
            "model=gpt-4o-mini",
            f"seed=range({trials})",
            "dataset.path=words.jsonl",
            "eval=dummy",
        ]
        sweep += [
            "tracking=none",
            "run_control_trials=false",
            "backend.poll_s=1",
            f"backend.max_concurrent={concurrent}",
        ]
        sweep += ["experiment.name=storm"]
        with storm.Watch() as watch:
            _, seconds = storm.run_through(
                shell, lambda: service.set(restart=True), sweep, kills, 15.0, random.Random(1)
            )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = service.report
        keys = Counter(job["metadata"]["mosweep_key"] for job in report["jobs"])
        figures = {
            "trials": trials,
            "kills": kills,
            "jobs": len(report["jobs"]),
            "keys_with_one_job": sum(count == 1 for count in keys.values()),
            "jobs_by_status": Counter(job["status"] for job in report["jobs"]),
            "uploads": len(report["files"]),
            "requests": sum(report["requests"].values()),
            "storms_of_429": report["storms"],
            "requests_that_came_early": len(report["early"]),
            "said_against_the_description": report["amiss"],
            "max_concurrent": concurrent,
            "most_active": report["most_active"],
            "remote_processes_at_a_time": watch.remote_at_a_time,
            "remote_process_mb": round(watch.remote_mb),
            "driver_mb": round(watch.driver_mb),
            "seconds": round(seconds, 1),
            "cpu_seconds_without_the_killed": round(used.ru_utime + used.ru_stime, 1),
        }
        print(json.dumps(figures, indent=1))
        server.terminate()


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:] if word != "--calm"]
    trials, kills, concurrent = (*given, *(1000, 6, 100)[len(given) :])
    main(trials, kills, concurrent, calm="--calm" in sys.argv)
