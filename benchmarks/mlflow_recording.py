"""What recording a sweep in MLflow costs, against the quickest loop over MLflow's own client.

    python benchmarks/mlflow_recording.py [TRIALS]

CPU seconds of this process. The bare loop records less (no data sets, no logged models, no sweep
above the trials) and is given a database that exists and an MLflow that is imported; ``from
nothing`` includes both of these costs on our side.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mosweep.core.fingerprint import fingerprint
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.work import Kind
from mosweep.recorders import mlflow as recorder
from mosweep.recorders.mlflow import sqlite

METRICS = {"accuracy": 0.5, "stderr": 0.01, "f1": 0.4, "length": 12.0}
LOSS = [[0, 0.1]]


def sweep(folder: Path, trials: int) -> SweepResult:
    """Trials of four factors, each with a model of its own and one evaluation of four metrics."""

    def stage(label: str, what: int, facts: dict[str, object], **needs: str) -> StageResult:
        key = fingerprint([label, what])
        record = {
            "facts": facts,
            "artifact_digest": fingerprint(facts),
            "started": 1.76e9,
            "finished": 1.76e9 + 30,
        }
        return StageResult(
            label,
            Kind.of(label.partition(":")[0]),
            key,
            "succeeded",
            needs,
            record=record,
            folder=folder / key,
        )

    results = []
    model, data = (
        stage("model", 0, {"name": "tiny"}),
        stage("data", 0, {"name": "words", "digest": "d" * 64, "rows": 1000}),
    )
    for n in range(trials):
        tuned = stage(
            "finetune", n, {"model_id": f"local/{n}", "loss": LOSS}, model=model.key, data=data.key
        )
        scored = stage(
            "eval:capitalization",
            n,
            {"task": "capitalization", "metrics": METRICS},
            model=tuned.key,
            data=data.key,
        )
        place = folder / f"seed={n}"
        place.mkdir(parents=True)
        (place / "config.yaml").write_text("x: 1\n" * 60)
        factors = {"seed": n, "lora.rank": 4, "optim.lr": 1e-4, "model": "tiny"}
        results.append(
            TrialResult(
                place.name, fingerprint(n), factors, False, (model, data, tuned, scored), place
            )
        )
    return SweepResult("bench", folder, tuple(results))


def bare_loop(uri: str, root: Path, trials: int) -> None:
    """What one would write by hand."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("bare", (root / "bare").as_uri())
    files = root / "files"
    files.mkdir()
    (files / "config.yaml").write_text("x: 1\n" * 60)
    (files / "summary.json").write_text(json.dumps(METRICS, indent=1))
    tags = {f"mosweep.tag{n}": "v" * 64 for n in range(8)}
    params = [Param(f"p{n}", str(n)) for n in range(4)]
    for n in range(trials):
        run = client.create_run(experiment, tags=tags, run_name=f"seed={n}")
        metrics = [
            Metric(name, value, 1_760_000_000_000, 0)
            for name, value in {**METRICS, "loss": 0.1}.items()
        ]
        client.log_batch(run.info.run_id, metrics, params)
        client.log_artifacts(run.info.run_id, str(files))
        client.set_terminated(run.info.run_id)


def measure(
    name: str, what: Callable[[], object], trials: int, against: float | None = None
) -> float:
    """Print and return the CPU seconds that ``what`` takes."""
    began, wall = time.process_time(), time.perf_counter()
    what()
    cpu_s, wall_s = time.process_time() - began, time.perf_counter() - wall
    ratio = f"{cpu_s / against:8.3f} x" if against else ""
    print(
        f"{name:44s} {cpu_s:8.3f} s CPU {wall_s:8.3f} s wall {1e3 * cpu_s / trials:8.3f} "
        f"ms/trial {ratio}",
        flush=True,
    )
    return cpu_s


def main() -> None:
    """Measure and print."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        uri, fresh = f"sqlite:///{root}/mlflow.db", f"sqlite:///{root}/fresh.db"
        first, second, third = (sweep(root / name, trials) for name in ("first", "second", "third"))
        created = measure(
            "project, from nothing (import, new database)",
            lambda: recorder.project(first, fresh),
            trials,
        )
        recorder.project(sweep(root / "small", 1), uri)
        bare = measure("bare loop of MlflowClient", lambda: bare_loop(uri, root, trials), trials)
        print(f"{'project, from nothing':44s} {'':60s} {created / bare:8.3f} x")
        measure("project", lambda: recorder.project(second, uri), trials, bare)
        # without the digests computed so far
        again = replace(second, trials=tuple(replace(trial) for trial in second.trials))
        measure(
            "project again, nothing changed", lambda: recorder.project(again, uri), trials, bare
        )
        (second.folder / recorder.MARKER).unlink()
        measure("project again, marker lost", lambda: recorder.project(second, uri), trials, bare)
        with mock.patch.object(sqlite, "REVISIONS", frozenset()):
            measure(
                "project through MLflow's client (fallback)",
                lambda: recorder.project(third, uri),
                trials,
                bare,
            )


if __name__ == "__main__":
    main()
