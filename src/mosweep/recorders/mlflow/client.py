"""Writes runs with MLflow's client.

This is slower than writing to SQLite, but works with every server and version. The client can add
to a run, but not remove from it. A changed score is added with a later time, and the model's page
shows both. If that is not enough (a param or a curve changed, or a score was removed), the run is
deleted and written again.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.core.errors import MissingExtra
from mosweep.recorders.mlflow.entities import Dataset, Model, Run, model_file

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

__all__ = ["KIND", "VIEW", "ClientWriter", "artifact_location", "load", "view_tag"]

#: With this tag, MLflow's UI shows runs and models, and does not ask for the kind of experiment.
KIND = {"mlflow.experimentKind": "custom_model_development"}

#: Name of the view that shows factors and scores in the table of runs.
VIEW = "mosweep"


def load() -> Any:
    """The module ``mlflow``, with its log output off. Raises ``MissingExtra``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow's own defaults, 7 retries of 120 s, make a failing server cost minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    with _variable("MLFLOW_LOGGING_LEVEL", "WARNING"):  # MLflow reads it during its import.
        try:
            import mlflow.tracking
        except ImportError as error:
            raise MissingExtra("mlflow", "mlflow", "recording in MLflow") from error
    return mlflow


def check_answers(uri: str) -> None:
    """Raise ``OSError`` if the server at ``uri`` does not answer within ``ANSWER_S`` seconds.

    Any answer counts, also an error: MLflow's client has better messages for those.
    """
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        raise OSError(f"{_without_password(uri)} does not answer: {error.reason}") from None
    except OSError as error:
        raise OSError(f"{_without_password(uri)} does not answer: {error}") from None


