"""What was deleted or moved away from a sweep's folder is there again after the next command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

SWEEP = ("-m", "lora.rank=4,8", "run_control_trials=false", "experiment.name=a", *DRY)


@pytest.fixture
def done(shell: Shell) -> Shell:
    """A sweep that has run."""
    ended = shell(*SWEEP)
    assert ended.status == 0, ended.err
    return shell


def content(folder: Path) -> dict[str, str | bytes]:
    """Every file and link of a sweep's folder but the journal."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in folder.rglob("*")
        if (path.is_symlink() or path.is_file()) and path.name != "journal.jsonl"
    }


GONE = ["lora.rank=4", "lora.rank=4/config.yaml", "experiment.yaml", "lora.rank=*"]


@pytest.mark.parametrize("words", [SWEEP, ("run", "a")], ids=["the command", "run"])
@pytest.mark.parametrize("gone", [*GONE, "lora.rank=8/eval*"])
def test_what_is_gone_is_made_again(done: Shell, gone: str, words: tuple[str, ...]) -> None:
    folder = done.folder / "multirun" / "a"
    before = content(folder)
    if gone == "experiment.yaml" and words[0] == "run":
        pytest.skip("without it, the folder is no sweep")
    for path in folder.glob(gone):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert content(folder) != before
    again = done(*words)
    assert again.status == 0, again.err
    assert content(folder) == before


def test_a_folder_that_was_moved_stays_where_it_is(done: Shell) -> None:
    folder = done.folder / "multirun" / "a"
    (folder / "lora.rank=4").rename(done.folder / "kept")
    assert done("run", "a").status == 0
    assert (folder / "lora.rank=4" / "config.yaml").exists()
    assert (done.folder / "kept" / "config.yaml").exists()


def test_a_whole_sweep_can_be_moved(done: Shell) -> None:
    (done.folder / "multirun" / "a").rename(done.folder / "elsewhere")
    assert done("summary", "elsewhere").status in (0, 2)
    again = done(*SWEEP)
    assert again.status == 0, again.err
    assert done("summary", "a").status == 0


def test_copies_in_place_of_links_are_kept(done: Shell) -> None:
    trial = done.folder / "multirun" / "a" / "lora.rank=4"
    for link in [path for path in trial.iterdir() if path.is_symlink()]:
        target = link.resolve()
        link.unlink()
        shutil.copytree(target, link)
    assert done("run", "a").status == 0
    assert not any(path.is_symlink() for path in trial.iterdir())


def test_a_file_in_place_of_a_folder_is_named(done: Shell) -> None:
    trial = done.folder / "multirun" / "a" / "lora.rank=4"
    shutil.rmtree(trial)
    trial.write_text("")
    again = done("run", "a")
    assert again.status == 2 and "lora.rank=4: a file is where" in again.err


def test_an_archive_has_the_configuration_of_a_trial_without_a_folder(done: Shell) -> None:
    shutil.rmtree(done.folder / "multirun" / "a" / "lora.rank=4")
    packed = done("bundle", "a")
    assert packed.status == 0, packed.err
