from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import DRY, Shell

from mosweep.core import provenance as module


def read(folder: Path) -> dict[str, Any]:
    """The provenance as a new process would find it."""
    module.provenance.cache_clear()
    return module.provenance(folder)


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs git in a repository with one commit."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

    def run(*words: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    run("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    run("add", ".")
    run("commit", "-q", "-m", "first")
    return run


def test_a_clean_tree_is_its_commit(git: Callable[..., str], tmp_path: Path) -> None:
    assert read(tmp_path)["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": None}


def test_the_digest_of_a_dirty_tree_follows_the_difference(
    git: Callable[..., str], tmp_path: Path
) -> None:
    digests = []
    for text in ("x = 2\n", "x = 3\n", "x = 2\n"):
        (tmp_path / "code.py").write_text(text)
        found = read(tmp_path)["git"]
        assert found["commit"] == git("rev-parse", "HEAD")
        digests.append(found["dirty"])
    assert all(len(digest) == 64 for digest in digests)
    assert digests[0] == digests[2] != digests[1]
    git("add", ".")
    assert read(tmp_path)["git"]["dirty"] == digests[0], "staged or not, the tree is the same"
    (tmp_path / "code.py").write_text("x = 1\n")
    assert read(tmp_path)["git"]["dirty"] is None


def test_no_repository_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git" not in read(tmp_path)


def test_no_git_is_no_error(
    git: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git" not in read(tmp_path)


def test_versions_are_those_installed() -> None:
    found = module.versions()
    assert found["hydra-core"] == metadata.version("hydra-core")
    assert found["mosweep"] == metadata.version("mosweep")
    assert all(found.values())


def test_it_holds_nothing_secret(
    git: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-thisisaverysecretkey0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    git("remote", "add", "origin", f"https://me:{secret}@example.org/repo.git")
    (tmp_path / "code.py").write_text(f"key = '{secret}'\n")
    found = read(tmp_path)
    (tmp_path / ".env").write_text(secret)
    assert found["git"]["dirty"]
    text = json.dumps(found)
    assert secret not in text
    assert "example.org" not in text
    assert set(found) == {"versions", "platform", "executable", "git"}, (
        "whatever is added here must be free of secrets"
    )


def test_a_file_that_was_not_added_makes_the_tree_dirty(
    git: Callable[..., str], tmp_path: Path
) -> None:
    mine = tmp_path / "conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("a: 1\n")
    first = read(tmp_path)["git"]
    assert set(first["untracked"]) == {"conf/experiment/mine.yaml"}
    mine.write_text("a: 2\n")
    second = read(tmp_path)["git"]
    assert len({None, first["dirty"], second["dirty"]}) == 3
    git("add", ".")
    added = read(tmp_path)["git"]
    assert added["dirty"] == second["dirty"], "added or not, the tree is the same"
    assert "untracked" not in added
    git("commit", "-q", "-m", "second")
    assert read(tmp_path)["git"]["dirty"] is None


def test_what_is_ignored_does_not_count(git: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / ".git" / "info" / "exclude").write_text("*.log\n")
    (tmp_path / "a.log").write_text("noise")
    assert read(tmp_path)["git"]["dirty"] is None


@pytest.mark.parametrize("place", ["above the folder", "in the folder"])
def test_untracked_files_anywhere_in_the_tree_count(
    git: Callable[..., str], tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path if place == "above the folder" else folder).joinpath("scorer.py").write_text("x")
    assert read(folder)["git"]["dirty"]


def test_names_and_kinds_of_files_are_no_trouble(git: Callable[..., str], tmp_path: Path) -> None:
    import os

    (tmp_path / "a name\nwith a break é.py").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / os.fsdecode(b"latin-\xe9.py")).write_text("x")
    (tmp_path / ".env").write_text("PASSWORD=1234\n")
    state = read(tmp_path)["git"]
    assert state["untracked"]["link"] == "link to nowhere"
    assert state["untracked"][".env"] == "not recorded"
    json.dumps(state).encode()


def test_an_edit_in_a_repository_within_this_one_counts(
    git: Callable[..., str], tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    subprocess.run(["git", "init", "-q", str(inner)], check=True)
    states = []
    for text in ("x = 1\n", "x = 2\n"):
        (inner / "helper.py").write_text(text)
        states.append(read(tmp_path)["git"]["dirty"])
    assert len({None, *states}) == 3


def test_a_tree_without_a_commit_has_a_digest(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "code.py").write_text("x = 1\n")
    state = read(tmp_path)["git"]
    assert state["commit"] is None and len(state["dirty"]) == 64


def test_what_mosweep_writes_does_not_count(git: Callable[..., str], shell: Shell) -> None:
    """The second launch sees the sweeps and the store of the first."""
    for name in ("a", "b"):
        done = shell("-m", "lora.rank=4,8", f"experiment.name={name}", *DRY)
        assert done.status == 0, done.err
    for name in ("a", "b"):
        [launch] = (shell.folder / "multirun" / name).rglob("launches/*.json")
        assert json.loads(launch.read_bytes())["design"]["provenance"]["git"]["dirty"] is None
