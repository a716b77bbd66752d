"""Extending mosweep from outside: one Python file and one YAML each, in a user's own folder.

A trainer that learns a lookup table for real, a stage between fine-tune and evaluation that adds
to it, and an evaluator that counts right answers. The same files are the how-tos' code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.conftest import Shell

BACKEND = '''
"""A trainer that remembers the first `budget` answers of its data set."""

import json
from dataclasses import dataclass, field

from mosweep import (
    FINETUNE, ROUND, Check, ConfigError, ModelFacts, Round, RoundBackend, Stage, TrialConfig,
    WeightsAccess, Work, between, data_folder, data_stage, dataset_ref,
)


@dataclass(frozen=True)
class Remember(Work):
    budget: int
    offset: int = 0
    kind = FINETUNE
    version = 1

    async def run(self, context):
        data = context.inputs["data"]
        rows = [json.loads(line) for line in (data_folder(data) / "train.jsonl").open()]
        pairs = [(row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in rows]
        known = dict(pairs[self.offset : self.offset + self.budget])
        if before := context.inputs.get("previous"):
            known |= json.loads((before.folder / "table" / "table.json").read_text())
        (context.out / "table").mkdir()
        (context.out / "table" / "table.json").write_text(json.dumps(known))
        print(f"remembered {len(known)} answers")
        facts = ModelFacts(
            model_id=f"table/{context.key[:8]}",
            access=WeightsAccess("table"),
            dataset=dataset_ref(data),
            steps=len(known),
            final_loss=1 / (1 + len(known)),
            loss=[[step, 1 / step] for step in range(1, 4)],
        )
        return facts.to_json()


@dataclass(frozen=True)
class RememberRound(Remember):
    kind = ROUND

    async def run(self, context):
        return {**await Remember.run(self, context), "data": {"position": self.offset}}


@dataclass(frozen=True)
class TableBackend(RoundBackend):
    """Remembers `share` of the data set."""

    section = "table"
    takes = ("optim.max_steps_per_epoch", "seed")
    hints = {"lora.*": "a table has no adapter"}

    share: float = field(default=1.0, metadata=between(gt=0, le=1))

    def budget(self, trial: TrialConfig) -> int:
        extra = trial.native("table").get("extra", 0)
        if not isinstance(extra, int):
            raise ConfigError("table.extra", extra, "expected a whole number")
        return (trial.config.optim.max_steps_per_epoch or 20) + extra

    def finetune(self, trial):
        work = Remember(round(self.share * self.budget(trial)))
        return Stage("finetune", work, {"data": data_stage(trial)}, trial.resources("finetune"))

    def peak_lr(self, trial):
        return 1.0

    def round(self, trial, this: Round, previous):
        work = RememberRound(this.steps, this.before)
        needs = {"data": data_stage(trial)} | ({"previous": previous} if previous else {})
        return Stage("round", work, needs, trial.resources("finetune"))

    @classmethod
    def checks(cls):
        yield Check("backend=table", True, "needs nothing but patience")
'''

TRANSFORM = '''
"""A stage between fine-tune and evaluation: more answers for a model that was trained or not."""

import json
from dataclasses import dataclass

from mosweep import Kind, ModelFacts, Stage, Transform, WeightsAccess, Work


@dataclass(frozen=True)
class Add(Work):
    words: int
    kind = Kind("patch", leaves="model")
    version = 1

    async def run(self, context):
        known = {}
        if tuned := context.inputs.get("tuned"):
            known = json.loads((tuned.folder / "table" / "table.json").read_text())
        known |= {f"extra{number}": str(number) for number in range(self.words)}
        (context.out / "table").mkdir()
        (context.out / "table" / "table.json").write_text(json.dumps(known))
        return ModelFacts(f"patched/{context.key[:8]}", access=WeightsAccess("table")).to_json()


@dataclass(frozen=True)
class Patch(Transform):
    words: int = 0

    def stage(self, trial, tuned):
        if not self.words:
            return None
        needs = {"tuned": tuned} if tuned else {}
        return Stage("patch", Add(self.words), needs, trial.resources("patch"))
'''

EVALUATION = '''
"""Counts the prompts of the data set that the table knows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mosweep import (
    EVAL, Check, EvalFacts, Evaluation, ModelFacts, Stage, Work, data_folder, data_stage, dataset_ref
)


