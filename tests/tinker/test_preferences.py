"""Direct preference optimisation with a real Tinker-compatible server."""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell, known
from tests.tinker.conftest import Server
from tests.tinker.runs import MODEL, events, in_loop, kill_group, names

from mosweep.backends.tinker.data import batches, render_pairs
from mosweep.backends.tinker.recipe import TinkerRecipe, load_recipe
from mosweep.backends.tinker.service import Service, load_renderer
from mosweep.backends.tinker.training import JOURNAL, Part, TinkerTrainingBackend, TinkerTrainingRun
from mosweep.core.errors import StageError, UserError
from mosweep.datasets.jsonl import JSONLDataset

pytestmark = [
    pytest.mark.real,
    # sockets that Tinker's SDK leaves to be collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PAIRS, STEPS = 160, 10


def recipe(**settings: Any) -> TinkerRecipe:
    given = {"rank": 4, "batch_size": 16, "epochs": 1, "learning_rate": 1e-3, "save_every": 4}
    return load_recipe(None, ("tiny",), given, settings, "dpo")


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Capitals are preferred to the word itself, which is what the base model answers."""
    return [
        {
            "messages": [
                {"role": "user", "content": name},
                {"role": "assistant", "content": name.upper()},
            ],
            "rejected": name,
        }
        for name in names(count, first, stride=7919)
    ]


def curve(run: TinkerTrainingRun) -> list[tuple[int, Any]]:
    return [(step, pytest.approx(loss, abs=1e-4)) for step, loss in run.losses]


def asked(folder: Path) -> list[int]:
    """The rows whose reference an attempt was told."""
    return [
        row
        for event in events(folder)
        if event["event"] == "reference"
        for row, *_ in event["pairs"]
    ]


@pytest.fixture(autouse=True)
def key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def undisturbed(server: Server, tmp_path_factory: pytest.TempPathFactory) -> TinkerTrainingRun:
    """A run that nothing happens to."""

    async def train() -> TinkerTrainingRun:
        backend = TinkerTrainingBackend(
            tmp_path_factory.mktemp("undisturbed"), recipe(), "llama3", server.base
        )
        run = await backend.train(JSONLDataset(rows(PAIRS)), MODEL)
        await run.wait()
        return run

    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        return asyncio.run(train())


def test_it_begins_at_ln_2_and_learns_what_is_preferred(undisturbed: TinkerTrainingRun) -> None:
    measures = {name: [value for _, value in found] for name, found in undisturbed.measures.items()}
    losses = [loss for _, loss in undisturbed.losses]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)  # the policy is the reference
    assert measures["margin"][0] == pytest.approx(0, abs=1e-5)
    assert losses[-1] < 0.1
    assert measures["accuracy"][-1] == 1
    assert all(value > 0.9 for value in measures["accuracy"][1:])
    margins = [
        chosen - rejected
        for chosen, rejected in zip(
            measures["chosen_reward"], measures["rejected_reward"], strict=True
        )
    ]
    assert measures["margin"] == pytest.approx(margins, abs=1e-4)
    # 34 tokens an answer with its question, of which the last one is only predicted; the reference
    # is asked once, about whole answers.
    assert undisturbed.tokens == PAIRS * 2 * 33
    assert undisturbed.forward_tokens == PAIRS * 2 * (33 + 34)
    assert undisturbed.sampled_tokens == PAIRS * 2
    assert sorted(asked(undisturbed.folder)) == list(range(PAIRS))


@in_loop
async def test_pairs_that_it_never_saw_are_told_apart_and_the_chosen_answer_is_given(
    server: Server, undisturbed: TinkerTrainingRun
) -> None:
    from inspect_ai.model import GenerateConfig, get_model
    from tinker import ModelInput

    import mosweep.backends.tinker.registry  # noqa: F401

    unseen = rows(24, first=50_000)
    pairs = render_pairs(load_renderer("llama3", MODEL, server.base), unseen, "answer", 128)
    service = Service(server.url)
    client = await service.open({})

    async def accuracy(**model: Any) -> float:
        sampler = await client.create_sampling_client(**model)

        async def logprob(answer: Any) -> float:
            found = await sampler.compute_logprobs(ModelInput.from_ints(list(answer.tokens)))
            weighted = zip(found, answer.weights, strict=True)
            return math.fsum(known(one) for one, weight in weighted if weight)

        both = await asyncio.gather(
            *(logprob(answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
        )
        return sum(
            chosen > rejected for chosen, rejected in zip(both[0::2], both[1::2], strict=True)
        ) / len(pairs)

    assert await accuracy(base_model=MODEL) < 0.1
    assert await accuracy(model_path=undisturbed.weights) > 0.9
    await service.close(client, "success")
    tuned = get_model(
        undisturbed.model_id, renderer="llama3", tokenizer=str(server.base), memoize=False
    )
    answers = await asyncio.gather(
        *(tuned.generate(row["rejected"], config=GenerateConfig(max_tokens=12)) for row in unseen)
    )
    right = sum(
        answer.completion == row["messages"][-1]["content"]
        for answer, row in zip(answers, unseen, strict=True)
    )
    assert right > 0.7 * len(unseen)  # the base model copies


@in_loop
async def test_two_rounds_take_the_steps_of_one(
    server: Server, undisturbed: TinkerTrainingRun, tmp_path: Path
) -> None:
    """The reference of the second is not what the first came to, but what both began with."""
    order = [row for step in batches(PAIRS, 16, 1, None, recipe().seed) for row in step]
    rates, begun = [recipe().rate(step, STEPS) for step in range(1, STEPS + 1)], 6

    async def train(first: int, last: int, start: str | None) -> TinkerTrainingRun:
        backend = TinkerTrainingBackend(
            tmp_path / f"{first}",
            recipe(),
            "llama3",
            server.base,
            part=Part(rates[first:last], start),
        )
        run = await backend.train(
            JSONLDataset(rows(PAIRS)[row] for row in order[16 * first : 16 * last]), MODEL
        )
        await run.wait()
        return run

    first = await train(0, begun, None)
    second = await train(begun, STEPS, first.state)
    assert first.losses + [(begun + step, loss) for step, loss in second.losses] == curve(
        undisturbed
    )


def test_a_sweep_killed_in_the_middle_goes_on_as_if_nothing_had_happened(
    shell: Shell, server: Server, undisturbed: TinkerTrainingRun
) -> None:
    (shell.folder / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows(PAIRS))
    )
    sweep = [
        "-m",
        "backend=tinker",
        "backend.method=dpo",
        "dataset.path=pairs.jsonl",
        "model=tiny",
        "lora.rank=4",
        "optim.lr=1e-3",
    ]
    sweep += [
        "optim.batch_size=16",
        "optim.epochs=1",
        "tinker.save_every=4",
        "eval=dummy",
        "tracking=none",
        "run_control_trials=false",
    ]
    sweep += ["model.generate=null", f"model.path={server.base}"]  # which is there already
    first = shell.start(*sweep, start_new_session=True)
    store = shell.folder / ".mosweep" / "store"
    while not (
        found := [path for path in store.rglob(JOURNAL) if '"checkpoint"' in path.read_text()]
    ):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    kill_group(first.pid)
    first.communicate()
    assert '"weights"' not in found[0].read_text()
    done = shell(*sweep)
    assert done.status == 0, done.out + done.err
    records = [
        json.loads(path.read_text().splitlines()[0]) for path in (store / "records").rglob("*.json")
    ]
    [facts] = [record["facts"] for record in records if record["kind"] == "finetune"]
    assert facts["resumed_at_step"] in (4, 8)
    assert [(step, loss) for step, loss in facts["loss"]] == curve(undisturbed)
    assert set(facts["curves"]) == {"accuracy", "margin", "chosen_reward", "rejected_reward"}
    assert facts["curves"]["accuracy"] == [
        list(point) for point in undisturbed.measures["accuracy"]
    ]
    usage = facts["usage"]
    # some steps were taken twice, the reference was not
    assert usage["train_tokens"] >= undisturbed.tokens
    assert (
        usage["input_tokens"] - usage["train_tokens"]
        == undisturbed.forward_tokens - undisturbed.tokens
    )
    assert usage["output_tokens"] == undisturbed.sampled_tokens
    assert usage["usd"] is None  # nobody's price is known for the tiny model


@in_loop
async def test_data_without_preferences_fail_before_tinker_is_asked(tmp_path: Path) -> None:
    data = JSONLDataset([*rows(2), {"messages": rows(1)[0]["messages"]}])
    with pytest.raises(
        UserError,
        match="sample 3: method=dpo needs the dispreferred answer, as text, in rejected",
    ):
        await TinkerTrainingBackend(
            tmp_path / "run", recipe(), "llama3", base_url="http://127.0.0.1:9"
        ).train(data, MODEL)
    assert not (tmp_path / "run").exists()


@in_loop
async def test_a_model_without_a_reference_is_an_error(server: Server, tmp_path: Path) -> None:
    run = await TinkerTrainingBackend(tmp_path, recipe(), "llama3", server.base).train(
        JSONLDataset(rows(16)), "mosweep/other"
    )
    with pytest.raises(StageError, match="mosweep/other"):
        await run.wait()


@in_loop
async def test_whatever_is_killed_when_the_losses_are_as_if_nothing_had_happened(
    server: Server, undisturbed: TinkerTrainingRun, tmp_path: Path
) -> None:
    async def attempt(number: int) -> TinkerTrainingRun:
        previous = tmp_path / str(number - 1) if number else None
        backend = TinkerTrainingBackend(
            tmp_path / str(number),
            recipe(),
            "llama3",
            server.base,
            previous=previous,
            patience_s=120,
        )
        return await backend.train(JSONLDataset(rows(PAIRS)), MODEL)

    async def until(run: TinkerTrainingRun, event: str) -> None:
        while not any(one["event"] == event for one in events(run.folder)):
            assert await run.refresh() == "running"
            await asyncio.sleep(0.01)

    first = await attempt(0)
    await until(first, "reference")
    await first.cancel()
    assert 0 < len(asked(first.folder)) < PAIRS
    second = await attempt(1)
    await until(second, "checkpoint")
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.up)
    await second.wait()
    assert len(second.jobs) == 2
    assert second.resumed_at_step in (4, 8)
    assert second.losses == curve(undisturbed)
    assert sorted(asked(second.folder)) == list(range(PAIRS))  # none was asked for twice
    assert second.sampled_tokens == undisturbed.sampled_tokens
