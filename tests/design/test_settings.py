"""Settings: data sets and evaluations chosen by tags, in Python and in sweeps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.errors import UserError
from mosweep.design.settings import Setting, get_setting, list_settings, register_setting


def built() -> Setting:
    setting = (
        Setting("mathematics")
        .add_dataset("sums", ["math", "easy"])
        .add_dataset("poems", tags=["verse"])
    )
    return (
        setting.add_eval("gsm8k", ["math"])
        .add_eval("rhyme", ["verse", "easy"])
        .add_eval("untagged")
    )


@pytest.mark.parametrize(
    ("tags", "datasets", "evals"),
    [
        (None, ["sums", "poems"], ["gsm8k", "rhyme", "untagged"]),
        ([], [], []),
        (["math"], ["sums"], ["gsm8k"]),
        (["math", "verse"], ["sums", "poems"], ["gsm8k", "rhyme"]),
        (["easy"], ["sums"], ["rhyme"]),
        (["none has it"], [], []),
    ],
)
def test_any_tag_matches(tags: list[str] | None, datasets: list[str], evals: list[str]) -> None:
    setting = built()
    assert setting.collate_datasets(tags) == datasets
    assert setting.collate_evals(tags) == evals


def test_mistakes() -> None:
    with pytest.raises(UserError, match="already has the evaluation 'gsm8k'"):
        built().add_eval("gsm8k")
    with pytest.raises(UserError, match="expected a list of words"):
        built().collate_evals("math")


def test_registry() -> None:
    @register_setting("test-plain")
    def plain() -> Setting:
        return built()

    @register_setting("test-async")
    async def later() -> Setting:
        return built()

    assert {"test-plain", "test-async"} <= set(list_settings())
    assert (
        asyncio.run(get_setting("test-async")) == asyncio.run(get_setting("test-plain")) == built()
    )
    assert register_setting("test-plain")(plain) is plain
    with pytest.raises(UserError, match="a setting 'test-plain' is already registered"):
        register_setting("test-plain")(built)
    with pytest.raises(UserError, match=r"no setting 'test-plian'.*test-plain"):
        asyncio.run(get_setting("test-plian"))


SETTING = """
name: mine
datasets:
  - {dataset.path: one.jsonl, dataset.name: one, tags: [small]}
  - {dataset.path: two.jsonl, dataset.name: two, tags: [small, other]}
evals:
  - {task: capitalization, tags: [small]}
  - {task: copying, tags: [other]}
"""


@pytest.fixture
def with_setting(shell: Shell) -> Shell:
    (shell.folder / "conf" / "setting").mkdir(parents=True)
    (shell.folder / "conf" / "setting" / "mine.yaml").write_text(SETTING)
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}]}
    for number, name in enumerate(("one", "two"), 1):
        (shell.folder / f"{name}.jsonl").write_text(number * (json.dumps(row) + "\n"))
    return shell


def factors(shell: Shell, *words: str) -> list[tuple[str, list[str]]]:
    """Data set and evaluations of each trial of a dry sweep."""
    name = f"s{len(list(Path(shell.folder).glob('multirun/*')))}"
    done = shell(
        "-m", *DRY, "tracking=none", "run_control_trials=false", f"experiment.name={name}", *words
    )
    assert done.status == 0, done.err
    trials = shell.summary(name).values()
    return sorted(
        (t["factors"].get("dataset.name", ""), sorted({m.split("/")[0] for m in t["metrics"]}))
        for t in trials
    )


def test_in_a_sweep(with_setting: Shell) -> None:
    both = ["capitalization", "copying"]
    assert factors(with_setting, "setting=mine") == [("one", both), ("two", both)]
    assert factors(with_setting, "setting=mine", "tags=[other]") == [("two", ["copying"])]
    assert len(factors(with_setting, "setting=mine", "tags=[small]", "lora.rank=4,8")) == 4
    assert factors(with_setting, "setting=mine", "eval.tasks=[copying]") == [
        ("one", ["copying"]),
        ("two", ["copying"]),
    ]
    design = ["setting=mine", "treatments={dataset.name: [three], dataset.path: [one.jsonl]}"]
    assert factors(with_setting, *design) == [("three", both)], "the design's own data sets win"


def test_mistakes_in_a_sweep(with_setting: Shell) -> None:
    for words, says in (
        (["setting=mine", "tags=[smal]"], "setting mine has no such tag"),
        (["tags=[small]"], "add setting=NAME"),
        (["setting=nonesuch"], "nonesuch"),
        (["setting=mine", "tags=small"], "expected a list of words"),
    ):
        done = with_setting("-m", *DRY, *words, "experiment.name=wrong")
        assert (done.status, says in done.err) == (2, True), done.err
    assert not (with_setting.folder / "multirun" / "wrong").exists()
