"""``mosweep cache``: what is there, what may go, and what comes along."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.store import Store
from mosweep.workflow import (
    Atom,
    AtomConstructor,
    EvalAtom,
    ModelAtom,
    Step,
    Workflow,
    run_workflow,
)

SWEEP = ("-m", *DRY, "lora.rank=4,8", "run_control_trials=false", "tracking=none")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Two sweeps that share a fine-tune."""
    shell = Shell(tmp_path_factory.mktemp("cache"))
    assert shell(*SWEEP, "experiment.name=one").status == 0
    assert shell(*SWEEP[:-3], "lora.rank=8,16", *SWEEP[-2:], "experiment.name=two").status == 0
    return shell


def listed(shell: Shell, *words: str) -> list[dict[str, Any]]:
    done = shell("cache", "list", "--json", *words)
    assert done.status == 0, done.err
    found: list[dict[str, Any]] = done.json
    return found


def store_of(shell: Shell) -> Store:
    return Store(shell.folder / ".mosweep" / "store")


def test_choosing(home: Shell) -> None:
    everything = listed(home)
    kinds = [entry["kind"] for entry in everything]
    assert kinds.count("finetune") == kinds.count("eval") == 3
    assert {entry["key"] for entry in everything} == set(store_of(home).keys())
    assert len(listed(home, "--kind", "finetune")) == 3
    one = listed(home, "--experiment", "one")
    both = listed(home, "--experiment", "one", "--experiment", "two")
    assert len([e for e in one if e["kind"] == "eval"]) == 2
    assert len(both) == len(everything)
    assert listed(home, "--older-than", "1d") == []
    assert listed(home, "--model", "nonesuch") == []
    score = next(entry for entry in everything if entry["kind"] == "eval")
    below = listed(home, "--reachable-from", score["key"][:12])
    assert [entry["kind"] for entry in below].count("finetune") == 1
    assert set(score["needs"].values()) <= {entry["key"] for entry in below}
    text = home("cache", "list", "--kind", "finetune").out
    assert "finetune" in text
    assert len(text.splitlines()) == 5
    for wrong, says in (
        ("--kind=finetunes", "finetune"),
        ("--older-than=3", "7d"),
        ("--reachable-from=ffff", "no entry"),
    ):
        done = home("cache", "list", wrong)
        assert (done.status, says in done.err) == (2, True), done.err


def test_figures(home: Shell) -> None:
    stats = home("cache", "stats", "--json").json
    assert stats["kinds"]["finetune"]["entries"] == 3
    assert stats["total"]["entries"] == len(listed(home))
    assert (
        home("cache", "size", "--json", "--kind", "eval").json["bytes"]
        == stats["kinds"]["eval"]["bytes"]
        > 0
    )
    assert "computing" in home("cache", "stats").out
    key = listed(home, "--kind", "finetune")[0]["key"]
    shown = home("cache", "show", f"model-{key[:16]}").json
    assert shown["key"] == key
    assert [user["kind"] for user in shown["used_by"]] == ["eval"]


def test_carried_elsewhere(home: Shell, tmp_path: Path) -> None:
    archive = tmp_path / "all.tar.gz"
    assert home("cache", "export", str(archive), "--experiment", "one").status == 0
    other = Shell(tmp_path / "other")
    other.folder.mkdir()
    assert other("cache", "import", str(archive), "--json").json["known"] == 0
    assert other("cache", "import", str(archive), "--json").json["new"] == 0
    assert other("cache", "verify").status == 0
    assert "all cached" in (again := other("plan", *SWEEP[1:])).out or "0 to run" in again.out, (
        again.out
    )
    bad = tmp_path / "bad.tar.gz"
    with tarfile.open(archive) as source, tarfile.open(bad, "w:gz") as target:
        for member in source:
            content = source.extractfile(member)
            if member.name.endswith("samples.jsonl"):
                member.name = f"artifacts/../../{member.name}"
            target.addfile(member, content)
    refused = other("cache", "import", str(bad))
    assert (refused.status, "does not belong" in refused.err) == (1, True), refused.err
    assert home("cache", "export", str(archive)).status == 2, (
        "an archive that is there is not overwritten"
    )
    assert other("cache", "import", str(tmp_path / "none.tar.gz")).status == 2


def test_damage_is_found(shell: Shell) -> None:
    assert shell(*SWEEP, "experiment.name=one").status == 0
    victim = next((shell.folder / ".mosweep" / "store" / "artifacts").rglob("samples.jsonl"))
    text = victim.read_text()
    victim.write_text(text.replace("0", "1", 1))
    done = shell("cache", "verify", "--json")
    assert done.status == 1
    assert len(done.json["damaged"]) == 1
    assert shell("cache", "verify").status == 0, "it was set aside"
    assert shell("cache", "stats", "--json").json["quarantine"]["folders"] == 1


