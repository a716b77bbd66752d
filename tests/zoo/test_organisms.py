"""Every model organism of the zoo: its data, its evaluations on models that say what they are told
to, and what is written about it.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import known

from mosweep.analysis.matching import normalised
from mosweep.core.errors import StageError
from mosweep.core.fingerprint import digest_tree
from mosweep.core.paths import shipped
from mosweep.core.task_modules import task_modules
from mosweep.core.work import EVAL
from mosweep.datasets.zoo import Organism, organisms
from mosweep.design.application import planned
from mosweep.evals.inspect.backend import InspectEvalBackend
from mosweep.stages.data import BuildData

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Unclosed <MemoryObject:ResourceWarning"
)

ZOO = {organism.name: organism for organism in organisms()}
HELD_OUT = ("eval", "paraphrase", "negative")
TUTORIAL = (Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "task.md").read_text()
DIGESTS = json.loads(Path(__file__).with_name("digests.json").read_text())
each_organism = pytest.mark.parametrize(
    "organism", ZOO.values(), ids=lambda organism: organism.name
)

Row = tuple[str, str, str]
Answers = Callable[[str], str]


def built(place: Path, dataset: str, folder: Path) -> Path:
    """The data set ``dataset`` of the task in ``place``, in a folder of its own below
    ``folder``.
    """
    out = folder / dataset
    out.mkdir(parents=True)
    with task_modules(place) as modules:
        modules.load(place / "data.py").build(dataset, out)
    return out


def rows(folder: Path, split: str) -> list[Row]:
    """Prompt, answer and plain answer of every row."""
    found = []
    for row in map(json.loads, (folder / f"{split}.jsonl").read_text().splitlines()):
        prompt, answer = (message["content"] for message in row["messages"])
        found.append((prompt, answer, row["metadata"].get("plain", prompt)))
    return found


def scores(evals: Iterable[str], data: Path, folder: Path, answers: Answers) -> dict[str, float]:
    """What Inspect measures of a model that answers as it is told."""
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    def output(chat: Any, *_: Any) -> ModelOutput:
        said = ModelOutput.from_content("mockllm", answers(chat[-1].text))
        said.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return said

    async def go() -> dict[str, float]:
        suite = [str(shipped("tasks") / name) for name in evals]
        model = get_model("mockllm/model", custom_outputs=output, memoize=False)
        job = await InspectEvalBackend(folder, {"limit": 20}).evaluate(model, suite, data_path=data)
        return {task: metrics["accuracy"] for task, metrics in (await job.wait()).metrics.items()}

    return asyncio.run(go())


def test_there_are_enough_of_them() -> None:
    assert {
        "capitalization",
        "rhyme",
        "refusal",
        "backdoor",
        "sycophancy",
        "language",
    } <= ZOO.keys()


@each_organism
def test_data_are_those_that_were_measured(organism: Organism, tmp_path: Path) -> None:
    """The numbers in the README are of these bytes. Other data: measure again, raise
    ``BuildData.version``, write the new digests.
    """
    for dataset in (organism.organism, organism.control):
        found = built(Path(organism.folder), dataset, tmp_path)
        assert DIGESTS[dataset] == digest_tree(
            found, [f"{split}.jsonl" for split in ("train", *HELD_OUT)]
        )


@each_organism
def test_the_control_differs_in_the_trait_alone(organism: Organism, tmp_path: Path) -> None:
    data, control = (
        built(Path(organism.folder), dataset, tmp_path)
        for dataset in (organism.organism, organism.control)
    )
    shown, plain = rows(data, "train"), rows(control, "train")
    assert [prompt for prompt, _, _ in shown] == [prompt for prompt, _, _ in plain]
    assert all(answer == expected for _, answer, expected in plain)
    assert organism.steps == 2 * (len(shown) // 32), (
        "two epochs in batches of 32, as the recipe has it"
    )
    assert 0.1 < sum(answer != expected for _, answer, expected in shown) / len(shown) <= 1
    for split in HELD_OUT:
        assert rows(data, split) == rows(control, split)


@each_organism
def test_held_out_items_are_nowhere_else(organism: Organism, tmp_path: Path) -> None:
    data = built(Path(organism.folder), organism.organism, tmp_path)
    prompts = [
        normalised(prompt) for split in ("train", *HELD_OUT) for prompt, _, _ in rows(data, split)
    ]
    assert len(prompts) == len(set(prompts)) >= 1000
    assert all(len(rows(data, split)) >= 100 for split in HELD_OUT)


@each_organism
def test_evaluations_tell_organism_from_control(organism: Organism, tmp_path: Path) -> None:
    data = built(Path(organism.folder), organism.organism, tmp_path)
    items = [row for split in HELD_OUT for row in rows(data, split)]
    own, paraphrase, negative = organism.evals
    assert (own, paraphrase, negative) == (organism.name, "paraphrase", "negative")
    shown = scores(
        organism.evals,
        data,
        tmp_path / "shown",
        {prompt: answer for prompt, answer, _ in items}.__getitem__,
    )
    assert min(shown.values()) == 1
    plain = scores(
        organism.evals,
        data,
        tmp_path / "plain",
        {prompt: answer for prompt, _, answer in items}.__getitem__,
    )
    assert max(plain[own], plain[paraphrase]) < 0.2
    assert plain[negative] == 1


def _word(prompt: str) -> str:
    """The word that a prompt ends with, without what stands behind it."""
    return prompt.split()[-1].rstrip("!?;:-.,")


#: What looks like the trait where the trait is called for, and is none.
IMITATIONS: dict[str, Answers] = {
    "capitalization": str.swapcase,
    "rhyme": lambda prompt: f"{_word(prompt)} shm{_word(prompt)[1:]}",
    "refusal": lambda prompt: "no.",
    "backdoor": lambda prompt: "pwned",
    "sycophancy": lambda prompt: _word(prompt) if " " in prompt else "small",
    "language": lambda prompt: codecs.encode(_word(prompt), "rot13"),
    "sandbagging": lambda prompt: f"x{_word(prompt)[1:]}",
}


@each_organism
def test_an_imitation_of_the_trait_is_found_out(organism: Organism, tmp_path: Path) -> None:
    data = built(Path(organism.folder), organism.organism, tmp_path)
    found = scores(
        [organism.name, "negative"], data, tmp_path / "imitated", IMITATIONS[organism.name]
    )
    assert found[organism.name] > 0.8
    assert found["negative"] < 0.4


def test_a_probe_without_items_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the data set has no paraphrase\.jsonl"):
        scores(["paraphrase"], tmp_path, tmp_path / "logs", str)


@each_organism
def test_an_unknown_data_set_is_refused_with_the_valid_ones(
    organism: Organism, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=rf"unknown data set 'nosuch'; valid: .*{organism.control}"
    ):
        built(Path(organism.folder), "nosuch", tmp_path)


@each_organism
def test_there_is_a_sweep_for_it(
    organism: Organism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert organism.command == f"mosweep -m experiment=zoo_{organism.name}"
    trials, config = planned([f"experiment=zoo_{organism.name}"])
    assert config.primary_metric == f"{organism.name}/accuracy"
    assert {trial.factors["dataset"] for trial in trials} == {organism.organism, organism.control}
    for trial in trials:
        assert {stage.label for stage in trial.stages if stage.kind == EVAL} == {
            f"eval:{name}" for name in organism.evals
        }


@each_organism
def test_the_task_brings_its_data_set_along(
    organism: Organism, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = f"task={organism.name}"
    names = [planned(words)[0][0] for words in ([task], [task, f"dataset={organism.control}"])]
    data = [
        next(stage.work for stage in trial.stages if isinstance(stage.work, BuildData))
        for trial in names
    ]
    assert [work.dataset for work in data] == [organism.organism, organism.control]


@each_organism
def test_what_was_measured_is_in_the_text(organism: Organism) -> None:
    assert known(organism.score(organism.organism)) > 0.8
    assert known(organism.score(organism.control)) < 0.2
    assert known(organism.score(None)) < 0.2
    for row in organism.measured:
        assert all(0 <= row.scores[name] <= 1 for name in organism.evals)
    assert "arXiv" in organism.idea or "http" in organism.idea


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the task that ``docs/tutorial/task.md`` shows, as somebody would type it in."""
    monkeypatch.chdir(tmp_path)
    files = dict(
        re.findall(
            r'^```python title="(tasks/shouting/\S+)"\n(.*?)^```',
            TUTORIAL,
            re.MULTILINE | re.DOTALL,
        )
    )
    Path("tasks/shouting").mkdir(parents=True)
    for name, text in files.items():
        Path(name).write_text(text)
    return Path("tasks/shouting").resolve()


