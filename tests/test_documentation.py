"""What the README and the pages of docs/ show works as shown.

Blocks of a page are taken in their order, in one empty folder. A block with a title is a file of
that name. ``console``: commands are run, and what they print is what is shown, where … stands for
anything. ``sh``, and commands in tables: sweeps are planned, other verbs tried on a small dry run.
A comment above a block may say ``plan only`` (it trains for real) or ``needs PACKAGE``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.conftest import Shell

from mosweep.cli.main import VERBS, dispatch
from mosweep.core.paths import shipped

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"\n]*)\")?\n"
    r"(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
TREATMENTS = '{"model": ["tiny", "tiny-wide"], "lora.rank": [4, 64]}'
#: Words that stand for something of the reader's.
PLACEHOLDERS = {"VERB", "OVERRIDES", "KEY", "TRIAL", "NAME", "GROUP=mine", "…"}
#: Verbs that are named without what they need.
BARE = [["verify"], ["cache"], ["explain"], ["zoo"]]
#: Sweeps of the tutorial; the dry run has another name.
SWEEPS = {"size", "shouting", "search"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    note: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["title"] or "", found["note"] or "", found["text"])
        for found in BLOCK.finditer(page.read_text())
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every mosweep command in lines of ``text``, without the program's name."""
    for line in text.splitlines():
        if line.removeprefix("$ ").startswith("mosweep "):
            yield shlex.split(line.removeprefix("$ "))[1:]


def tabled(page: Path) -> Iterator[list[str]]:
    """Commands in the running text and in tables."""
    for found in re.findall(r"`(mosweep [^`]+)`", BLOCK.sub("", page.read_text())):
        words = shlex.split(found)[1:]
        if not PLACEHOLDERS & set(words):
            yield words


def is_sweep(words: Sequence[str]) -> bool:
    return words[0] in ("-m", "plan") or "=" in words[0]


#: Every command but those whose output is shown.
ALL = [
    words
    for page in PAGES
    for block in blocks(page)
    if block.language == "sh"
    for words in commands(block.text)
] + [words for page in PAGES for words in tabled(page)]
#: Verbs with their arguments, each once, those last that empty the store.
TRIED = sorted(
    {
        tuple(words)
        for words in ALL
        if not is_sweep(words) and words[0] in VERBS and words not in BARE
    },
    key=lambda words: ("clear" in words, words),
)


def missing(note: str) -> str | None:
    """The package that a block needs and that is not here."""
    name = note.removeprefix("needs ") if note.startswith("needs ") else ""
    try:
        return importlib.metadata.version(name) and None if name else None
    except importlib.metadata.PackageNotFoundError:
        return name


def plan(words: Sequence[str]) -> int:
    """Plan a sweep in this process: quicker than a process each."""
    return dispatch(["plan", *(word for word in words if word not in ("-m", "plan"))])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(
    page: Path,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(shell.folder)
    monkeypatch.setenv("MOSWEEP_HOME", str(shell.folder / ".mosweep"))
    (shell.folder / "treatments.json").write_text(TREATMENTS)
    for block in blocks(page):
        if block.title:
            file = shell.folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
            if file.suffix == ".py" and file.parent == shell.folder:
                subprocess.run([sys.executable, file.name], cwd=shell.folder, check=True)
        elif block.language == "console":
            for shown in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE)[1:]:
                _run_as_shown(shown, block.note, shell, capsys)
        elif block.language == "sh" and not missing(block.note):
            for words in commands(block.text):
                if is_sweep(words):
                    assert plan(words) == 0, (words, capsys.readouterr().err)
    for words in tabled(page):
        if is_sweep(words):
            assert plan(words) == 0, (words, capsys.readouterr().err)


