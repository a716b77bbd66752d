"""Recording in MLflow: the real one, read back through its own client."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import known

from mosweep.core.errors import MissingExtra
from mosweep.core.events import SweepFinished
from mosweep.core.results import SweepResult, TrialResult
from mosweep.core.work import EVAL
from mosweep.recorders.base import Projection, ProjectionWarning
from mosweep.recorders.mlflow import MARKER, MLflowRecorder, project, sqlite

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

#: MLflow 3.17.2 with SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

Sweep = Callable[..., SweepResult]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrating takes a second: once for all tests that are not about it."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    sqlite._create(file)
    return file


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(params=["sqlite", "client"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of writing: straight into SQLite, and through MLflow's client as for an unknown
    schema.
    """
    if request.param == "client":
        monkeypatch.setattr(sqlite, "REVISIONS", frozenset())
    return str(request.param)


def client(uri: str, tmp_path: Path) -> Any:
    """A client on a copy: MLflow keeps connections to files that were deleted."""
    from mlflow import MlflowClient

    if not uri.startswith("sqlite"):
        return MlflowClient(tracking_uri=uri)
    copy = tmp_path / f"copy-{time.monotonic_ns()}.db"
    shutil.copy(uri.removeprefix("sqlite:///"), copy)
    return MlflowClient(tracking_uri=f"sqlite:///{copy}")


def mlflow_client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def seen(uri: str, tmp_path: Path) -> dict[str, Any]:
    """Everything that MLflow tells about the experiment, with names instead of generated ids."""
    mlflow = client(uri, tmp_path)
    experiment = mlflow.get_experiment_by_name("letters")
    runs = [
        mlflow.get_run(run.info.run_id) for run in mlflow.search_runs([experiment.experiment_id])
    ]
    models = {
        model.model_id: mlflow.get_logged_model(model.model_id)
        for model in mlflow.search_logged_models([experiment.experiment_id])
    }
    run_names = {run.info.run_id: run.info.run_name for run in runs} | {None: None}
    model_names = {model_id: model.name for model_id, model in models.items()}

    def metric(metric: Any) -> tuple[Any, ...]:
        return metric.key, metric.value, metric.step, metric.timestamp

    def run_content(run: Any) -> dict[str, Any]:
        tags = run.data.tags
        paths = sorted(file.path for file in mlflow.list_artifacts(run.info.run_id))
        return {
            "info": (
                run.info.status,
                run.info.start_time,
                run.info.end_time,
                run.info.user_id,
                run.info.lifecycle_stage,
            ),
            "params": run.data.params,
            "metrics": run.data.metrics,
            "history": sorted(
                metric(m)
                for name in run.data.metrics
                for m in mlflow.get_metric_history(run.info.run_id, name)
            ),
            "tags": {k: v for k, v in tags.items() if k != "mlflow.parentRunId"},
            "parent": run_names[tags.get("mlflow.parentRunId")],
            "datasets": [
                (d.dataset.to_dictionary(), [(t.key, t.value) for t in d.tags])
                for d in run.inputs.dataset_inputs
            ],
            "inputs": sorted(
                model_names.get(m.model_id, "deleted") for m in run.inputs.model_inputs
            ),
            "outputs": sorted(
                (model_names.get(m.model_id, "deleted"), m.step) for m in run.outputs.model_outputs
            ),
            "files": {
                path: Path(mlflow.download_artifacts(run.info.run_id, path)).read_text()
                for path in paths
            },
        }

    def model_content(model: Any) -> dict[str, Any]:
        scores = [
            (*metric(m), m.dataset_name, m.dataset_digest, run_names.get(m.run_id, "deleted"))
            for m in model.metrics or []
        ]
        about = (model.model_type, str(model.status), run_names[model.source_run_id or None])
        return {
            "about": about,
            "params": model.params,
            "tags": model.tags,
            "scores": sorted(scores),
        }

    found = {
        "experiment": experiment.tags,
        "runs": {run.info.run_name: run_content(run) for run in runs},
    }
    assert len(found["runs"]) == len(runs)
    return {**found, "models": {model.name: model_content(model) for model in models.values()}}