def _without_password(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def view_tag(columns: Sequence[str]) -> tuple[str, str]:
    """The tag that selects the columns of the table of runs in MLflow's user interface."""
    return f"mlflow.sharedViewState.{VIEW}", json.dumps({"selectedColumns": list(columns)})


def artifact_location(root: Path, experiment: str) -> str:
    """The location of an experiment's artifacts: a path, or a URI if the path needs quoting."""
    folder = root.absolute() / "".join(c if c.isalnum() or c in "-_" else "_" for c in experiment)
    return folder.as_uri() if set("%#?;") & set(str(folder)) else str(folder)


#: Seconds in which a server has to answer before runs are written.
ANSWER_S = 10.0


class ClientWriter:
    """Writes one experiment, a run at a time."""

    #: Runs per call of ``write``.
    batch = 1

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None) -> None:
        mlflow = load()
        if uri.startswith(("http://", "https://")):
            check_answers(uri)
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self.experiment_id: str = self._experiment(experiment, artifact_root)
        self._run_ids: dict[str, str] = {}
        self._model_ids: dict[str, str] | None = None

    def close(self) -> None:
        """Nothing to close."""

    def known(self, sweep: str) -> dict[str, str]:
        """The digests of the sweep's runs, by trial. Empty for a run to write again."""
        digests = {}
        for run in _pages(
            self._client.search_runs,
            [self.experiment_id],
            f"tags.`mosweep.sweep.folder` = '{sweep}'",
            run_view_type=3,
            max_results=1000,
        ):
            trial = run.data.tags.get("mosweep.trial", "")
            active = run.info.lifecycle_stage == "active"
            if active or trial not in self._run_ids:
                self._run_ids[trial] = run.info.run_id
                digests[trial] = run.data.tags.get("mosweep.digest", "") if active else ""
        return digests

    def write(self, runs: Sequence[Run]) -> None:
        """Write the runs, and replace existing ones."""
        for run in runs:
            self._write(run)

    def run_id(self, trial: str) -> str | None:
        """The id of a trial's run, or of the sweep's run if ``trial`` is empty."""
        return self._run_ids.get(trial)

    def show(self, columns: Sequence[str]) -> None:
        """Store the view ``VIEW`` of the experiment's table of runs."""
        self._client.set_experiment_tag(self.experiment_id, *view_tag(columns))

    def _experiment(self, name: str, artifact_root: Path | None) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            from mlflow.exceptions import MlflowException

            try:
                return str(
                    self._client.create_experiment(
                        name,
                        artifact_location(artifact_root, name) if artifact_root else None,
                        KIND,
                    )
                )
            except MlflowException:  # Another process has just created it.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _write(self, run: Run) -> None:
        from mlflow.entities import LoggedModelInput, LoggedModelOutput, Param, RunTag
        from mlflow.entities import Metric as MlflowMetric

        client = self._client
        tags = {key: value for key, value in run.tags.items() if key != "mosweep.digest"}
        if run.trial:
            tags["mlflow.parentRunId"] = self._run_ids[""]
        latest = {
            metric.name: metric.value
            for metric in sorted(run.metrics, key=lambda metric: metric.step)
        }
        old = self._reusable(run, latest)
        if old is None:
            made = client.create_run(
                self.experiment_id, start_time=run.start_ms, tags=tags, run_name=run.name
            )
            run_id = self._run_ids[run.trial] = made.info.run_id
        else:
            run_id = old.info.run_id
            for stale in [
                key for key in old.data.tags if key.startswith("mosweep.") and key not in tags
            ]:
                client.delete_tag(run_id, stale)
        inputs, outputs = (
            [self._model_id(model, run_id) for model in models]
            for models in (run.inputs, run.outputs)
        )
        if run.datasets or inputs:
            client.log_inputs(
                run_id,
                [_dataset_input(dataset) for dataset in run.datasets],
                [LoggedModelInput(i) for i in inputs],
            )
        linked = {
            model.model_id for model in (old.outputs.model_outputs if old and old.outputs else ())
        }
        if set(outputs) - linked:
            client.log_outputs(
                run_id, [LoggedModelOutput(i, step=0) for i in outputs if i not in linked]
            )
        known, now_ms = old.data.metrics if old else {}, round(time.time() * 1000)
        metrics = [
            MlflowMetric(
                metric.name,
                metric.value,
                now_ms if metric.name in known else metric.time_ms,
                metric.step,
                model_id=self._known_models()[metric.model] if metric.model else None,
                dataset_name=metric.dataset.name if metric.dataset else None,
                dataset_digest=metric.dataset.digest if metric.dataset else None,
            )
            for metric in run.metrics
            if known.get(metric.name) != latest[metric.name]
        ]
        params, changed = (
            [Param(*item) for item in run.params.items()],
            [RunTag(*item) for item in tags.items()] if old else [],
        )
        client.log_batch(run_id, metrics, params, changed)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in run.files.items():
                (Path(folder) / name).write_bytes(data)
            client.log_artifacts(run_id, folder)
        if run.end_ms is not None:
            client.set_terminated(run_id, run.status, run.end_ms)
        else:
            client.update_run(run_id, run.status)
        # The digest comes last, because it marks the run as complete.
        client.set_tag(run_id, "mosweep.digest", run.tags["mosweep.digest"])

    def _reusable(self, run: Run, latest: Mapping[str, float]) -> Any:
        """The trial's existing run, if it can be extended to ``run``. Otherwise it is deleted."""
        run_id = self._run_ids.get(run.trial)
        if run_id is None:
            return None
        old = self._client.get_run(run_id)
        if old.info.lifecycle_stage == "deleted":
            self._client.restore_run(run_id)
        curves = {metric.name for metric in run.metrics if metric.step}
        changed = {name for name, value in old.data.metrics.items() if latest.get(name) != value}
        if old.data.params.items() <= run.params.items() and changed <= latest.keys() - curves:
            return old
        self._client.delete_run(run_id)
        linked = {output.model_id for output in (old.outputs.model_outputs if old.outputs else ())}
        for key, model_id in [item for item in self._known_models().items() if item[1] in linked]:
            if self._client.get_logged_model(model_id).source_run_id == run_id:
                self._client.delete_logged_model(self._known_models().pop(key))
        return None

    def _known_models(self) -> dict[str, str]:
        """The ids of the experiment's models, by key."""
        if self._model_ids is None:
            models = _pages(self._client.search_logged_models, [self.experiment_id])
            self._model_ids = {
                model.tags["mosweep.key"]: model.model_id
                for model in models
                if "mosweep.key" in model.tags
            }
        return self._model_ids

    def _model_id(self, model: Model, run_id: str) -> str:
        known = self._known_models()
        if model.key not in known:
            source = self._run_ids.get(model.source, run_id) if model.source is not None else None
            made = self._client.create_logged_model(
                self.experiment_id,
                model.name,
                source,
                dict(model.tags),
                dict(model.params),
                model.type,
            )
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "MLmodel").write_bytes(
                    model_file(model, made.model_id, source, made.artifact_location)
                )
                self._client.log_model_artifacts(made.model_id, folder)
            self._client.finalize_logged_model(made.model_id, "READY")
            known[model.key] = made.model_id
        return known[model.key]


def _dataset_input(dataset: Dataset) -> DatasetInput:
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    entity = MlflowDataset(
        dataset.name, dataset.digest, "local", dataset.source, profile=dataset.profile
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)])


def _pages(search: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable temporarily, unless it is set."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
