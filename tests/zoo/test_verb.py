"""``mosweep zoo``: the shipped organisms, a user's own beside them, and READMEs that cannot be
understood.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import Shell

from mosweep.core.errors import ConfigError
from mosweep.datasets.zoo import organisms, the_organism

FRONT = """---
zoo:
  title: Shouting
  trait: Shouts.
  idea: mine
  organism: loud
  control: quiet
  evals: {shouting: how often it shouts}
  command: mosweep -m task=shouting
  steps: 3
  measured:
    - {model: small, dataset: loud, scores: {shouting: 0.75}}
---
# Shouting

About it.
"""


def own(folder: Path, text: str, name: str = "shouting") -> None:
    (folder / "tasks" / name).mkdir(parents=True)
    (folder / "tasks" / name / "README.md").write_text(text)


def test_list(shell: Shell) -> None:
    done = shell("zoo", "list")
    assert done.status == 0, done.err
    listed = shell("zoo", "list", "--json").json
    names = [organism["name"] for organism in listed]
    assert names == sorted(names)
    lines = {line.split()[0]: line for line in done.out.splitlines() if line}
    for organism in listed:
        trait = {
            row["dataset"]: row["scores"][organism["name"]]
            for row in organism["measured"]
            if row["model"] == "tiny"
        }
        line = lines[organism["name"]]
        assert f"{trait[organism['organism']]:.3f}" in line
        assert f"{organism['control']} " in line
        assert f"{trait[organism['control']]:.3f}" in line


def test_show(shell: Shell) -> None:
    done = shell("zoo", "show", "backdoor")
    assert done.status == 0, done.err
    data = shell("zoo", "show", "backdoor", "--json").json
    for word in (
        data["title"],
        data["trait"],
        data["idea"],
        data["command"],
        data["organism"],
        data["control"],
        *data["evals"].values(),
    ):
        assert word in done.out
    assert "(nothing)" in done.out
    assert data["text"] in done.out


def test_an_unknown_name_is_refused_with_the_valid_ones(shell: Shell) -> None:
    done = shell("zoo", "show", "bakdoor")
    assert (done.status, done.out) == (2, "")
    assert (
        "mosweep: bakdoor: the zoo has no such model organism; did you mean backdoor?" in done.err
    )


def test_a_users_own_is_listed_beside_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = len(organisms())
    own(tmp_path, FRONT)
    own(tmp_path, "---\nlicense: mit\n---\nA task, and no organism.\n", "licensed")
    own(tmp_path, "# A task, and no organism\n", "plain")
    assert len(organisms()) == shipped + 1
    mine = the_organism("shouting")
    assert (mine.text, mine.score("loud"), mine.score("quiet"), mine.measured[0].seeds) == (
        "# Shouting\n\nAbout it.",
        0.75,
        None,
        1,
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "title: Shouting",
            "titel: Shouting",
            r"zoo\.titel=Shouting: .*shouting/README\.md: no such key; did you mean title",
        ),
        ("  steps: 3\n", "", r"zoo\.steps=\?\?\?: .*README\.md: a value is required"),
        (
            "{shouting: 0.75}",
            "{shout: 0.75}",
            r"zoo\.measured\.scores=.*README\.md: no score of shouting",
        ),
        ("title: Shouting", "title: [", r"README\.md.*is not YAML"),
    ],
)
def test_front_matter_with_a_mistake_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own(tmp_path, FRONT.replace(old, new))
    with pytest.raises(ConfigError, match=problem):
        organisms()
