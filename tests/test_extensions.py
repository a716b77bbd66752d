"""Extending mosweep from outside: one Python file and one YAML each, in a user's own folder.

A trainer that learns a lookup table for real, a stage between fine-tune and evaluation that adds
to it, and an evaluator that counts right answers: the code of the how-tos, as the pages show it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Shell

PAGES = ("add-a-backend", "add-a-stage", "add-an-evaluator")
HOW_TO = Path(__file__).resolve().parents[1] / "docs" / "how-to"
BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
#: The files that the three pages show, by name.
FILES = {
    name: text
    for page in PAGES
    for name, text in BLOCK.findall((HOW_TO / f"{page}.md").read_text())
}


def write(modules: Path, folder: Path, place: str = "") -> None:
    """The modules in ``modules``, the YAML files below ``folder``."""
    for name, text in FILES.items():
        path = modules / name if name.endswith(".py") else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("_target_: ", f"_target_: {place}"))


@pytest.fixture
def user(shell: Shell) -> Shell:
    """A user's folder with the three extensions."""
    write(shell.folder, shell.folder)
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
    write(site / "tables", site / "tables", place="tables.")
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
