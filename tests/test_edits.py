"""A user edits files between launches: nothing stale is shown, and nothing runs without need.

The trainer and the evaluator are those of the how-tos. The oracle is the same command with an empty
store.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell
from tests.test_extensions import write

DATA = """
import json
from pathlib import Path

import helpers
from ours.rules import ENDING

DATASETS = {"words": 20, "few": 16}


def build(dataset, folder):
    words = (Path(__file__).parent / "words.txt").read_text().split()[: DATASETS[dataset]]
    rows = [helpers.row(word, f"{word}{ENDING}") for word in words]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""
HELPERS = '''
def row(question, answer):
    """One row."""
    return {"messages": [{"role": "user", "content": question + "?"}, \\
{"role": "assistant", "content": answer}]}
'''
SWEEP = ("backend=table", "eval=count", "+patch=none", "task=mine", "dataset=words")
COMMON = ("tracking=none", "optim.max_steps_per_epoch=5,10", "experiment.name=edits")

Edit = Callable[[Path, random.Random], None]


def replace(file: str, old: str, new: str) -> Edit:
    def edit(folder: Path, rng: random.Random) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new.format(n=rng.randrange(10**6)), 1))

    return edit


def append(file: str, text: str) -> Edit:
    def edit(folder: Path, rng: random.Random) -> None:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text() if path.exists() else ""
        path.write_text(old + text.format(n=rng.randrange(10**6)))

    return edit


#: Edits that may change results.
REAL: dict[str, Edit] = {
    "a word": replace("tasks/mine/words.txt", "w", "{n}w"),
    "the code": replace("tasks/mine/data.py", "{ENDING}", "{{ENDING}}{n}"),
    "a module beside it": replace("tasks/mine/helpers.py", "answer}", "answer + '{n}'}}"),
    "a module of the user's package": append("ours/rules.py", "ENDING += '{n}'\n"),
    "the trainer": replace("table.py", "steps=len(known)", "steps=len(known) + {n}"),
}
#: Edits that change no result, and the kinds of stages that may run after them.
NEUTRAL: dict[str, tuple[Edit, set[str]]] = {
    "a comment": (append("tasks/mine/data.py", "# {n}\n"), set()),
    "layout": (replace("tasks/mine/data.py", "import json", "\n\nimport json"), set()),
    "a comment in the package": (append("ours/rules.py", "# {n}\n"), set()),
    "a comment in the trainer": (append("table.py", "# {n}\n"), set()),
    "a level that nobody uses": (
        replace("tasks/mine/data.py", '"few"', '"x{n}": 9, "few"'),
        {"data"},
    ),
    "a word that is not used": (append("tasks/mine/words.txt", " more{n}"), {"data"}),
    "a docstring": (replace("tasks/mine/helpers.py", "One row.", "One row. {n}"), {"data"}),
    "an unrelated module": (append("ours/unused.py", "x = {n}\n"), set()),
    "the README": (append("tasks/mine/README.md", "{n}\n"), set()),
    "notes in the project": (append("notes/{n}.txt".replace("{n}", "a"), "{n}\n"), set()),
}


def write_project(folder: Path) -> None:
    """A user's project: task, package, trainer and evaluator."""
    write(folder, folder)
    task = folder / "tasks" / "mine"
    task.mkdir(parents=True)
    (task / "data.py").write_text(DATA)
    (task / "helpers.py").write_text(HELPERS)
    (task / "eval.py").write_text("")
    (task / "words.txt").write_text(" ".join(f"w{n}" for n in range(20)))
    (folder / "ours").mkdir()
    (folder / "ours" / "rules.py").write_text("ENDING = '!'\n")


@pytest.fixture
def project(shell: Shell) -> Shell:
    write_project(shell.folder)
    return shell


def launch(shell: Shell, store: Path) -> tuple[dict[str, Any], list[str]]:
    """The facts of every stage that is a result, and the kinds of stages that ran."""
    journal = shell.folder / "multirun" / "edits" / "journal.jsonl"
    before = len(journal.read_text().splitlines()) if journal.exists() else 0
    done = shell("-m", *SWEEP, *COMMON, f"store.dir={store}")
    assert done.status == 0, done.out + done.err
    events = [json.loads(line) for line in journal.read_text().splitlines()[before:]]
    ran = [event["label"].partition(":")[0] for event in events if event["event"] == "started"]
    return shell.summary("edits"), ran


