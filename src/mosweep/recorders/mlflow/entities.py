"""The runs, models, data sets and scores to write to MLflow, as plain data for both writers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Dataset", "Metric", "Model", "Run", "model_file"]


@dataclass(frozen=True)
class Dataset:
    """An input data set of a run. ``context`` is ``training`` or ``eval``."""

    name: str
    digest: str
    source: str
    profile: str | None
    context: str


@dataclass(frozen=True)
class Metric:
    """One value. ``model`` is the key of its model, and ``dataset`` the evaluation's data set."""

    name: str
    value: float
    time_ms: int
    step: int = 0
    model: str | None = None
    dataset: Dataset | None = None


@dataclass(frozen=True)
class Model:
    """A logged model whose files are not in MLflow.

    ``key`` identifies it in the experiment. ``source`` is the name of its trial.
    """

    key: str
    name: str
    type: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    created_ms: int
    source: str | None = None


@dataclass(frozen=True)
class Run:
    """The run of a trial, or of the whole sweep if ``trial`` is empty.

    ``files`` are its text artifacts.
    """

    trial: str
    name: str
    status: str
    start_ms: int
    end_ms: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    datasets: tuple[Dataset, ...] = ()
    inputs: tuple[Model, ...] = ()
    outputs: tuple[Model, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def sweep(self) -> str:
        """The identity of its sweep."""
        return self.tags["mosweep.sweep.folder"]


def model_file(model: Model, model_id: str, run_id: str | None, location: str) -> bytes:
    """The ``MLmodel`` file of a model stored elsewhere, in JSON. It is needed to register it."""
    created = time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime(model.created_ms / 1000))
    any_input = '[{"type": "boolean", "required": true}]'
    data = {
        "artifact_path": location,
        "flavors": {},
        "metadata": {"mlflow.model.isExternal": True},
        "model_id": model_id,
        "model_uuid": model_id,
        "run_id": run_id,
        "signature": {"inputs": any_input, "outputs": any_input, "params": None},
        "utc_time_created": created,
    }
    return json.dumps(data, indent=0).encode()