def _run_as_shown(shown: str, note: str, shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    command, _, output = shown.partition("\n")
    [words] = commands(command)
    if output.startswith("mosweep: "):
        done = shell("plan", *(word for word in words if word not in ("-m", "plan")))
        assert done.status == 2, done.out
        assert re.fullmatch(_pattern(output), _squeezed(done.err)), done.err
    elif note == "plan only":
        assert plan(words) == 0, (words, capsys.readouterr().err)
    else:
        done = shell(*words)
        assert done.status == 0, done.err
        assert re.fullmatch(_pattern(output), _squeezed(done.out)), f"{output}\n---\n{done.out}"


def _squeezed(text: str) -> str:
    """Without the widths of columns."""
    return re.sub(r" +", " ", re.sub(r"─+", "─", text)).strip()


def _pattern(output: str) -> str:
    lines = _squeezed(output).splitlines()
    return "".join(
        r"[\s\S]*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\s*"
        for line in lines
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dry run that is called ``demo``, a bundle of it, and its entries."""
    folder = tmp_path_factory.mktemp("demo")
    for words in (
        "-m model=tiny,tiny-wide lora.rank=4,64 backend=dummy tracking=none experiment.name=demo",
        "bundle demo",
        "cache export results.tar.gz --experiment demo",
    ):
        subprocess.run(
            [sys.executable, "-m", "mosweep", *words.split()],
            cwd=folder,
            env=_environment(folder),
            check=True,
            capture_output=True,
        )
    return folder


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "MOSWEEP_HOME": str(folder / ".mosweep")}


@pytest.mark.parametrize("words", TRIED, ids=" ".join)
def test_verbs_work(
    words: Sequence[str],
    demo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words[0] == "ui":
        pytest.skip("starts a server")
    monkeypatch.chdir(demo)
    monkeypatch.setenv("MOSWEEP_HOME", str(demo / ".mosweep"))
    words = ["demo" if word in SWEEPS else word for word in words]
    if words[:2] in (["cache", "clear"], ["cache", "gc"]):
        words.append("--yes")
    if words[:2] == ["cache", "export"]:
        (demo / words[2]).unlink()
    if words[0] == "sync":
        done = subprocess.run(
            [sys.executable, "-m", "mosweep", *words],
            env=_environment(demo),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return
    assert dispatch(words) == 0, capsys.readouterr().err


def test_every_command_is_one_that_there_is() -> None:
    for words in ALL:
        assert is_sweep(words) or words[0] in VERBS or words[0].startswith("-"), words


def test_the_ways_of_writing_a_design_are_one_design(shell: Shell) -> None:
    (shell.folder / "treatments.json").write_text(TREATMENTS)
    page = ROOT / "docs" / "how-to" / "designs.md"
    named = ("experiment=rank", "seeds=3", "lora.rank=4,64 seed=0,1,2")
    ways = [
        words
        for words in [*tabled(page), *(words for b in blocks(page) for words in commands(b.text))]
        if any(name in " ".join(words) for name in named) and "contrasts" not in " ".join(words)
    ]
    assert len(ways) == 4
    keys = set()
    for words in ways:
        jobs = shell("plan", *words[1:], "--json").json["jobs"]
        keys.add(frozenset(job["key"] for job in jobs))
    assert len(keys) == 1
    assert len(keys.pop()) == 1 + 2 + 12 + 14


def test_the_design_that_is_shown_is_the_one_that_is_shipped() -> None:
    [shown] = [
        yaml.safe_load(block.text)
        for block in blocks(ROOT / "docs" / "how-to" / "designs.md")
        if block.language == "yaml" and not block.title
    ]
    there = yaml.safe_load((shipped("conf") / "experiment" / "rank.yaml").read_text())
    assert shown == {key: there[key] for key in shown}


def test_rows_of_data_are_json() -> None:
    shown = [block.text for page in PAGES for block in blocks(page) if block.language == "json"]
    assert all("messages" in json.loads(text) for text in shown)
    assert len(shown) >= 2


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len(README.read_text().splitlines()) <= 150
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 300_000
    for place in re.findall(r"\]\((?!http)([^)#]+)", README.read_text()):
        assert (ROOT / place).exists(), place
