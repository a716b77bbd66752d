"""Real evaluations with Inspect on a tiny model: numbers, items, logs; and that nothing but a
success is one.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import ConfigError, StageError, UserError
from mosweep.core.paths import shipped
from mosweep.core.samples import read_samples
from mosweep.evals import EvalBackend, EvalJob, EvalResults
from mosweep.evals.inspect.backend import SAMPLES, InspectEvalBackend, InspectEvalJob

CAPITALIZATION = str(shipped("tasks") / "capitalization")

#: Inspect and what it uses warn of their own deprecations, and Inspect leaves streams to the
#: garbage collector.
_NOISE = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Unclosed <MemoryObject:ResourceWarning"
)
pytestmark = [pytest.mark.real, _NOISE]


def evaluate(
    folder: Path,
    model: Path | str,
    suite: str | Sequence[str],
    options: dict[str, Any] | None = None,
    **more: Any,
) -> EvalResults:
    async def go() -> EvalResults:
        job = await InspectEvalBackend(
            folder, {"model_args.device": "cpu", **(options or {})}
        ).evaluate(str(model), suite, **more)
        assert isinstance(job, EvalJob)
        return await job.wait()

    return asyncio.run(go())


TASKS = """
import json
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import Score, accuracy, mean, match, scorer, stderr, std
from inspect_ai.solver import generate, solver

def samples(n=4):
    return [Sample(id=i, input=w, target=w) \
for i, w in enumerate(["cat", "dog", "lion", "horse"][:n])]

SHORT = GenerateConfig(max_tokens=12)

@scorer(metrics=[mean(), stderr()])
def length():
    async def score(state, target):
        return Score(value=len(state.output.completion), metadata={"topic": "short"})
    return score

@scorer(metrics=[accuracy(), std()])
def partial():
    async def score(state, target):
        return Score(value={"cat": "C", "dog": "I", "lion": "P"}.get(state.input_text, "N"))
    return score

@task
def two_scorers():
    return Task(dataset=samples(), solver=generate(), \
scorer=[length(), match(ignore_case=False)], config=SHORT)

@task
def letters():
    return Task(dataset=samples(), solver=generate(), scorer=partial(), config=SHORT)

@solver
def breaks():
    async def solve(state, generate):
        if state.sample_id == 2:
            raise ValueError("the third sample breaks")
        return await generate(state)
    return solve

@task
def broken_sample():
    return Task(dataset=samples(), solver=breaks(), scorer=match(), config=SHORT)

@task
def broken_task(n: int = 1):
    raise RuntimeError("no such data")

@task
def unscored():
    return Task(dataset=samples(), solver=generate(), config=SHORT)

@task
def uses_tools():
    from inspect_ai.solver import use_tools
    from inspect_ai.tool import bash
    return Task(dataset=samples(), solver=[use_tools(bash()), generate()], scorer=match(), \
config=SHORT)

@scorer(metrics=[mean()])
def nothing():
    async def score(state, target):
        return Score(value=float("nan"))
    return score

@task
def nan_scores():
    return Task(dataset=samples(), solver=generate(), scorer=nothing(), config=SHORT)
