"""Rounds of the evaluation-driven loop with a real Tinker-compatible server."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from tests.conftest import Shell
from tests.tinker.conftest import Server
from tests.tinker.runs import names

from mosweep.backends.tinker.recipe import load_recipe
from mosweep.backends.tinker.training import Part, TinkerTrainingBackend, TinkerTrainingRun
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.stages.loop.schedule import Schedule

pytestmark = [
    pytest.mark.real,
    # sockets that Tinker's SDK leaves to be collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHORT = (
    "loop.steps_per_round=15 loop.batch_size=16 optim.lr=0.003 lora.rank=16 "
    "inspect.task_args.limit=50"
).split()
LOOP = ("loop.enabled=true", "loop.threshold=0.9", "loop.max_rounds=3", *SHORT)


def test_two_rounds_take_the_steps_of_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter and the optimizer's state go on: every loss of the second round is that of the
    run in one.
    """
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe(
        None, ("tiny",), {"rank": 4, "batch_size": 16, "epochs": 1, "learning_rate": 6e-3}, {}
    )
    words = names(8 * 16)
    rows = [
        {
            "messages": [
                {"role": "user", "content": name},
                {"role": "assistant", "content": name.upper()},
            ]
        }
        for name in words
    ]
    rates = [Schedule(6e-3, 1e-4, 2, 8).lr(step) for step in range(1, 9)]

    async def train(name: str, first: int, last: int, start: str | None) -> TinkerTrainingRun:
        backend = TinkerTrainingBackend(
            tmp_path / name, recipe, "llama3", server.base, part=Part(rates[first:last], start)
        )
        run = await backend.train(JSONLDataset(rows[first * 16 : last * 16]), "mosweep/tiny")
        await run.wait()
        return run

    async def rounds() -> tuple[list[float], list[float]]:
        whole = await train("whole", 0, 8, None)
        first = await train("first", 0, 5, None)
        second = await train("second", 5, 8, first.state)
        return [loss for _, loss in whole.losses], [
            loss for run in (first, second) for _, loss in run.losses
        ]

    one, two = asyncio.run(rounds())
    gc.collect()  # what the SDK leaves, while it is ours
    assert len(one) == len(two) == 8
    assert two == pytest.approx(one, rel=1e-4)


def test_a_loop_on_tinker_ends_with_the_round_that_is_good_enough(
    shell: Shell, server: Server
) -> None:
    words = (
        "-m",
        "backend=tinker",
        *LOOP,
        "tracking=none",
        "run_control_trials=false",
        "experiment.name=loop",
    )
    words += ("model.generate=null", f"model.path={server.base}")  # which is there already
    done = shell(*words, env=server.environment)
    assert done.status == 0, done.out + done.err
    assert "not needed, nor are later rounds: round 2 reached the threshold" in done.out
    (trial,) = shell.summary("loop").values()
    assert trial["metrics"]["capitalization/accuracy"] >= 0.9
    again = shell(*words, env={"TINKER_API_KEY": "", "TINKER_BASE_URL": "http://127.0.0.1:9"})
    assert (again.status, "nothing to do" in again.out) == (0, True)