def scores(found: dict[str, Any]) -> dict[str, Any]:
    return {name: trial["metrics"] for name, trial in found.items()}


def facts(shell: Shell, store: Path) -> dict[str, Any]:
    """What the trials' stages left: the files of the data set and the table, by trial and stage."""
    left = {}
    for link in sorted((shell.folder / "multirun" / "edits").glob("*/*")):
        for path in sorted(link.rglob("*")) if link.is_symlink() else []:
            if path.is_file() and path.name != "log.txt":
                left[f"{link.parent.name}/{link.name}/{path.relative_to(link)}"] = path.read_text()
    return left


@pytest.mark.parametrize("seed", [0])
def test_random_edits(project: Shell, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    kept = tmp_path / "kept"
    _, ran = launch(project, kept)
    assert sorted(set(ran)) == ["data", "eval", "finetune"]
    names = [*REAL, *NEUTRAL]
    rng.shuffle(names)
    for number, name in enumerate(names):
        edit, allowed = NEUTRAL[name] if name in NEUTRAL else (REAL[name], None)
        edit(project.folder, rng)
        shown, ran = launch(project, kept)
        left = facts(project, kept)
        if allowed is not None:
            assert set(ran) <= allowed, f"{name} has run {ran}"
        if name in REAL or number % 5 == 0:
            true, _ = launch(project, tmp_path / f"oracle{number}")
            assert scores(shown) == scores(true), name
            assert left == facts(project, tmp_path / f"oracle{number}"), name


def test_the_plan_says_why(project: Shell, tmp_path: Path) -> None:
    launch(project, tmp_path / "kept")
    command = ("plan", *SWEEP, *COMMON, f"store.dir={tmp_path / 'kept'}")
    assert project(*command, "--json").json["stages"]["to_run"] == 0
    NEUTRAL["a level that nobody uses"][0](project.folder, random.Random(1))
    plan = project(*command, "--json").json
    why = {job["kind"]: job["why"] for job in plan["jobs"]}
    assert why["data"] == "tasks/mine/data.py changed"
    assert why["finetune"] == "data will be made again"
    assert plan["stages"]["maybe"] == plan["stages"]["to_run"] - 1
    assert "tasks/mine/data.py changed" in project(*command).out
    launch(project, tmp_path / "kept")
    explained = project("explain", "optim.max_steps_per_epoch=5", "--sweep", "edits").out
    assert "whose inputs contain the same" in explained
    assert "depends on " in explained
    REAL["a module of the user's package"](project.folder, random.Random(1))
    why = {job["kind"]: job["why"] for job in project(*command, "--json").json["jobs"]}
    assert why["data"] == "ours.rules (module) changed"


def test_what_is_forced_runs_whatever_its_content(project: Shell, tmp_path: Path) -> None:
    launch(project, tmp_path / "kept")
    NEUTRAL["a level that nobody uses"][0](project.folder, random.Random(1))
    launch(project, tmp_path / "kept")
    before = (project.folder / "multirun/edits/journal.jsonl").read_text().count('"started"')
    done = project("run", "edits", "--force", "--stage", "finetune")
    assert done.status == 0, done.err
    after = (project.folder / "multirun/edits/journal.jsonl").read_text().count('"started"')
    assert after - before == 4, "two fine-tunes and their evaluations"


def test_results_that_were_found_travel_in_a_bundle(project: Shell, tmp_path: Path) -> None:
    launch(project, tmp_path / "kept")
    NEUTRAL["a level that nobody uses"][0](project.folder, random.Random(1))
    launch(project, tmp_path / "kept")
    packed = project("bundle", "edits")
    assert packed.status == 0, packed.err
    [archive] = project.folder.glob("*.tar.gz")
    verified = project("verify", str(archive))
    assert verified.status == 0, verified.out
