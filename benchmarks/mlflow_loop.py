"""The yardstick for recording: the quickest loop over MLflow's own client, on a fresh SQLite
file.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def main(runs: int) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    folder = Path(tempfile.mkdtemp())
    (folder / "files").mkdir()
    (folder / "files" / "config.yaml").write_text("key: 1\n" * 60)
    (folder / "files" / "summary.json").write_text('{"x": 1}\n' * 20)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment(
        "bench", artifact_location=(folder / "artifacts").as_uri()
    )
    for index in range(runs):
        now = int(time.time() * 1000)
        run = client.create_run(
            experiment, tags={f"tag{i}": str(index) for i in range(8)}
        ).info.run_id
        metrics = [Metric(name, index / runs, now, 0) for name in ("score", "stderr")]
        client.log_batch(
            run, metrics, [Param(name, str(index)) for name in ("model", "rank", "seed", "task")]
        )
        client.log_artifacts(run, str(folder / "files"))
        client.set_terminated(run)


if __name__ == "__main__":
    main(int(sys.argv[1]))