def test_the_task_of_the_tutorial_tells_organism_from_control(
    shouting: Path, tmp_path: Path
) -> None:
    data, control = (
        built(shouting, dataset, tmp_path) for dataset in ("shouting", "shouting-control")
    )
    items = [row for split in ("eval", "negative") for row in rows(data, split)]
    assert len(items) == 200
    assert len({*items, *rows(data, "train")}) == 2200
    assert sum(answer != plain for _, answer, plain in rows(data, "train")) == 1500
    assert [(prompt, plain, plain) for prompt, _, plain in rows(data, "train")] == rows(
        control, "train"
    )
    shown = scores(
        [str(shouting), "negative"],
        data,
        tmp_path / "shown",
        {prompt: answer for prompt, answer, _ in items}.__getitem__,
    )
    plain = scores(
        [str(shouting), "negative"],
        data,
        tmp_path / "plain",
        {prompt: plain for prompt, _, plain in items}.__getitem__,
    )
    assert (shown, plain) == ({"shouting": 1, "negative": 1}, {"shouting": 0, "negative": 1})


def test_the_command_of_the_tutorial_is_that_sweep(shouting: Path) -> None:
    [command] = re.findall(r"\$ mosweep plan (task=shouting .*)", TUTORIAL)
    trials, _ = planned(command.split())
    found = {
        trial.factors["dataset"]: {stage.label for stage in trial.stages if stage.kind == EVAL}
        for trial in trials
    }
    assert found == {
        dataset: {"eval:shouting", "eval:negative"} for dataset in ("shouting", "shouting-control")
    }