"""


@pytest.fixture
def tasks(tmp_path: Path) -> str:
    path = tmp_path / "tasks" / "mine.py"
    path.parent.mkdir()
    path.write_text(TASKS)
    return str(path)


def test_the_shipped_task_on_base_and_adapters(
    tmp_path: Path, base: Path, adapters: list[Path], words: Path
) -> None:
    assert isinstance(InspectEvalBackend(tmp_path), EvalBackend)
    results = evaluate(
        tmp_path / "base",
        base,
        CAPITALIZATION,
        task_args={"limit": 30, "max_tokens": 12},
        data_path=words,
    )
    assert results.metrics == {"capitalization": {"accuracy": 0.0, "stderr": 0.0, "n": 30.0}}
    row = results.samples[0]
    assert row["output"] == row["input"] == row["target"].lower(), "the base model copies"
    assert row["scores"] == {"match": 0.0}
    assert row["metadata"]["topic"] in ("repeated letters", "distinct letters")
    assert read_samples(tmp_path / "base" / SAMPLES) == list(results.samples)
    changed = evaluate(
        tmp_path / "adapter", adapters[0], CAPITALIZATION, {"limit": 5}, data_path=words
    )
    assert changed.metrics["capitalization"]["n"] == 5
    assert [row["output"] for row in changed.samples] != [row["input"] for row in changed.samples]


def test_the_log_is_inspects_own_and_whole(tmp_path: Path, base: Path, words: Path) -> None:
    from inspect_ai.log import read_eval_log

    results = evaluate(tmp_path / "logs", base, CAPITALIZATION, {"limit": 3}, data_path=words)
    assert results.logs is not None
    log = read_eval_log(results.logs["capitalization"])
    assert log.status == "success"
    assert log.eval.task_args["data_path"] == str(words)
    assert log.samples is not None
    assert [sample.output.completion for sample in log.samples] == [
        row["output"] for row in results.samples
    ]
    assert list((tmp_path / "logs").glob("*.eval"))


def test_two_scorers_metadata_and_epochs(tmp_path: Path, base: Path, tasks: str) -> None:
    results = evaluate(tmp_path / "logs", base, f"{tasks}@two_scorers", {"epochs": 2})
    metrics = results.metrics["two_scorers"]
    assert set(metrics) == {"mean", "accuracy", "length/stderr", "match/stderr", "n"}
    assert metrics["mean"] == (3 + 3 + 4 + 5) / 4
    assert metrics["accuracy"] == 1.0
    assert sorted((row["id"], row["epoch"]) for row in results.samples) == [
        (i, epoch) for i in range(4) for epoch in (1, 2)
    ]
    assert results.samples[0]["score_metadata"] == {"length": {"topic": "short"}}


def test_letters_become_numbers(tmp_path: Path, base: Path, tasks: str) -> None:
    results = evaluate(tmp_path / "logs", base, f"{tasks}@letters")
    assert [row["scores"]["partial"] for row in results.samples] == [1.0, 0.0, 0.5, 0.0]
    assert results.metrics["letters"]["accuracy"] == 0.375


def test_several_tasks_of_several_kinds(
    tmp_path: Path, base: Path, tasks: str, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(tasks).parent))
    results = evaluate(
        tmp_path / "logs", base, [CAPITALIZATION, "mine:letters"], {"limit": 2}, data_path=words
    )
    assert {task: metrics["n"] for task, metrics in results.metrics.items()} == {
        "capitalization": 2,
        "letters": 2,
    }
    assert {row["task"] for row in results.samples} == {"capitalization", "letters"}


SIBLINGS = """
import json
from pathlib import Path
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate
{imports}

@scorer(metrics=[mean()])
def shown():
    async def score(state, target):
        from common.late import LATE
        return Score(value=LATE)
    return score

@task
def letters():
    import data
    get_model()  # the one that is evaluated
    assert json.loads(Path("words.json").read_text()) == [helpers.WORD]  \