def run_ids(uri: str, tmp_path: Path) -> dict[str, str]:
    return {run.info.run_name: run.info.run_id for run in client(uri, tmp_path).search_runs(["1"])}


def test_trial_shows_factors_scores_data_and_models(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    result = sweep()
    assert project(result, uri) == Projection(
        created=3,
        page="#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=mosweep",
    )
    found = seen(uri, tmp_path)
    assert set(found["runs"]) == {"letters", *(trial.name for trial in result.trials)}
    run = found["runs"]["model=tiny,lora.rank=64"]
    assert run["info"][0] == "FINISHED"
    assert run["info"][2] - run["info"][1] == 5 * 30_000  # five stages of 30 s
    assert run["parent"] == "letters"
    assert run["params"] == {
        "model": "tiny",
        "lora.rank": "64",
        "dataset": "words",
        "task": "capitalization,reversal",
    }
    scores = {
        "capitalization/accuracy": 0.314,
        "capitalization/stderr": 0.01,
        "reversal/accuracy": 0.414,
        "reversal/stderr": 0.01,
    }
    assert run["metrics"] == pytest.approx(
        {**scores, "train/loss": 0.4, "train/chosen_reward": 0.5}
    )
    assert sorted((m[2], m[1]) for m in run["history"] if m[0] == "train/loss") == [
        (step, 2.0 / (step + 1)) for step in range(5)
    ]
    assert sorted((m[2], m[1]) for m in run["history"] if m[0] == "train/chosen_reward") == [
        (step, step / 8) for step in range(5)
    ]
    ((dataset, context),) = run["datasets"]
    assert (dataset["name"], dataset["digest"], json.loads(dataset["profile"])) == (
        "words",
        "d1" * 16,
        {"num_rows": 1000},
    )
    assert context == [("mlflow.data.context", "training")]
    assert (run["inputs"], run["outputs"]) == (
        ["model=tiny,lora_rank=64", "tiny"],
        [("model=tiny,lora_rank=64", 0)],
    )
    assert set(run["files"]) == {"config.yaml", "summary.json"}
    assert json.loads(run["files"]["summary.json"])["metrics"] == pytest.approx(scores)
    trial = result.trials[2]
    assert run["tags"]["mosweep.id"] == trial.id
    assert run["tags"]["mosweep.stage.finetune"] == trial.stages[2].key
    assert run["tags"]["mosweep.control"] == "false"

    model = found["models"]["model=tiny,lora_rank=64"]
    assert model["about"] == ("finetune", "READY", "model=tiny,lora.rank=64")
    assert model["params"] == {"model": "tiny", "lora.rank": "64", "dataset": "words"}
    assert {s[0]: (s[1], *s[4:]) for s in model["scores"]}["capitalization/accuracy"] == (
        0.314,
        "words",
        "d1" * 16,
        trial.name,
    )
    assert found["models"]["tiny"]["about"] == ("base", "READY", None)
    assert {s[-1] for s in found["models"]["tiny"]["scores"]} == {"model=tiny,control"}
    assert found["runs"]["model=tiny,control"]["datasets"][0][1] == [
        ("mlflow.data.context", "eval")
    ]
    assert found["runs"]["letters"]["files"].keys() == {"experiment.yaml", "design.json"}


def test_models_and_runs_can_be_searched_and_registered(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    project(sweep(), uri)
    mlflow = client(uri, tmp_path)

    def models(text: str) -> list[str]:
        return [model.name for model in mlflow.search_logged_models(["1"], filter_string=text)]

    assert models("metrics.`capitalization/accuracy` > 0.3") == ["model=tiny,lora_rank=64"]
    assert models("params.`lora.rank` = '4'") == ["model=tiny,lora_rank=4"]
    order = [
        {
            "field_name": "metrics.capitalization/accuracy",
            "ascending": False,
            "dataset_name": "words",
        }
    ]
    assert (
        mlflow.search_logged_models(["1"], order_by=order, max_results=1)[0].name
        == "model=tiny,lora_rank=64"
    )
    assert (
        len(mlflow.search_runs(["1"], "dataset.name = 'words' and dataset.context = 'training'"))
        == 2
    )
    assert [run.info.run_name for run in mlflow.search_runs(["1"], "params.`lora.rank` = '4'")] == [
        "model=tiny,lora.rank=4"
    ]
    assert len(mlflow.search_runs(["1"], "tags.`mosweep.control` = 'true'")) == 1

    from mlflow.models import Model

    (tuned,) = mlflow.search_logged_models(["1"], filter_string="params.`lora.rank` = '4'")
    written = Model.load(tuned.artifact_location)
    assert (written.model_id, written.run_id) == (tuned.model_id, tuned.source_run_id)
    mlflow.create_registered_model("best")
    version = mlflow.create_model_version(
        "best", tuned.artifact_location, tuned.source_run_id, model_id=tuned.model_id
    )
    assert version.run_id == tuned.source_run_id


@pytest.mark.parametrize(
    "options",
    [{}, {"dummy": True, "fail": (4,)}, {"models": ("tiny", "a/b:c.d'%"), "tasks": ("t",)}],
)
def test_both_ways_leave_the_same(
    sweep: Sweep,
    uri: str,
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    result = sweep(**options)
    project(result, uri)
    straight = seen(uri, tmp_path)
    other = tmp_path / "other.db"
    shutil.copy(empty_database, other)
    monkeypatch.setattr(sqlite, "REVISIONS", frozenset())
    assert project(result, f"sqlite:///{other}").created == len(result.trials)
    assert seen(f"sqlite:///{other}", tmp_path) == straight


def test_schema_of_the_installed_mlflow_is_known(empty_database: Path) -> None:
    with sqlite3.connect(empty_database) as database:
        (revision,) = database.execute("select version_num from alembic_version").fetchone()
    assert revision in sqlite.REVISIONS, (
        "a new schema: if the tests above pass with it, add it to REVISIONS"
    )


def test_unknown_schema_is_left_to_mlflow(sweep: Sweep, uri: str, tmp_path: Path) -> None:
    file = Path(uri.removeprefix("sqlite:///"))
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = 'future'")
    assert sqlite.connect(file, "letters", tmp_path) is None


def test_artifacts_elsewhere_are_left_to_mlflow(uri: str, tmp_path: Path) -> None:
    file = Path(uri.removeprefix("sqlite:///"))
    client_of_file = sqlite3.connect(file)
    client_of_file.execute(
        "insert into experiments (name, artifact_location, lifecycle_stage) values ('letters', "
        "'s3://b/x', 'active')"
    )
    client_of_file.commit()
    client_of_file.close()
    assert sqlite.connect(file, "letters", tmp_path) is None


@pytest.mark.parametrize(("shift", "unchanged"), [(0.0, 3), (0.5, 0)])
def test_needs_no_import_once_the_database_is_there(
    sweep: Sweep, uri: str, tmp_path: Path, shift: float, unchanged: int
) -> None:
    project(sweep(), uri)
    before = Path(uri.removeprefix("sqlite:///")).stat().st_mtime_ns
    code = (
        "import sys, conftest; from pathlib import Path; from mosweep.recorders.mlflow import "
        "project;"
        f"print(project(conftest.build(Path({str(tmp_path / 'multirun' / 'letters')!r}), "
        f"shift={shift}), {uri!r}).unchanged);"
        "print([name for name in ('mlflow', 'sqlalchemy', 'pandas', 'numpy') if name in "
        "sys.modules])"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(unchanged), "[]"]
    assert (Path(uri.removeprefix("sqlite:///")).stat().st_mtime_ns == before) == (unchanged == 3)


def test_missing_mlflow_says_what_to_install(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mosweep\[mlflow\]'"):
        project(sweep(), "http://127.0.0.1:9")


def test_changed_trials_are_updated_in_place(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    project(sweep(fail=(4,)), uri)
    ids = run_ids(uri, tmp_path)
    failed = seen(uri, tmp_path)["runs"]["model=tiny,lora.rank=4"]
    assert (failed["info"][0], failed["outputs"], failed["metrics"]) == ("FAILED", [], {})
    assert failed["tags"]["mosweep.error"] == "finetune: out of memory"
    writable = mlflow_client_of(uri)
    writable.set_tag(ids["model=tiny,lora.rank=4"], "mine", "kept")
    writable.set_tag(ids["letters"], "mlflow.note.content", "my note")

    outcome = project(sweep(), uri)
    assert (outcome.created, outcome.updated, outcome.unchanged) == (0, 1, 2)
    assert run_ids(uri, tmp_path) == ids
    run = seen(uri, tmp_path)["runs"]["model=tiny,lora.rank=4"]
    assert (run["info"][0], run["outputs"]) == ("FINISHED", [("model=tiny,lora_rank=4", 0)])
    assert run["metrics"]["capitalization/accuracy"] == 0.254
    assert run["tags"]["mine"] == "kept"
    assert "mosweep.error" not in run["tags"]
    sweep_run = seen(uri, tmp_path)["runs"]["letters"]
    assert (sweep_run["info"][0], sweep_run["tags"]["mlflow.note.content"]) == (
        "FINISHED",
        "my note",
    )
    assert "mosweep.trials.failed" not in sweep_run["tags"]


def test_other_scores_replace_the_old_ones(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    project(sweep(), uri)
    ids = run_ids(uri, tmp_path)
    result = sweep(shift=0.5)
    assert project(result, uri).updated == 3
    found = seen(uri, tmp_path)
    assert {
        name: run["metrics"].get("capitalization/accuracy")
        for name, run in found["runs"].items()
        if name != "letters"
    } == {trial.name: trial.metrics["capitalization/accuracy"] for trial in result.trials}
    assert run_ids(uri, tmp_path) == ids
    base_scores = [
        score
        for score in found["models"]["tiny"]["scores"]
        if score[0] == "capitalization/accuracy"
    ]
    assert max(base_scores, key=lambda score: score[3])[1] == 0.625
    assert way == "client" or len(base_scores) == 1


def test_what_is_gone_is_shown_no_more(sweep: Sweep, uri: str, tmp_path: Path, way: str) -> None:
    project(sweep(), uri)
    ids = run_ids(uri, tmp_path)
    assert project(sweep(fail=(4,), tasks=("capitalization",)), uri).updated == 3
    runs = seen(uri, tmp_path)["runs"]
    assert (
        runs["model=tiny,lora.rank=4"]["info"][0],
        runs["model=tiny,lora.rank=4"]["metrics"],
    ) == ("FAILED", {})
    assert runs["model=tiny,control"]["metrics"].keys() == {
        "capitalization/accuracy",
        "capitalization/stderr",
    }
    assert runs["model=tiny,control"]["parent"] == "letters"
    assert way == "client" or run_ids(uri, tmp_path) == ids
    project(sweep(), uri)
    found = seen(uri, tmp_path)
    assert found["runs"]["model=tiny,lora.rank=4"]["metrics"]["reversal/accuracy"] == pytest.approx(
        0.354
    )
    if way == "sqlite":
        assert found["models"]["model=tiny,lora_rank=4"]["about"][2] == "model=tiny,lora.rank=4"


def test_lost_marker_makes_no_duplicates(sweep: Sweep, uri: str, tmp_path: Path, way: str) -> None:
    result = sweep()
    project(result, uri)
    before = seen(uri, tmp_path)
    (result.folder / MARKER).write_text("{broken")
    assert project(result, uri).unchanged == 3
    assert seen(uri, tmp_path) == before
    assert json.loads((result.folder / MARKER).read_text())["recorded"].keys() == {
        "",
        *(trial.name for trial in result.trials),
    }


def test_deleted_database_is_rebuilt(sweep: Sweep, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    result = sweep()
    project(result, uri)
    before, ids = seen(uri, tmp_path), run_ids(uri, tmp_path)
    (tmp_path / "new" / "mlflow.db").unlink()
    assert project(result, uri).created == 3
    assert seen(uri, tmp_path) == before
    assert run_ids(uri, tmp_path) == ids
    assert project(result, uri).unchanged == 3


@pytest.mark.parametrize("what", ["experiment", "sweep", "trial", "model"])
def test_what_was_deleted_comes_back(
    sweep: Sweep, uri: str, tmp_path: Path, way: str, what: str
) -> None:
    result = sweep()
    project(result, uri)
    before = seen(uri, tmp_path)
    mlflow = mlflow_client_of(uri)
    ids = run_ids(uri, tmp_path)
    if what == "experiment":
        mlflow.delete_experiment("1")
    elif what == "sweep":
        mlflow.delete_run(ids["letters"])
    elif what == "trial":
        mlflow.delete_run(ids["model=tiny,lora.rank=4"])
    else:
        (model,) = mlflow.search_logged_models(["1"], filter_string="params.`lora.rank` = '4'")
        mlflow.delete_logged_model(model.model_id)
        mlflow.delete_run(ids["model=tiny,lora.rank=4"])
    if what in ("trial", "model"):  # not looked for while the marker stands
        assert project(result, uri).unchanged == 3
        (result.folder / MARKER).unlink()
    project(result, uri)
    after = seen(uri, tmp_path)
    # MLflow's client cannot bring a model back: there is a new one beside it
    if what == "model" and way == "client":
        assert "model=tiny,lora_rank=4" in after["models"]
        for found in (before, after):
            del found["models"]["model=tiny,lora_rank=4"]
            for name in ("inputs", "outputs"):
                del found["runs"]["model=tiny,lora.rank=4"][name]
    assert after == before


def test_trials_that_share_a_fine_tune_share_its_model(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    result = sweep(ranks=(4,))
    one = result.trials[1]
    split = tuple(
        TrialResult(
            f"{one.name},eval={n}",
            f"{n}" * 64,
            {**one.factors, "eval": n},
            False,
            (*one.stages[:3], one.stages[3 + n]),
            one.folder,
        )
        for n in range(2)
    )
    project(replace(result, trials=split), uri)
    found = seen(uri, tmp_path)
    model = found["models"]["model=tiny,lora_rank=4"]
    assert found["models"].keys() == {"model=tiny,lora_rank=4", "tiny"}
    assert model["about"][2] == split[0].name
    assert {(score[0], score[-1]) for score in model["scores"] if "accuracy" in score[0]} == {
        ("capitalization/accuracy", split[0].name),
        ("reversal/accuracy", split[1].name),
    }
    assert all(
        found["runs"][trial.name]["outputs"] == [("model=tiny,lora_rank=4", 0)] for trial in split
    )


def test_models_and_data_are_named_where_no_factor_does(
    sweep: Sweep, uri: str, tmp_path: Path
) -> None:
    """As torchtune and Inspect tell it: the model is held constant and prepared by a stage that
    does not know its name.
    """
    result = sweep(ranks=(4,), tasks=("capitalization",))
    trials = []
    for trial in result.trials:
        changes: dict[str, dict[str, Any]] = {
            "model": {"name": "generated"},
            "finetune": {"model_id": "torchtune/tiny@0123abc"},
            "eval": {"model_id": "tiny" if trial.control else "torchtune/tiny@0123abc"},
        }
        records = [
            {**known(stage.record), "facts": {**stage.facts, **changes.get(stage.kind.name, {})}}
            for stage in trial.stages
        ]
        needs = [
            {"tuned": s.needs["model"], "model": trial.stages[0].key} if s.kind == EVAL else s.needs
            for s in trial.stages
        ]
        stages = tuple(
            replace(stage, record=record, needs=need)
            for stage, record, need in zip(trial.stages, records, needs, strict=True)
        )
        factors = {name: value for name, value in trial.factors.items() if name != "model"}
        trials.append(
            TrialResult(trial.name, trial.id, factors, trial.control, stages, trial.folder)
        )
    project(replace(result, trials=tuple(trials)), uri)
    found = seen(uri, tmp_path)
    assert found["models"].keys() == {"tiny", "tiny,lora_rank=4"}
    assert found["models"]["tiny"]["scores"][0][-1] == "model=tiny,control"
    assert found["models"]["tiny,lora_rank=4"]["scores"][0][-1] == "model=tiny,lora.rank=4"
    # the evaluation did not say that it used the data set
    assert {score[4] for score in found["models"]["tiny"]["scores"]} == {None}
    run = found["runs"]["model=tiny,lora.rank=4"]
    assert (run["params"]["model"], run["params"]["dataset"]) == ("tiny", "words")
    assert (run["inputs"], run["outputs"]) == (
        ["tiny", "tiny,lora_rank=4"],
        [("tiny,lora_rank=4", 0)],
    )


def test_base_model_without_a_stage_is_shown_by_name(
    sweep: Sweep, uri: str, tmp_path: Path
) -> None:
    result = sweep(ranks=(4,), tasks=("capitalization",), dummy=True)
    base = result.trials[0].stages[0].key
    trials = tuple(
        replace(
            t,
            stages=tuple(
                replace(s, needs={r: k for r, k in s.needs.items() if k != base})
                for s in t.stages[1:]
            ),
        )
        for t in result.trials
    )
    project(replace(result, trials=trials), uri)
    found = seen(uri, tmp_path)
    assert found["models"]["tiny"]["about"] == ("base", "READY", None)
    assert {score[-1] for score in found["models"]["tiny"]["scores"]} == {"model=tiny,control"}
    assert found["runs"]["model=tiny,lora.rank=4"]["inputs"] == ["model=tiny,lora_rank=4", "tiny"]


def test_error_that_repeats_a_key_is_withheld(sweep: Sweep, uri: str, tmp_path: Path) -> None:
    result = sweep(ranks=(4,), fail=(4,))
    bad = result.trials[1]
    stages = (
        *bad.stages[:2],
        replace(bad.stages[2], error="401: incorrect key sk-abcdefghijklmnopqrstuvwx"),
    )
    project(replace(result, trials=(replace(bad, stages=stages),)), uri)
    assert "sk-abcdef" not in str(seen(uri, tmp_path))


def test_dummy_is_marked(sweep: Sweep, uri: str, tmp_path: Path) -> None:
    project(sweep(dummy=True), uri)
    found = seen(uri, tmp_path)
    trials = [run for name, run in found["runs"].items() if name != "letters"]
    assert all(run["params"]["dummy"] == run["tags"]["mosweep.dummy"] == "true" for run in trials)
    assert all(
        model["params"]["dummy"] == model["tags"]["mosweep.dummy"] == "true"
        for model in found["models"].values()
    )


def test_one_bad_trial_does_not_lose_the_others(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    result = sweep()
    bad = result.trials[1]
    record = {**bad.stages[2].record, "facts": {"loss": [["x", "y"]]}}  # type: ignore[dict-item]
    stages = (*bad.stages[:2], replace(bad.stages[2], record=record), *bad.stages[3:])
    with pytest.warns(ProjectionWarning, match=r"model=tiny,lora\.rank=4 was not recorded"):
        outcome = project(
            replace(
                result, trials=(result.trials[0], replace(bad, stages=stages), result.trials[2])
            ),
            uri,
        )
    assert (outcome.created, outcome.failed) == (2, 1)
    assert project(result, uri).created == 1
    assert len(seen(uri, tmp_path)["runs"]) == 4


def test_names_and_values_beyond_mlflows_limits(
    sweep: Sweep, uri: str, tmp_path: Path, way: str
) -> None:
    result = sweep(ranks=())
    factors = {"dataset@train": [1, {"a": None}], "a//b[0]": "x" * 9000, "flag": True}
    trial = replace(result.trials[0], factors=factors)
    project(replace(result, trials=(trial,)), uri)
    params = seen(uri, tmp_path)["runs"][trial.name]["params"]
    assert (params["dataset_train"], params["a/b_0_"], params["flag"]) == (
        '[1, {"a": null}]',
        "x" * 6000,
        "true",
    )


def test_processes_that_start_together_write_once(sweep: Sweep, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    folders = [tmp_path / "multirun" / name for name in ("letters", "letters", "letters", "more")]
    code = (
        "import sys, warnings, conftest; from pathlib import Path; from mosweep.recorders.mlflow "
        "import project;"
        "result = conftest.build(Path(sys.argv[1])); print('ready', flush=True); input();"
        "outcome = project(result, sys.argv[2]); print(outcome.created, outcome.unchanged)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), uri], env=environment, **pipes)
        for folder in folders
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"  # type: ignore[union-attr]
    outputs = []
    for worker in workers:
        worker.stdin.write("\n")  # type: ignore[union-attr]
        worker.stdin.flush()  # type: ignore[union-attr]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert (worker.returncode, err) == (0, "")
        outputs.append(out.strip())
    assert sorted(outputs) == ["0 3", "0 3", "3 0", "3 0"]
    assert len(client(uri, tmp_path).search_runs(["1"])) == 8


def test_recorder_warns_and_lets_the_sweep_end(sweep: Sweep, uri: str, tmp_path: Path) -> None:
    MLflowRecorder(uri).sweep_finished(SweepFinished(sweep()))
    assert len(seen(uri, tmp_path)["runs"]) == 4
    (tmp_path / "file").write_text("")
    with pytest.warns(ProjectionWarning, match="mosweep sync"):
        MLflowRecorder(f"sqlite:///{tmp_path}/file/mlflow.db").sweep_finished(
            SweepFinished(sweep())
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "files"),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.fail(
                    f"MLflow's server does not answer:\n{(tmp_path / 'server.log').read_text()}"
                )
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 15)
    process.wait(30)


def test_server(
    sweep: Sweep, uri: str, server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = sweep(fail=(4,), dummy=True)
    assert project(result, server).created == 3
    assert capfd.readouterr() == ("", "")
    remote = seen(server, tmp_path)
    assert project(result, server).unchanged == 3
    (result.folder / MARKER).unlink()
    assert project(result, server).unchanged == 3
    project(result, uri)
    assert seen(uri, tmp_path) == remote


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "silent"])
def test_a_server_that_does_not_answer_costs_seconds_and_one_line(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr("mosweep.recorders.mlflow.client.ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not silent:
            server.close()
        started = time.monotonic()
        with pytest.warns(ProjectionWarning) as told:
            MLflowRecorder(f"http://me:secret@127.0.0.1:{port}").sweep_finished(
                SweepFinished(sweep())
            )
    assert time.monotonic() - started < 20
    [line] = [str(one.message) for one in told]
    assert line.startswith(f"not recorded in MLflow (http://127.0.0.1:{port} does not answer: ")
    assert line.endswith("run `mosweep sync` later")
    assert "secret" not in line


def test_marker_keeps_no_password(sweep: Sweep, uri: str, tmp_path: Path) -> None:
    result = sweep(ranks=())
    project(result, f"{uri}?password=hunter2")
    assert "hunter2" not in (result.folder / MARKER).read_text()


def test_recording_is_cheaper_than_the_bare_loop(sweep: Sweep, uri: str, tmp_path: Path) -> None:
    from mlflow.entities import Metric, Param

    result = sweep(ranks=range(100), tasks=("t", "u"))
    mlflow = mlflow_client_of(uri)
    experiment = mlflow.create_experiment("bare", (tmp_path / "bare").as_uri())
    began = time.process_time()
    for trial in result.trials:
        run = mlflow.create_run(
            experiment, tags={f"t{n}": "v" * 64 for n in range(8)}, run_name=trial.name
        )
        params = [Param(name, str(value)) for name, value in trial.factors.items()]
        mlflow.log_batch(
            run.info.run_id,
            [Metric(name, value, 1, 0) for name, value in trial.metrics.items()],
            params,
        )
        mlflow.log_artifacts(run.info.run_id, str(trial.folder))
        mlflow.set_terminated(run.info.run_id)
    bare_s = time.process_time() - began
    began = time.process_time()
    assert project(result, uri).created == 101
    assert time.process_time() - began < 0.5 * bare_s
