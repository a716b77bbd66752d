"""The main job for real: torchtune trains, Inspect evaluates, MLflow records; then what users do
next.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import Shell

pytestmark = pytest.mark.real

GRID = ("model=tiny,tiny-wide", "lora.rank=4,64", "experiment.name=demo")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder in which the README's sweep has run; the tests below build on one another's stages,
    never on their order.
    """
    shell = Shell(tmp_path_factory.mktemp("demo"))
    done = shell("-m", *GRID, timeout=600)
    assert done.status == 0, done.out + done.err
    return shell


def started(shell: Shell, name: str) -> list[str]:
    return [event["label"] for event in shell.journal(name) if event["event"] == "started"]


def test_tuned_models_capitalise_and_base_models_do_not(demo: Shell) -> None:
    trials = demo.summary("demo")
    assert len(trials) == 6
    for trial in trials.values():
        accuracy = trial["metrics"]["capitalization/accuracy"]
        assert (accuracy < 0.1) if trial["control"] else (accuracy > 0.8), trial
    stages = {stage["key"]: stage["kind"] for trial in trials.values() for stage in trial["stages"]}
    assert Counter(stages.values()) == {"data": 1, "model": 2, "finetune": 4, "eval": 6}


def test_again_nothing_runs(demo: Shell) -> None:
    before = len(started(demo, "demo"))
    done = demo("-m", *GRID)
    assert done.status == 0
    assert "nothing to do" in done.out
    assert len(started(demo, "demo")) == before


def test_trial_folder_holds_native_config_log_and_results(demo: Shell) -> None:
    folder = demo.folder / "multirun" / "demo" / "model=tiny,lora.rank=4"
    native = yaml.safe_load((folder / "finetune" / "torchtune.yaml").read_text())
    assert (native["model"]["lora_rank"], native["model"]["lora_alpha"]) == (4, 8)
    assert (folder / "finetune" / "adapter" / "adapter_model.safetensors").exists()
    assert (folder / "finetune" / "merged" / "config.json").exists()
    assert (folder / "finetune" / "torchtune.log").stat().st_size > 0
    assert list((folder / "eval:capitalization").glob("*.eval"))
    rows = (folder / "eval:capitalization" / "samples.jsonl").read_text().splitlines()
    assert len(rows) == 200
    assert yaml.safe_load((folder / "config.yaml").read_text())["lora"]["rank"] == 4


def test_a_rank_more_runs_two_fine_tunes_and_their_evaluations(demo: Shell) -> None:
    before = len(started(demo, "demo"))
    done = demo(
        "-m", "model=tiny,tiny-wide", "lora.rank=4,16,64", "experiment.name=demo", timeout=600
    )
    assert done.status == 0, done.out
    assert sorted(started(demo, "demo")[before:]) == ["eval:capitalization"] * 2 + ["finetune"] * 2


def test_a_second_evaluation_runs_evaluations_only(demo: Shell) -> None:
    done = demo(
        "-m",
        "model=tiny",
        "lora.rank=4",
        "eval.tasks=[capitalization,copying]",
        "experiment.name=second",
        timeout=600,
    )
    assert done.status == 0, done.out + done.err
    assert started(demo, "second") == ["eval:copying"] * 2
    trials = demo.summary("second")
    assert trials["control=true"]["metrics"]["copying/accuracy"] > 0.9
    assert trials["trial"]["metrics"]["copying/accuracy"] < 0.2


def test_explicit_default_is_the_same_stage(demo: Shell) -> None:
    done = demo(
        "plan",
        "model=tiny",
        "lora.rank=4",
        "lora.alpha=8",
        "optim.lr=0.003",
        "torchtune.batch_size=32",
        "--json",
    )
    assert done.json["stages"]["to_run"] == 0, done.out
    assert (
        demo("plan", "model=tiny", "lora.rank=4", "lora.alpha=32", "--json").json["stages"][
            "to_run"
        ]
        == 2
    )


def facts(shell: Shell, name: str) -> tuple[dict[str, Any], Path]:
    """Facts and folder of a sweep's only fine-tune."""
    store = shell.folder / ".mosweep" / "store"
    [stage] = [
        stage for stage in shell.summary(name)["trial"]["stages"] if stage["kind"] == "finetune"
    ]
    record = json.loads(
        (store / "records" / stage["key"][0] / f"{stage['key']}.json").read_text().splitlines()[0]
    )
    return record["facts"], store / record["folder"]