@dataclass(frozen=True)
class Count(Work):
    task: str
    items: int
    kind = EVAL
    version = 1

    async def run(self, context):
        data = context.inputs["data"]
        rows = [json.loads(line) for line in (data_folder(data) / "train.jsonl").open()]
        known, name = {}, "base"
        if tuned := context.inputs.get("tuned"):
            facts = ModelFacts.of(tuned.facts)
            name = facts.model_id
            known = json.loads((tuned.folder / facts.access.folder / "table.json").read_text())
        asked = [row["messages"][-2]["content"] for row in rows[: self.items]]
        scores = [float(word in known) for word in asked]
        lines = [
            json.dumps({"id": word, "epoch": 1, "scores": {"known": score}}) + "\\n"
            for word, score in zip(asked, scores)
        ]
        (context.out / "samples.jsonl").write_text("".join(lines))
        mean = sum(scores) / len(scores)
        return EvalFacts(
            task=self.task, model_id=name, metrics={"known": mean}, n=len(scores),
            dataset=dataset_ref(data),
        ).to_json()


@dataclass(frozen=True)
class CountEvaluation(Evaluation):
    tasks: Sequence[str] | None = None
    items: int = 20

    def stages(self, trial, tuned):
        needs = {"data": data_stage(trial)} | ({"tuned": tuned} if tuned else {})
        return [
            Stage(trial.eval_label(task), Count(task, self.items), needs, trial.resources("eval"))
            for task in trial.eval_tasks(self.tasks)
        ]

    @classmethod
    def checks(cls):
        yield Check("eval=count", None, "counts")