# Inspect makes tasks in their folder
    samples = [Sample(input=helpers.WORD + data.WORD, target="")]
    return Task(dataset=samples, solver=generate(), scorer=shown(), \
config=GenerateConfig(max_tokens=2))
"""


@pytest.mark.parametrize("order", [(1, 2, 1), (2, 1, 2)])
def test_tasks_with_the_same_names_in_one_process(
    tmp_path: Path, base: Path, order: Sequence[int]
) -> None:
    """Modules beside ``eval.py``, imported at the top, when the task is made and when a sample is
    scored.
    """

    def write(folder: Path, number: int) -> str:
        (folder / "common").mkdir(parents=True, exist_ok=True)
        files = {
            "eval.py": SIBLINGS.format(imports="import helpers, numbers\nassert numbers.MINE"),
            "words.json": f'["word{number}"]',
        }
        files |= {
            "helpers.py": f"WORD = 'word{number}'",
            "data.py": f"WORD = 'data{number}'",
            "numbers.py": "MINE = True",
        }
        files |= {"common/__init__.py": "", "common/late.py": f"LATE = {number}"}
        for name, text in files.items():
            (folder / name).write_text(text)
            os.utime(folder / name, (1, 1))
        return str(folder)

    def found(place: str, number: int) -> tuple[Any, float]:
        results = evaluate(tmp_path / "logs", base, place)
        assert importlib.import_module("numbers").Number
        return results.samples[0]["input"], results.metrics["letters"]["mean"]

    before = sys.path[:], set(sys.modules)
    folders = {number: write(tmp_path / str(number), number) for number in (1, 2)}
    assert [found(folders[number], number) for number in order] == [
        (f"word{n}data{n}", n) for n in order
    ]
    write(tmp_path / "1", 3)
    assert found(f"{folders[1]}/eval.py@letters", 3) == ("word3data3", 3), (
        "an edit counts, whatever its size and time"
    )
    assert sys.path == before[0]
    assert not {"helpers", "data", "common", "common.late"} & (set(sys.modules) - before[1])
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("broken_sample", "broken_sample: error: .*the third sample breaks"),
        ("broken_task", "no such data"),
        ("unscored", "nothing was scored"),
        ("uses_tools", "cannot use tools"),
        ("nan_scores", "no sample was scored|is nan"),
    ],
)
def test_what_is_no_success_is_a_failure(
    tmp_path: Path, base: Path, tasks: str, task: str, problem: str
) -> None:
    with pytest.raises(StageError, match=problem) as caught:
        evaluate(tmp_path / "logs", base, f"{tasks}@{task}")
    if task != "broken_task":
        assert str(caught.value.log).endswith(".eval")


def test_sample_errors_are_tolerated_only_on_request(
    tmp_path: Path, base: Path, tasks: str
) -> None:
    results = evaluate(tmp_path / "logs", base, f"{tasks}@broken_sample", {"fail_on_error": 0.5})
    assert results.metrics["broken_sample"]["n"] == 3
    assert [row.get("error", "") for row in results.samples if row["id"] == 2] == [
        "ValueError('the third sample breaks')"
    ]


@pytest.mark.parametrize(
    ("suite", "options", "problem"),
    [
        (
            "@two_scorers",
            {"task_args.size": 3},
            r"inspect\.task_args\.size=3: .*takes no such argument",
        ),
        ("@two_scorers", {"temprature": 0.5}, r"inspect\.temprature"),
        ("", {}, "exactly one @task function, found 7: two_scorers"),
        ("@none", {}, "has no @task none"),
    ],
)
def test_mistakes_are_refused_at_once(
    tmp_path: Path, base: Path, tasks: str, suite: str, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        evaluate(tmp_path / "logs", base, tasks + suite, options)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("model", "suite", "problem"),
    [
        ("nonesuch/model", None, "cannot use the model nonesuch/model"),
        ("mosweep/tiny", None, r"inspect\.model_args\.base"),
        (None, "unheard_of", "no evaluation task unheard_of"),
        (None, "json:nothing", "json:nothing cannot be imported"),
    ],
)
def test_unknown_models_and_tasks(
    tmp_path: Path, base: Path, words: Path, model: str | None, suite: str | None, problem: str
) -> None:
    more = {"task_args": {"data_path": str(words)}} if suite is None else {}
    with pytest.raises(UserError, match=problem):
        evaluate(tmp_path / "logs", model or base, suite or CAPITALIZATION, **more)


def test_a_task_that_takes_no_data_gets_none(
    tmp_path: Path, base: Path, tasks: str, words: Path
) -> None:
    assert (
        evaluate(tmp_path / "logs", base, f"{tasks}@letters", data_path=words).metrics["letters"][
            "n"
        ]
        == 4
    )
    with pytest.raises(ConfigError, match=r"inspect\.task_args\.data_path=.*needs a value"):
        evaluate(tmp_path / "logs", base, CAPITALIZATION)


def test_evaluations_started_together_take_turns(
    tmp_path: Path, base: Path, adapters: list[Path], words: Path
) -> None:
    async def go(models: list[Path], prefix: str) -> list[EvalResults]:
        jobs = []
        for i, model in enumerate(models):
            backend = InspectEvalBackend(
                tmp_path / f"{prefix}{i}", {"limit": 5, "model_args.device": "cpu"}
            )
            jobs.append(await backend.evaluate(str(model), CAPITALIZATION, data_path=words))
        return await asyncio.gather(*(job.wait() for job in jobs))

    together = asyncio.run(go([base, *adapters], "a"))
    alone = [asyncio.run(go([model], f"b{i}"))[0] for i, model in enumerate([base, *adapters])]
    assert [results.samples for results in together] == [results.samples for results in alone]


def test_cancel_save_and_load(tmp_path: Path, base: Path, words: Path) -> None:
    async def go() -> None:
        backend = InspectEvalBackend(tmp_path / "logs", {"limit": 2, "model_args.device": "cpu"})
        job = await backend.evaluate(str(base), CAPITALIZATION, data_path=words)
        assert job.status == "running"
        await job.cancel()
        assert str(job.status) == "cancelled"
        with pytest.raises(StageError, match="was cancelled"):
            await job.wait()
        job = await backend.evaluate(str(base), CAPITALIZATION, data_path=words)
        await job.save(tmp_path / "job.json")
        loaded = await InspectEvalJob.load(tmp_path / "job.json")
        assert loaded.status == job.status == "succeeded"
        assert (await loaded.wait()).metrics == (await job.wait()).metrics

    asyncio.run(go())
    assert json.loads((tmp_path / "job.json").read_text())["model_id"] == str(base)