def test_a_killed_fine_tune_goes_on(demo: Shell) -> None:
    words = (
        "-m",
        "model=tiny",
        "lora.rank=4",
        "optim.epochs=3",
        "run_control_trials=false",
        "tracking=none",
        "experiment.name=killed",
    )
    process = demo.start(*words, start_new_session=True)
    store = demo.folder / ".mosweep" / "store"
    while not (found := list(store.glob("artifacts/*/*/run/work/recipe_state/recipe_state.pt"))):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    again = demo(*words, timeout=600)
    assert again.status == 0, again.out + again.err
    known, folder = facts(demo, "killed")
    [killed] = [path.parents[3] for path in found]
    assert folder != killed
    assert 0 < known["resumed_at_step"] < known["steps"]
    assert [step for step, _ in json.loads((folder / "losses.json").read_text())] == list(
        range(1, known["steps"] + 1)
    )
    assert (killed / "log.txt").exists()
    assert not (killed / "run" / "work").exists()


def test_two_processes_fine_tune_together(demo: Shell) -> None:
    words = (
        "model=tiny",
        "lora.rank=64",
        "seed=7",
        "resources.stages.finetune.gpus=2",
        "run_control_trials=false",
        "tracking=none",
    )
    done = demo("-m", *words, "experiment.name=two", timeout=600)
    assert done.status == 0, done.out + done.err
    assert facts(demo, "two")[0]["world_size"] == 2
    assert demo.summary("two")["trial"]["metrics"]["capitalization/accuracy"] > 0.8


def test_mlflow_knows_what_the_disk_knows(demo: Shell) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{demo.folder}/.mosweep/mlflow.db")
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for name, trial in demo.summary("demo").items():
        run = runs[name]
        assert (
            run.data.metrics["capitalization/accuracy"]
            == trial["metrics"]["capitalization/accuracy"]
        )
        for factor, level in trial["factors"].items():
            assert run.data.params[factor] == str(level)
    tuned = client.get_run(runs["model=tiny,lora.rank=64"].info.run_id)
    assert [d.dataset.name for d in tuned.inputs.dataset_inputs]
    assert tuned.outputs.model_outputs


def test_sync_rebuilds_a_lost_database(demo: Shell) -> None:
    (demo.folder / ".mosweep" / "mlflow.db").unlink()
    done = demo("sync", "demo", "--json")
    assert done.status == 0, done.err
    assert done.json[0]["failed"] == 0
    assert done.json[0]["created"] == len(demo.summary("demo"))
    test_mlflow_knows_what_the_disk_knows(demo)


OWN_DATA = """
import json
from pathlib import Path

def build(dataset, data_dir):
    with open({calls!r}, "a") as calls:
        calls.write(dataset + "\\n")
    rows = [{{"messages": [{{"role": "user", "content": w}}, \
{{"role": "assistant", "content": w[::-1]}}]}}
            for w in (a + b + c for a in "abcdef" for b in "ghijkl" for c in "mnopqr")]
    Path(data_dir, f"{{dataset}}.json").write_text(\
json.dumps({{"train": rows[:160], "validation": rows[160:170]}}))
"""
OWN_EVAL = """
import json
from pathlib import Path
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import accuracy, includes, match, mean, scorer, stderr, Score
from inspect_ai.solver import generate

@scorer(metrics=[mean(), stderr()])
def length():
    async def score(state, target):
        return Score(value=float(len(state.output.completion)))
    return score

@task
def reversal(data_path: str, split: str = "train", first: int = 3):
    rows = json.loads(next(Path(data_path).glob("own.json")).read_text())[split][:first]
    samples = [Sample(input=r["messages"][0]["content"], \
target=r["messages"][1]["content"]) for r in rows]
    return Task(dataset=samples, solver=generate(), scorer=[match(), includes(), length()])
"""


@pytest.fixture
def own_task(demo: Shell, tmp_path: Path) -> Path:
    """A user's own task folder, elsewhere: data in one JSON file of splits, several scorers."""
    folder = tmp_path / "my tasks" / "reversal"
    folder.mkdir(parents=True)
    (folder / "data.py").write_text(OWN_DATA.format(calls=str(tmp_path / "calls")))
    (folder / "eval.py").write_text(OWN_EVAL)
    (folder / "eval.yaml").write_text("split: validation\nfirst: 10\n")
    return folder


def test_a_users_own_task_folder(demo: Shell, own_task: Path, tmp_path: Path) -> None:
    words = (
        f"tasks_dir={own_task.parent}",
        "task=reversal",
        "dataset=own",
        "optim.epochs=1",
        "inspect.max_tokens=8",
    )
    done = demo("-m", *words, "seed=0,1", "experiment.name=own", timeout=600)
    assert done.status == 0, done.out + done.err
    trial = demo.summary("own")["seed=0"]
    assert set(trial["metrics"]) >= {
        "reversal/match/accuracy",
        "reversal/includes/accuracy",
        "reversal/mean",
    }
    assert (tmp_path / "calls").read_text() == "own\n"
    assert "n" in done.out
    # An edited evaluation is another evaluation, of the same fine-tunes.
    (own_task / "eval.py").write_text(OWN_EVAL.replace("first: int = 3", "first: int = 4"))
    again = demo("plan", *words, "seed=0,1", "--json")
    assert {job["kind"] for job in again.json["jobs"]} == {"eval"}