'''

CONF = {
    "backend/table.yaml": """
        # @package _global_
        backend:
          _target_: {place}table.TableBackend
          share: 1.0
        table: {{extra: 0}}
        """,
    "patch/none.yaml": "_target_: {place}patch.Patch\nwords: 0\n",
    "patch/more.yaml": "_target_: {place}patch.Patch\nwords: 3\n",
    "eval/count.yaml": "_target_: {place}counting.CountEvaluation\ntasks: null\nitems: 20\n",
}
MODULES = {"table": BACKEND, "patch": TRANSFORM, "counting": EVALUATION}


def write(modules: Path, conf: Path, place: str = "") -> None:
    modules.mkdir(parents=True, exist_ok=True)
    for name, code in MODULES.items():
        (modules / f"{name}.py").write_text(code.lstrip())
    for name, text in CONF.items():
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).write_text(textwrap.dedent(text).lstrip().format(place=place))


@pytest.fixture
def user(shell: Shell) -> Shell:
    """A user's folder with the three extensions."""
    write(shell.folder, shell.folder / "conf")
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(20)
    ]
    (shell.folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return shell


COMMON = ("dataset.path=mine.jsonl", "tracking=none", "eval=count", "+patch=none")
SWEEP = ("backend=table", *COMMON, "optim.max_steps_per_epoch=5,10", "experiment.name=own")


def metrics(shell: Shell, name: str) -> dict[str, float]:
    return {
        trial["name"]: next(iter(trial["metrics"].values()))
        for trial in shell("summary", name, "--json").json["trials"]
    }


def test_every_verb_works_with_a_backend_and_an_evaluator_of_ones_own(user: Shell) -> None:
    planned = user("plan", *SWEEP, "--json")
    assert planned.status == 0, planned.err
    assert planned.json["trials"] == 3
    done = user("-m", *SWEEP)
    assert done.status == 0, done.err
    assert metrics(user, "own") == {
        "optim.max_steps_per_epoch=5": 0.25,
        "optim.max_steps_per_epoch=10": 0.5,
        "control=true": 0.0,
    }
    for verb in (("status", "own"), ("watch", "own")):
        shown = user(*verb)
        assert shown.status == 0, (verb, shown.err)
    assert "finetune" in user("cache", "list").out
    assert "cached" in user("explain", "--sweep", "own", "optim.max_steps_per_epoch=5").out
    analyzed = user("analyze", "own")
    assert analyzed.status == 0, analyzed.err
    doctor = user("doctor").out
    assert "needs nothing but patience" in doctor and "eval=count" in doctor
    assert "table" in user("--help").out
    again = user("-m", *SWEEP)
    assert again.status == 0 and "nothing to do" in again.out + again.err
    packed = user("bundle", "own")
    assert packed.status == 0, packed.err
    archive = next(user.folder.glob("**/*.tar.gz"))
    verified = user("verify", str(archive))
    assert verified.status == 0, verified.out + verified.err


def test_native_settings_are_claimed(user: Shell) -> None:
    sweep = ("backend=table", *COMMON, "experiment.name=native")
    done = user("-m", *sweep, "table.extra=0,-10")
    assert done.status == 0, done.err
    assert sorted(metrics(user, "native").values()) == [0.0, 0.5, 1.0]
    for refused, words in {
        "lora.rank=4": "a table has no adapter",
        "torchtune.epochs=2": "backend=torchtune would",
    }.items():
        found = user("plan", "backend=table", *COMMON, refused)
        assert found.status == 2 and refused in found.err and words in found.err
    wrong = user("plan", "backend=table", *COMMON, "table.extra=many")
    assert wrong.status == 2 and "table.extra=many: expected a whole number" in wrong.err
    elsewhere = user("plan", "backend=dummy", "+table.extra=2", "tracking=none")
    assert elsewhere.status in (0, 2), elsewhere.err  # the dry run takes every backend's settings
    real = user("plan", "backend=torchtune", "+table.extra=2", "tracking=none")
    assert real.status == 2 and "backend=table would" in real.err


def test_a_stage_between_fine_tune_and_evaluation_is_a_factor(user: Shell) -> None:
    sweep = ("backend=table", *COMMON[:3], "+patch=none,more", "experiment.name=patched")
    rows = [
        {"messages": [{"role": "user", "content": c}, {"role": "assistant", "content": "a"}]}
        for c in [*(f"q{n}" for n in range(17)), "extra0", "extra1", "extra2"]
    ]
    (user.folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = user("-m", *sweep, "optim.max_steps_per_epoch=10")
    assert done.status == 0, done.err
    found = metrics(user, "patched")
    assert {name: value for name, value in found.items() if "control" not in name} == {
        "patch=none": 0.5,
        "patch=more": 0.65,
    }
    base = {name: value for name, value in found.items() if "control" in name}
    assert sorted(base.values()) == [0.0, 0.15], "the base model is evaluated with both"
    labels = {
        stage["kind"]
        for trial in user("summary", "patched", "--json").json["trials"]
        for stage in trial["stages"]
    }
    assert {"data", "finetune", "patch", "eval"} <= labels
    report = user("analyze", "patched", "--json")
    assert report.status == 0, report.err


def test_a_backend_of_ones_own_trains_in_rounds(user: Shell) -> None:
    done = user(
        *("-m", "backend=table", *COMMON, "experiment.name=rounds", "loop.enabled=true"),
        *("loop.steps_per_round=8", "loop.max_rounds=4", "loop.threshold=0.7"),
    )
    assert done.status == 0, done.out + done.err
    assert max(metrics(user, "rounds").values()) == 0.8


def test_the_console_script_finds_a_backend_in_the_working_directory(user: Shell) -> None:
    script = Path(sys.executable).with_name("mosweep")
    words = [str(script), "plan", *SWEEP, "--json"]
    done = subprocess.run(words, cwd=user.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def package(tmp_path: Path) -> dict[str, str]:
    """An installed package that brings the extensions and a conf/ of its own."""
    site = tmp_path / "site"
    write(site / "tables", site / "tables" / "conf", place="tables.")
    (site / "tables" / "__init__.py").write_text("")
    info = site / "tables-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tables\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mosweep.plugins]\ntables = tables\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path}


def test_a_package_brings_its_own_choices(shell: Shell, package: dict[str, str]) -> None:
    (shell.folder / "mine.jsonl").write_text(
        '{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}\n'
    )
    done = shell("-m", *SWEEP, env=package)
    assert done.status == 0, done.err
    assert set(metrics(shell, "own").values()) == {0.0, 1.0}
    assert "eval=count" in shell("doctor", env=package).out
