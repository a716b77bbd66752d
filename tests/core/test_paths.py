"""Names of files that are made of what users give."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.paths import file_name
from mosweep.sweep.writing import set_link


@pytest.mark.parametrize("text", ["x" * 300, "é" * 200, "eval:/a/long/path/" * 30, "你" * 100])
def test_a_long_name_is_bounded_and_its_own(text: str) -> None:
    name, other = file_name(text), file_name(text + "!")
    assert len(name.encode()) <= 180 and name != other
    assert "/" not in name
    name.encode().decode()


def test_a_short_name_is_kept() -> None:
    assert file_name("eval:tasks/a.py@b") == "eval:tasks_a.py@b"


@pytest.mark.parametrize("name", ["x" * 201, "é" * 130, "group/" + "y" * 300])
def test_a_long_name_of_a_sweep_is_refused_before_anything_runs(shell: Shell, name: str) -> None:
    done = shell("-m", f"experiment.name='{name}'", "lora.rank=4", *DRY)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert "experiment.name" in done.err and "a folder's name may have 200" in done.err
    assert not (shell.folder / "multirun").exists()


def test_a_long_folder_is_refused_by_its_own_key(shell: Shell) -> None:
    done = shell("-m", f"hydra.sweep.dir=out/{'z' * 250}", "lora.rank=4", *DRY)
    assert done.status == 2 and "hydra.sweep.dir" in done.err, done.err


def test_two_long_labels_have_two_links(tmp_path: Path) -> None:
    labels = [f"eval:{'/a_long_folder_name' * 20}/tasks.py@{name}" for name in ("one", "two")]
    for label in labels:
        set_link(tmp_path / file_name(label), "nowhere")
    assert len(list(tmp_path.iterdir())) == 2