def test_clearing_asks_and_says_what_it_costs(shell: Shell) -> None:
    assert shell(*SWEEP, "experiment.name=one").status == 0
    before = set(store_of(shell).keys())
    refused = shell("cache", "clear", "--all")
    assert (refused.status, "--yes" in refused.err, "Recomputing them" in refused.err) == (
        2,
        True,
        True,
    ), refused.err
    assert shell("cache", "clear").status == 2
    assert set(store_of(shell).keys()) == before
    done = shell("cache", "clear", "--kind", "eval", "--yes", "--json").json
    assert (done["removed"], done["kept"]) == (2, 0)
    assert done["bytes"] > 0
    assert len(set(store_of(shell).keys())) == len(before) - 2
    ended = shell("run", "one")
    assert ended.status == 0
    assert set(store_of(shell).keys()) == before, "what is gone is made again"


def test_what_a_running_sweep_counts_on_stays(shell: Shell) -> None:
    assert shell(*SWEEP, "experiment.name=done", "seed=5").status == 0
    running = shell.start(
        *SWEEP, "experiment.name=one", "backend.delay_s=4", "hydra.launcher.workers=1"
    )
    try:
        journal = shell.folder / "multirun" / "one" / "journal.jsonl"
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_text().count('"finished"') >= 1):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = shell("cache", "clear", "--all", "--yes", "--json").json
        assert done["kept"] >= 1
        assert done["removed"] >= 1
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, out + err
    assert {trial["status"] for trial in shell.summary("one").values()} == {"succeeded"}


def test_garbage(shell: Shell) -> None:
    assert shell(*SWEEP, "experiment.name=one", "backend.fail=raise").status == 1
    assert shell("cache", "gc", "--json", "--yes").json["folders"] == 0, (
        "a sweep may go on from what was left a moment ago"
    )
    folders = [
        folder
        for folder in (shell.folder / ".mosweep" / "store" / "artifacts").glob("?/*")
        if (folder / "log.txt").exists()
    ]
    assert len(folders) == 2
    for folder in folders:
        os.utime(folder, (time.time() - 7200,) * 2)
    assert shell("cache", "gc", "--json", "--yes").json["folders"] == 2
    assert not any(folder.exists() for folder in folders)
    assert shell("cache", "verify").status == 0


def test_a_sweeps_stages_are_atoms(home: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSWEEP_HOME", str(home.folder / ".mosweep"))
    trial = home.summary("one")["lora.rank=4"]
    tuned, scored = (
        next(stage["key"] for stage in trial["stages"] if stage["kind"] == kind)
        for kind in ("finetune", "eval")
    )
    model = ModelAtom.load(f"model-{tuned[:16]}")
    assert model.get_model_id().startswith("dummy/")
    evaluation = EvalAtom.load(f"eval-{scored[:16]}")
    assert model.id in evaluation.made_from.values()
    assert "(finetune)" in evaluation.tree()
    results = asyncio.run(evaluation.to_eval_results())
    [metrics] = results.metrics.values()
    assert metrics["n"] == len(results.samples) == 100
    assert metrics["score"] == pytest.approx(trial["metrics"]["capitalization/score"])

    def card(
        config: None, input_atoms: dict[str, Atom], temp_workspace: Path
    ) -> list[AtomConstructor]:
        (temp_workspace / "card.md").write_text(f"# {input_atoms['model'].metadata['model_id']}\n")
        return [AtomConstructor("card", temp_workspace / "card.md", "card")]

    workflow = Workflow("card", [Step("card", card, {"model": "model"}, {"card": "card"})])
    made = run_workflow(workflow, {"model": model})
    assert model.id in {atom.id for atom in made.atom("card").provenance()}
    assert run_workflow(workflow, {"model": model.id})["card"].cached


def test_a_workflows_data_set_in_a_sweep(shell: Shell) -> None:
    code = (
        "import asyncio, sys\nfrom mosweep.datasets import JSONLDataset\nfrom mosweep.workflow "
        "import DatasetAtom\n"
        "rows = [{'messages': [{'role': 'user', 'content': str(n)}, {'role': 'assistant', "
        "'content': 'x'}]} for n in range(20)]\n"
        "print(asyncio.run(DatasetAtom.from_dataset(JSONLDataset(rows))).get_data_path())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    path = done.stdout.strip()
    planned = shell("plan", f"dataset.path='{path}'", "model=tiny", "--json")
    assert planned.status == 0, planned.err
    assert planned.json["trials"] == 2, "and its control"
