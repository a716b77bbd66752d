"""Real rounds: a run in parts is the run, a killed round is made again as it was, and the shipped
demo does what it says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell

from mosweep.backends.torchtune import resume
from mosweep.backends.torchtune.child import scheduler_of
from mosweep.backends.torchtune.training import Part, TorchtuneTrainingBackend
from mosweep.core.paths import shipped
from mosweep.stages.loop.schedule import Schedule

pytestmark = pytest.mark.real

RECIPE = shipped("recipes") / "torchtune" / "tiny.yaml"
DEMO = ("-m", "experiment=eval_driven", "run_control_trials=false", "tracking=none", "seed=0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """One folder for the tests below: they share the base model and, by the keys, whatever else is
    the same.
    """
    return Shell(tmp_path_factory.mktemp("eval driven"))


def test_the_optimizer_is_given_exactly_the_rates_whatever_it_had_before() -> None:
    import torch

    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=7.0)
    optimizer.param_groups[0]["initial_lr"] = 3.0
    rates = [Schedule(0.1, 0.01, 2, 9).lr(step) for step in range(1, 10)]
    scheduler = scheduler_of(rates, optimizer)
    taken = []
    for _ in rates:
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        taken.append(before - weight.item())
    assert taken == pytest.approx(rates, rel=1e-5)


def test_the_demo_misses_then_passes_and_a_killed_round_is_made_again_as_it_was(
    home: Shell,
) -> None:
    process = home.start(*DEMO, start_new_session=True)
    deadline = time.monotonic() + 240
    while not _started(home, "round 2"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = home(*DEMO)
    assert done.status == 0, done.err + done.out
    assert "] round 1 " not in done.out, "it was made"
    assert "] round 2 " in done.out
    (trial,) = home.summary("eval_driven").values()
    facts = {stage["label"]: _record(home, stage["key"])["facts"] for stage in trial["stages"]}
    assert facts["eval 1:capitalization"]["score"] < 0.9 <= facts["eval 2:capitalization"]["score"]
    assert facts["round 3"] == {"stopped": True, "reached": 2}
    assert trial["metrics"]["capitalization/accuracy"] == facts["eval 2:capitalization"]["score"]
    assert [row["score"] for row in facts["chosen"]["rounds"]] == [
        facts[f"eval {n}:capitalization"]["score"] for n in (1, 2)
    ]
    assert [step for step, _ in facts["chosen"]["loss"]] == list(range(1, 41))
    assert [facts[f"round {number}"]["data"]["position"] for number in (1, 2)] == [640, 1280]
    assert facts["round 2"]["lr"]["peak"] == pytest.approx(0.8 * 3e-3)
    folder = _folder(home, trial, "chosen")
    assert {path.name for path in folder.iterdir()} >= {
        "adapter",
        "merged",
        "losses.json",
        "torchtune.yaml",
    }
    assert not (folder / "state").exists()

    killed = _adapter(home, trial)
    again = home("run", "eval_driven", "--stage", "round 2", "--force")
    assert again.status == 0, again.err + again.out
    assert _adapter(home, trial) == killed


def test_a_run_in_two_parts_is_the_run_in_one(tmp_path: Path, home: Shell) -> None:
    """Adapter, optimizer, place in the schedule and in the data: all go on, to the last bit."""
    from safetensors.torch import load_file

    base, data = _base(home), _words(tmp_path, 8 * 16)

    async def train(name: str, rows: slice, rates: list[float], start: Path | None) -> Path:
        folder, part = tmp_path / name, tmp_path / f"{name}.jsonl"
        part.write_text("".join(data[rows]))
        config = {"batch_size": 16, "optimizer.lr": max(rates)}
        run = await TorchtuneTrainingBackend(RECIPE, folder, part=Part(tuple(rates), start)).train(
            part, base, config
        )
        await run.wait()
        assert run.result().steps == len(rates)
        return folder

    rates = [Schedule(3e-3, 1e-4, 2, 8).lr(step) for step in range(1, 9)]
    whole = asyncio.run(train("whole", slice(None), rates, None))
    first = asyncio.run(train("first", slice(5 * 16), rates[:5], None))
    second = asyncio.run(train("second", slice(5 * 16, None), rates[5:], first / "state"))
    one, other = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, second)
    )
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    losses = [json.loads((folder / "losses.json").read_text()) for folder in (whole, first, second)]
    assert [loss for _, loss in losses[0]] == [loss for _, loss in losses[1] + losses[2]]


@pytest.mark.parametrize(
    ("recipe", "cut", "words"),
    [("lora_finetune_distributed", False, "same resources"), ("r", True, "zip|damaged")],
)
def test_a_state_that_cannot_be_gone_on_from_is_refused(
    tmp_path: Path, recipe: str, cut: bool, words: str
) -> None:
    import torch

    state = tmp_path / "state"
    state.mkdir()
    torch.save(
        {"recipe": "r", "epochs_run": 1, "max_steps_per_epoch": None, "optimizer": {}},
        state / "recipe_state.pt",
    )
    torch.save({"a": torch.ones(2)}, state / "adapter_model.pt")
    if cut:
        (state / "adapter_model.pt").write_bytes((state / "adapter_model.pt").read_bytes()[:-100])
    with pytest.raises(Exception, match=words):
        resume.begin_part(state, tmp_path / "work", recipe, None)


def test_failed_groups_are_boosted_in_the_next_round(home: Shell) -> None:
    """The demo's first round and its evaluation are there: only the second round differs."""
    done = home(*DEMO, "loop.hard_examples=boost", "loop.hard_factor=4", "experiment.name=boosted")
    assert done.status == 0, done.err + done.out
    (trial,) = home.summary("boosted").values()
    stages = {stage["label"]: stage for stage in trial["stages"]}
    assert stages["eval 1:capitalization"]["cached"]
    assert not stages["round 2"]["cached"]
    about = _record(home, stages["round 2"]["key"])["facts"]["data"]
    samples = [
        json.loads(line)
        for line in (_folder(home, trial, "eval 1:capitalization") / "samples.jsonl")
        .read_text()
        .splitlines()
    ]
    for topic in ("repeated letters", "distinct letters"):
        mine = [sample for sample in samples if sample["metadata"]["topic"] == topic]
        failed = sum(sample["scores"]["match"] < 0.9 for sample in mine)
        assert about["groups"][f"topic={topic}"]["failed"] == failed > 0
        assert about["groups"][f"topic={topic}"]["samples"] == len(mine)
    assert sum(group["chosen"] for group in about["groups"].values()) == about["examples"] == 640
    assert 0 < about["hard"] == 640 - (about["position"] - 640)