def test_an_evaluation_that_fails_is_no_score(demo: Shell, own_task: Path) -> None:
    (own_task / "eval.py").write_text(
        OWN_EVAL.replace("return Score", "raise RuntimeError('scorer broke'); return Score")
    )
    words = (
        f"tasks_dir={own_task.parent}",
        "task=reversal",
        "dataset=own",
        "optim.epochs=1",
        "tracking=none",
    )
    done = demo(
        "-m", *words, "seed=0", "run_control_trials=false", "experiment.name=broken", timeout=600
    )
    assert done.status == 1
    trial = demo.summary("broken")["trial"]
    assert (trial["status"], trial["metrics"]) == ("failed", {})
    assert "scorer broke" in trial["stages"][-1]["error"]
    assert Path(trial["stages"][-1]["log"]).exists()


BAD_DATA = {
    "train.jsonl": "def build(dataset, data_dir):\n    pass\n",
    "line 1": "def build(dataset, data_dir):\n    (data_dir / "
    "'train.jsonl').write_text('{\"messages\": []}\\n')\n",
    "lost": "def build(dataset, data_dir):\n    raise KeyError('lost')\n",
    "build(dataset, data_dir)": "x = 1\n",
}


def test_data_that_is_not_there_says_what_was_expected(demo: Shell, own_task: Path) -> None:
    words = (
        f"tasks_dir={own_task.parent}",
        "task=reversal",
        "dataset=own",
        "tracking=none",
        "experiment.name=nodata",
    )
    for problem, code in BAD_DATA.items():
        (own_task / "data.py").write_text(code)
        done = demo("-m", *words)
        assert done.status == 1
        trials = demo.summary("nodata")
        assert set(trials) == {"trial", "control=true"}, (
            "the same trial with edited code takes the place of the one before"
        )
        stage = trials["trial"]["stages"][0]
        assert (stage["kind"], stage["status"]) == ("data", "failed")
        assert problem in stage["error"]


def test_a_data_set_of_ones_own(demo: Shell, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": w}, {"role": "assistant", "content": w.upper()}]}
        for w in ("abcd", "efgh") * 40
    ]
    source = tmp_path / "my data.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = source.stat()
    words = (
        "dataset=mine",
        f"dataset.path='{source}'",
        "control=false",
        "inspect.task_args.data_path=.",
        "tracking=none",
    )
    plan = demo("plan", *words, "--json")
    assert plan.status == 0, plan.err
    assert [job["kind"] for job in plan.json["jobs"]].count("data") == 1
    (tmp_path / "sets" / "mine").mkdir(parents=True)
    (tmp_path / "sets" / "mine" / "train.jsonl").write_text(source.read_text())
    assert demo("plan", "dataset=mine", f"data_dir='{tmp_path / 'sets'}'", "--json").status == 0
    assert source.stat().st_mtime_ns == before.st_mtime_ns


class _Upper(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint whose model answers in capitals."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = request["messages"][-1]["content"].upper()
        message = {"role": "assistant", "content": answer}
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [choice],
            "usage": usage,
        }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_model_behind_an_api_is_evaluated_by_its_inspect_name(demo: Shell) -> None:
    (demo.folder / "conf" / "model").mkdir(parents=True, exist_ok=True)
    (demo.folder / "conf" / "model" / "remote.yaml").write_text(
        "name: remote\ninspect: openai-api/local/shouter\n"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), _Upper) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        key = "secret-0b3f"
        env = {
            "LOCAL_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}/v1",
            "LOCAL_API_KEY": key,
        }
        done = demo(
            "model=remote", "control=true", "inspect.limit=5", "experiment.name=api", env=env
        )
        server.shutdown()
    assert done.status == 0, done.out + done.err
    assert "1.000" in done.out
    assert (
        "providers: 25 read, 25 written tokens; USD unknown: no price for local/shouter in "
        "recipes/prices.yaml"
    ) in done.out
    assert not [
        path
        for path in demo.folder.rglob("*")
        if path.is_file() and key.encode() in path.read_bytes()
    ]


def test_a_diverged_fine_tune_is_a_failure_with_its_log(demo: Shell) -> None:
    done = demo(
        "-m",
        "optim.lr=1e30",
        "run_control_trials=false",
        "tracking=none",
        "experiment.name=nan",
        timeout=600,
    )
    assert done.status == 1, done.out
    stage = next(
        stage for stage in demo.summary("nan")["trial"]["stages"] if stage["kind"] == "finetune"
    )
    assert stage["status"] == "failed"
    assert "loss" in stage["error"]
    assert Path(stage["log"]).read_text()
