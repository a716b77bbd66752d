"""Workflows: what runs, what is read from the store, and what is known about where things came
from.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import UserError
from mosweep.core.store import DamageWarning, Store
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.workflow import (
    Atom,
    AtomConstructor,
    DatasetAtom,
    EvalAtom,
    ModelAtom,
    Step,
    StepConfig,
    Workflow,
    WorkflowConfig,
    WorkflowError,
    WorkflowState,
    run_workflow,
    run_workflow_async,
)

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"{n}"},
            {"role": "assistant", "content": f"{n + 1}"},
        ]
    }
    for n in range(4)
]


@dataclass
class TrainConfig(StepConfig):
    n_epochs: int = 1


@dataclass
class EvaluateConfig(StepConfig):
    limit: int = 2


@dataclass
class Config(WorkflowConfig):
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


def prepare(
    config: None, input_atoms: dict[str, Atom], temp_workspace: Path
) -> list[AtomConstructor]:
    note("prepare")
    rows = [
        json.loads(line)
        for line in (input_atoms["raw"].get_data_path() / "raw.jsonl").read_text().splitlines()
    ]
    (temp_workspace / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    return [
        AtomConstructor(
            "dataset", temp_workspace / "train.jsonl", "dataset", metadata={"samples": 3}
        )
    ]


def train(
    config: TrainConfig, input_atoms: dict[str, Atom], temp_workspace: Path
) -> list[AtomConstructor]:
    note("train")
    rows = asyncio.run(_rows(input_atoms["dataset"]))
    (temp_workspace / "model").mkdir()
    (temp_workspace / "model" / "weights").write_text(f"{len(rows)} rows, {config.n_epochs} epochs")
    return [
        AtomConstructor(
            "model",
            temp_workspace / "model",
            "model",
            tags=["tuned"],
            metadata={"model_id": f"mine@{config.n_epochs}"},
        )
    ]


async def evaluate(
    config: EvaluateConfig, input_atoms: dict[str, Atom], temp_workspace: Path
) -> list[AtomConstructor]:
    note("evaluate")
    model = input_atoms["model"]
    assert isinstance(model, ModelAtom)
    weights = (model.get_data_path() / "weights").read_text()
    (temp_workspace / "results.json").write_text(
        json.dumps(
            {
                "model_id": model.get_model_id(),
                "metrics": {"task": {"score": len(weights) / 100, "n": config.limit}},
            }
        )
    )
    return [AtomConstructor("results", temp_workspace / "results.json", "eval")]


async def _rows(atom: Atom) -> JSONLDataset:
    assert isinstance(atom, DatasetAtom)
    return await atom.to_dataset()


ran: list[str] = []


def note(name: str) -> None:
    ran.append(name)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))
    ran.clear()
    return tmp_path / "home"


@pytest.fixture
def raw(tmp_path: Path) -> DatasetAtom:
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return DatasetAtom.create(tmp_path / "raw.jsonl", user="alice")


WORKFLOW = Workflow(
    "train_and_evaluate",
    [Step("prepare", prepare), Step("train", train), Step("evaluate", evaluate)],
)


def ids(state: WorkflowState) -> list[dict[str, str]]:
    return [step.output_atoms for step in state.step_states]


def test_names_and_functions_are_enough(raw: DatasetAtom) -> None:
    first = run_workflow(WORKFLOW, {"raw": raw.id}, Config(), user="alice")
    assert ran == ["prepare", "train", "evaluate"]
    assert [step.status for step in first.step_states] == 3 * ["succeeded"]
    again = run_workflow(WORKFLOW, {"raw": raw}, Config(), user="bob")
    assert ran == ["prepare", "train", "evaluate"], "nothing ran again"
    assert all(step.cached for step in again.step_states)
    assert ids(first) == ids(again)
    results = first.atom("results")
    assert isinstance(results, EvalAtom)
    assert asyncio.run(results.to_eval_results()).metrics == {"task": {"score": 0.16, "n": 2}}


def test_what_changed_runs_again_and_nothing_else(raw: DatasetAtom) -> None:
    first = run_workflow(WORKFLOW, {"raw": raw}, Config())
    ran.clear()
    more = run_workflow(WORKFLOW, {"raw": raw}, Config(train=TrainConfig(n_epochs=2)))
    assert ran == ["train", "evaluate"]
    assert ids(first)[0] == ids(more)[0]
    assert ids(first)[1:] != ids(more)[1:]
    ran.clear()
    run_workflow(
        WORKFLOW, {"raw": raw}, {"train": TrainConfig(2), "evaluate": EvaluateConfig(limit=9)}
    )
    assert ran == ["evaluate"]


def test_damage_is_made_good(raw: DatasetAtom) -> None:
    state = run_workflow(WORKFLOW, {"raw": raw}, Config())
    ran.clear()
    weights = state.atom("model").get_data_path() / "weights"
    weights.write_text(weights.read_text()[:-1] + "X")
    with pytest.warns(DamageWarning, match="was changed after it was published"):
        again = run_workflow(WORKFLOW, {"raw": raw}, Config())
    assert ran == ["train"]
    assert ids(state) == ids(again)
    (again.atom("dataset").get_data_path() / "train.jsonl").unlink()
    with pytest.warns(DamageWarning, match="missing"):
        run_workflow(WORKFLOW, {"raw": raw}, Config())
    assert ran == ["train", "prepare"]


def test_a_damaged_source_is_the_users_to_mend(raw: DatasetAtom) -> None:
    (raw.get_data_path() / "raw.jsonl").write_text("")
    with pytest.warns(DamageWarning), pytest.raises(UserError, match=f"no atom {raw.id}"):
        run_workflow(WORKFLOW, {"raw": raw.id}, Config())


def test_provenance_back_to_the_source(raw: DatasetAtom) -> None:
    state = run_workflow(WORKFLOW, {"raw": raw}, Config())
    results = state.atom("results")
    assert raw.id in {atom.id for atom in results.provenance()}
    assert results.made_from == {
        "raw": raw.id,
        "dataset": state.atom("dataset").id,
        "model": state.atom("model").id,
    }
    tree = results.tree().splitlines()
    assert tree[0] == f"{results.id}  (evaluate)"
    assert f"  model: {state.atom('model').id}  (train)" in tree
    assert state.atom("model").metadata["tags"] == ["tuned"]


def test_the_users_file_stays_where_it_is(tmp_path: Path, raw: DatasetAtom) -> None:
    def outside(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path
    ) -> list[AtomConstructor]:
        return [AtomConstructor("copy", tmp_path / "raw.jsonl", "dataset")]

    before = (tmp_path / "raw.jsonl").stat()
    state = run_workflow(Workflow("w", [Step("outside", outside)]))
    after = (tmp_path / "raw.jsonl").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert (state.atom("copy").get_data_path() / "raw.jsonl").read_bytes() == (
        tmp_path / "raw.jsonl"
    ).read_bytes()
    assert DatasetAtom.create(tmp_path / "raw.jsonl", user="bob").id == raw.id, (
        "the same content is the same atom"
    )


def declared(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "dataset")


def test_independent_steps_run_together(raw: DatasetAtom) -> None:
    running: list[int] = [0, 0]

    def slow(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path, name: str
    ) -> AtomConstructor:
        running[0] += 1
        running[1] = max(running)
        time.sleep(0.3)
        running[0] -= 1
        (temp_workspace / "x").write_text(name)
        return AtomConstructor(name, temp_workspace / "x", "dataset")

    from functools import partial

    branches = [
        Step(f"make {n}", partial(slow, name=n), declared("raw"), declared(n)) for n in "abc"
    ]
    join = Step("join", partial(slow, name="all"), declared("a", "b", "c"), declared("all"))
    workflow = Workflow("fan", [*branches, join])
    assert workflow.needed() == {"raw": "dataset"}
    state = run_workflow(workflow, {"raw": raw})
    assert running[1] == 3
    assert set(state["join"].input_atoms) == {"a", "b", "c"}
    assert run_workflow(workflow, {"raw": raw}, max_parallel=1)["join"].cached


def test_one_failure_costs_what_needs_it(raw: DatasetAtom) -> None:
    def fails(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path
    ) -> list[AtomConstructor]:
        raise ValueError("no luck")

    def works(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path
    ) -> list[AtomConstructor]:
        (temp_workspace / "x").write_text("x")
        return [AtomConstructor("other", temp_workspace / "x", "dataset")]

    steps = [
        Step("bad", fails, declared("raw"), declared("a")),
        Step("after", works, declared("a"), declared("b")),
    ]
    workflow = Workflow("w", [*steps, Step("good", works, declared("raw"), declared("other"))])
    with pytest.raises(WorkflowError, match="step 'bad' failed: ValueError: no luck") as caught:
        run_workflow(workflow, {"raw": raw})
    assert [step.status for step in caught.value.state.step_states] == [
        "failed",
        "skipped",
        "succeeded",
    ]
    with pytest.raises(WorkflowError):
        run_workflow(workflow, {"raw": raw})


def test_retries_by_the_class_of_the_error(raw: DatasetAtom) -> None:
    errors: list[Exception] = [ConnectionError("1"), ConnectionError("2"), OSError("3")]

    def flaky(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path
    ) -> list[AtomConstructor]:
        (temp_workspace / "x").write_text("x")
        if errors:
            raise errors.pop(0)
        return [AtomConstructor("x", temp_workspace / "x", "dataset")]

    workflow = Workflow("w", [Step("flaky", flaky, retries=5, retry_on=(ConnectionError,))])
    with pytest.raises(WorkflowError, match="OSError: 3") as caught:
        run_workflow(workflow)
    assert caught.value.state["flaky"].attempts == 3
    assert run_workflow(workflow)["flaky"].attempts == 1


def test_selection_and_force(raw: DatasetAtom) -> None:
    with pytest.raises(UserError, match="'prepare' is not selected"):
        run_workflow(WORKFLOW, {"raw": raw}, Config(), selected_steps=["train"])
    first = run_workflow(WORKFLOW, {"raw": raw}, Config())
    ran.clear()
    run_workflow(WORKFLOW, {"raw": raw}, Config(), selected_steps=["train", "evaluate"])
    assert ran == []
    forced = run_workflow(WORKFLOW, {"raw": raw}, Config(), force=["train"])
    assert ran == ["train", "evaluate"], "what was made of the old one, too"
    assert ids(first) == ids(forced)
    ran.clear()
    run_workflow(WORKFLOW, {"raw": raw}, Config(), force=True)
    assert ran == ["prepare", "train", "evaluate"]
    with pytest.raises(UserError, match=r"no step 'trian'.*train"):
        run_workflow(WORKFLOW, {"raw": raw}, Config(), force=["trian"])


def test_mistakes_are_named(raw: DatasetAtom, tmp_path: Path) -> None:
    needy = Workflow("w", [Step("train", train, {"dataset": "dataset"}, {"model": "model"})])
    with pytest.raises(UserError, match="needs the atom 'dataset'"):
        run_workflow(needy)
    with pytest.raises(UserError, match="must be a model"):
        run_workflow(
            Workflow("w", [Step("evaluate", evaluate, {"model": "model"})]), {"model": raw}
        )
    with pytest.raises(UserError, match="more than one step a"):
        Workflow("w", [Step("a", train), Step("a", train)])

    def wrong(*_: Any) -> Any:
        return "a path"

    with pytest.raises(WorkflowError, match="must return a list of AtomConstructor"):
        run_workflow(Workflow("w", [Step("wrong", wrong)]))

    def nothing(*_: Any) -> list[AtomConstructor]:
        return [AtomConstructor("x", tmp_path / "nowhere", "dataset")]

    with pytest.raises(WorkflowError, match="does not exist"):
        run_workflow(Workflow("w", [Step("nothing", nothing)]))
    with pytest.raises(WorkflowError, match="declares the output 'y'"):
        run_workflow(
            Workflow("w", [Step("prepare", prepare, None, {"y": "dataset"})]), {"raw": raw}
        )
    with pytest.raises(UserError, match="has no key"):
        run_workflow(WORKFLOW, {"raw": raw}, {"train": {"x": object()}})
    with pytest.raises(UserError, match="not an atom id"):
        Atom.load("../../etc")


def test_in_a_running_loop(raw: DatasetAtom) -> None:
    async def both() -> tuple[WorkflowState, WorkflowState]:
        return run_workflow(WORKFLOW, {"raw": raw}, Config()), await run_workflow_async(
            WORKFLOW, {"raw": raw}, Config()
        )

    first, second = asyncio.run(both())
    assert ids(first) == ids(second)
    assert all(step.cached for step in second.step_states)


def test_the_same_workflow_twice_at_once_runs_once(raw: DatasetAtom) -> None:
    async def both() -> list[WorkflowState]:
        return await asyncio.gather(
            *(run_workflow_async(WORKFLOW, {"raw": raw}, Config()) for _ in range(5))
        )

    states = asyncio.run(both())
    assert sorted(ran) == ["evaluate", "prepare", "train"]
    assert len({str(ids(state)) for state in states}) == 1


def test_a_data_set_there_and_back() -> None:
    dataset = JSONLDataset(ROWS)
    atom = asyncio.run(DatasetAtom.from_dataset(dataset))
    assert atom.metadata["samples"] == 4
    assert asyncio.run(DatasetAtom.load(atom.id).to_dataset()) == dataset


STEPS = '''
import json, sys
from pathlib import Path
from mosweep.workflow import *
from helper import FACTOR, scaled

TABLE = {"a": 1}

def inner(x):
    """What it does."""
    return x * 2

def first(config, input_atoms, temp_workspace):
    Path("ran").open("a").write("first ")
    (temp_workspace / "x").write_text(str(inner(TABLE["a"])))
    return [AtomConstructor("x", temp_workspace / "x", "number")]

def second(config, input_atoms, temp_workspace):
    Path("ran").open("a").write("second ")
    (temp_workspace / "y").write_text(str(scaled(3)))
    return [AtomConstructor("y", temp_workspace / "y", "number")]

state = run_workflow(Workflow("w", [Step("first", first, {}, {"x": "number"}), \
Step("second", second, {}, {"y": "number"})]))
print(json.dumps([step.output_atoms for step in state.step_states]))
'''


def test_a_steps_code_is_in_its_key(tmp_path: Path) -> None:
    def run(steps: str, helper: str) -> list[str]:
        (tmp_path / "steps.py").write_text(steps)
        (tmp_path / "helper.py").write_text(helper)
        (tmp_path / "ran").unlink(missing_ok=True)
        subprocess.run(
            [sys.executable, "-B", "steps.py"], cwd=tmp_path, check=True, capture_output=True
        )
        return (tmp_path / "ran").read_text().split() if (tmp_path / "ran").exists() else []

    helper = "FACTOR = 2\ndef scaled(x):\n    return x * FACTOR\n"
    assert sorted(run(STEPS, helper)) == ["first", "second"]
    assert run(STEPS, helper) == []
    assert run(STEPS.replace("What it does", "In other words") + "# a comment\n", helper) == []
    assert run(STEPS.replace("x * 2", "x * 3"), helper) == ["first"], (
        "a function that the step's function calls"
    )
    assert run(STEPS.replace('"a": 1', '"a": 5'), helper) == ["first"], "a value of the module"
    assert run(STEPS, helper.replace("= 2", "= 7")) == ["second"], "a module beside it"
    assert run(STEPS.replace('"y").write_text(str(', '"y").write_text(repr('), helper) == [
        "second"
    ], "its own code"


CREATE = """
import sys
from pathlib import Path
from mosweep.workflow import DatasetAtom
print(*(DatasetAtom.create(Path(sys.argv[1]) / f"{n}.jsonl").id for n in range(30)))
"""


def test_many_processes_make_the_same_atoms(tmp_path: Path, home: Path) -> None:
    for n in range(30):
        (tmp_path / f"{n}.jsonl").write_text(f"{n}\n" * 1000)
    before = {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.glob("*.jsonl")
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    done = [process.communicate(timeout=120) for process in started]
    assert {err for _, err in done} == {b""}
    assert len({out for out, _ in done}) == 1
    assert len(list(Store(home / "store").keys())) == 30
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before


def test_a_wide_workflow_costs_little_when_cached() -> None:
    from functools import partial

    def make(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path, number: int
    ) -> AtomConstructor:
        (temp_workspace / "x").write_text(str(number))
        return AtomConstructor(f"x{number}", temp_workspace / "x", "dataset")

    def run(width: int) -> float:
        workflow = Workflow(
            "wide",
            [Step(f"{n}", partial(make, number=n), {}, declared(f"x{n}")) for n in range(width)],
        )
        run_workflow(workflow)
        begun = time.process_time()
        state = run_workflow(workflow)
        used = time.process_time() - begun
        assert all(step.cached for step in state.step_states)
        return used / width

    narrow, wide = run(100), run(400)
    assert wide < 2 * narrow, "linear"