def test_an_evaluation_error_is_a_failed_round(home: Shell) -> None:
    """The task's scorer fails on one sample of 200. No score comes of that, and no other round."""
    task = home.folder / "tasks" / "broken"
    task.mkdir(parents=True)
    (task / "eval.py").write_text(BROKEN)
    done = home(
        *DEMO,
        "loop.task=broken",
        "loop.metric=accuracy",
        "primary_metric=null",
        "experiment.name=broken",
    )
    assert done.status == 1
    (trial,) = home.summary("broken").values()
    status = {stage["label"]: stage["status"] for stage in trial["stages"]}
    assert status["round 1"] == "succeeded"
    assert status["eval 1:broken"] == "failed"
    assert set(list(status.values())[list(status).index("eval 1:broken") + 1 :]) == {"pending"}
    assert trial["metrics"] == {}
    (failed,) = [stage for stage in trial["stages"] if stage["status"] == "failed"]
    assert "this scorer cannot" in failed["error"]


BROKEN = """
import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, accuracy, scorer


@scorer(metrics=[accuracy()])
def touchy():
    async def score(state, target):
        if state.sample_id == 3:
            raise ValueError("this scorer cannot")
        return Score(value=1)

    return score


@task
def broken(data_path: str) -> Task:
    rows = [json.loads(line) for line in \
(Path(data_path) / "eval.jsonl").read_text().splitlines()[:4]]
    samples = [Sample(id=i, input=row["messages"][0]["content"], target="x") \
for i, row in enumerate(rows, 1)]
    return Task(dataset=samples, scorer=touchy(), config=GenerateConfig(max_tokens=4))
"""


def _base(home: Shell) -> Path:
    """The shipped tiny model, made for the demo."""
    done = home(*DEMO)
    assert done.status == 0, done.err
    (trial,) = home.summary("eval_driven").values()
    return _folder(home, trial, "model") / "model"


def _words(folder: Path, count: int) -> list[str]:
    rows = []
    for i in range(count):
        word = f"{i:04d}".translate(str.maketrans("0123456789", "abcdefghij"))
        rows.append(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": word},
                        {"role": "assistant", "content": word.upper()},
                    ]
                }
            )
            + "\n"
        )
    return rows


def _started(home: Shell, label: str) -> bool:
    path = home.folder / "multirun" / "eval_driven" / "journal.jsonl"
    return path.exists() and f'"label": "{label}"' in path.read_text()


def _record(home: Shell, key: str) -> dict[str, Any]:
    path = home.folder / ".mosweep" / "store" / "records" / key[:1] / f"{key}.json"
    record: dict[str, Any] = json.loads(path.read_text().splitlines()[0])
    return record


def _folder(home: Shell, trial: dict[str, Any], label: str) -> Path:
    (stage,) = [stage for stage in trial["stages"] if stage["label"] == label]
    return home.folder / ".mosweep" / "store" / str(_record(home, stage["key"])["folder"])


def _adapter(home: Shell, trial: dict[str, Any]) -> bytes:
    return (_folder(home, trial, "round 2") / "adapter" / "adapter_model.safetensors").read_bytes()
