from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

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
    assert found["git"]["dirty"]
    text = json.dumps(found)
    assert secret not in text
    assert "example.org" not in text
    assert set(found) == {"versions", "platform", "executable", "git"}, (
        "whatever is added here must be free of secrets"
    )
