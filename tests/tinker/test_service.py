"""Fine-tunes, evaluations and accidents with a real Tinker-compatible server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell, known
from tests.tinker.conftest import Server
from tests.tinker.runs import MODEL, events, in_loop, kill_group, names

from mosweep.backends.tinker.recipe import TinkerRecipe, load_recipe
from mosweep.backends.tinker.service import Service
from mosweep.backends.tinker.training import JOURNAL, TinkerTrainingBackend, TinkerTrainingRun
from mosweep.backends.tinker.works import TinkerFinetune
from mosweep.core.errors import ConfigError, StageError, UserError
from mosweep.datasets.jsonl import JSONLDataset

pytestmark = [
    pytest.mark.real,
    # sockets that Tinker's SDK leaves to be collected
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

#: As many steps as capitalizing takes.
QUICK = (
    "optim.batch_size=16 optim.epochs=1 optim.max_steps_per_epoch=28 optim.lr=6e-3 "
    "tinker.warmup_steps=2"
).split()
DESIGN = (
    "-m",
    "backend=tinker",
    "model=tiny",
    "lora.rank=4,16",
    *QUICK,
    "tinker.save_every=8",
    "tracking=none",
    "experiment.name=e",
)


def recipe(**settings: Any) -> TinkerRecipe:
    return load_recipe(
        None,
        ("tiny",),
        {"rank": 4, "batch_size": 16, "epochs": 1, "learning_rate": 6e-3, "warmup_steps": 2},
        settings,
    )


def assert_same(losses: Sequence[tuple[int, float]], others: Sequence[tuple[int, float]]) -> None:
    """The same steps with the same losses, but for rounding."""
    assert [step for step, _ in losses] == [step for step, _ in others]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in others], abs=2e-5)


def words(count: int) -> JSONLDataset:
    rows = (
        [{"role": "user", "content": name}, {"role": "assistant", "content": name.upper()}]
        for name in names(count)
    )
    return JSONLDataset({"messages": messages} for messages in rows)


@pytest.fixture(autouse=True)
def key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def undisturbed(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[int, float]]:
    """The losses of a run of 12 steps that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")

    async def train() -> list[tuple[int, float]]:
        run = await TinkerTrainingBackend(
            folder, recipe(save_every=4), "llama3", server.base
        ).train(words(192), MODEL)
        model_id = await run.wait()
        assert model_id.startswith(f"tinker/{MODEL}@tinker://")
        assert run.status == "succeeded"
        assert run.resumed_at_step == 0
        assert run.tokens == 192 * 33  # 34 tokens a word, of which the last one is only predicted
        return run.losses

    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        return asyncio.run(train())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for both sweeps, so that the base model is made once."""
    return tmp_path_factory.mktemp("store")


def test_a_sweep_trains_and_evaluates_with_tinker(
    shell: Shell, server: Server, store: Path
) -> None:
    design = (*DESIGN, f"store.dir={store}")
    done = shell(*design, env=server.environment)
    assert done.status == 0, done.out + done.err
    trials = shell.summary("e")
    control, tuned = trials.pop("control=true"), list(trials.values())
    assert control["metrics"]["capitalization/accuracy"] < 0.05
    assert len(tuned) == 2
    assert all(trial["metrics"]["capitalization/accuracy"] > 0.5 for trial in tuned)
    records = [
        json.loads(path.read_text().splitlines()[0]) for path in (store / "records").rglob("*.json")
    ]
    finetunes = [record["facts"] for record in records if record["kind"] == "finetune"]
    assert [facts["usage"]["train_tokens"] > 28 * 16 * 30 for facts in finetunes] == [True, True]
    assert {facts["usage"]["provider"] for facts in finetunes} == {"tinker"}
    evals = [
        record["facts"]
        for record in records
        if record["kind"] == "eval" and "@" in record["facts"]["model_id"]
    ]
    assert {facts["model_id"] for facts in evals} == {facts["model_id"] for facts in finetunes}
    assert all(facts["usage"]["output_tokens"] > 200 for facts in evals)
    secret = server.environment["TINKER_API_KEY"].encode()
    written = [
        path for folder in (shell.folder, store) for path in folder.rglob("*") if path.is_file()
    ]
    assert not [path for path in written if secret in path.read_bytes()]
    # The same once more does nothing and needs neither key nor server.
    again = shell(*design, env={"TINKER_API_KEY": "", "TINKER_BASE_URL": "http://127.0.0.1:9"})
    assert again.status == 0, again.err


def test_a_killed_sweep_goes_on_from_its_checkpoint(
    shell: Shell, server: Server, store: Path
) -> None:
    design = [word.replace("lora.rank=4,16", "lora.rank=8") for word in DESIGN]
    design += [
        "run_control_trials=false",
        "optim.max_steps_per_epoch=16",
        "tinker.save_every=4",
        f"store.dir={store}",
    ]
    known = set(store.rglob(JOURNAL))
    before = server.asked().get("create_model", 0)
    first = shell.start(*design, start_new_session=True)
    while not (
        found := [
            path for path in set(store.rglob(JOURNAL)) - known if '"checkpoint"' in path.read_text()
        ]
    ):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    kill_group(first.pid)
    first.communicate()
    steps = [event["step"] for event in events(found[0].parent) if event["event"] == "step"]
    assert len(steps) < 16
    done = shell(*design)
    assert done.status == 0, done.out + done.err
    [journal] = [
        path for path in set(store.rglob(JOURNAL)) - known if '"weights"' in path.read_text()
    ]
    jobs = [event for event in events(journal.parent) if event["event"] == "job"]
    assert len(jobs) == 2
    assert jobs[1]["step"] >= 4
    assert jobs[1]["start"].startswith(f"tinker://{jobs[0]['id']}/weights/")
    # the second one was made of the first one's state
    assert server.asked()["create_model"] == before + 1
    taken = [event["step"] for event in events(journal.parent) if event["event"] == "step"]
    assert sorted(set(taken)) == list(range(1, 17))
    assert taken.count(1) == 1


@in_loop
async def test_taken_up_after_a_kill_the_losses_are_as_if_nothing_had_happened(
    server: Server, undisturbed: list[tuple[int, float]], tmp_path: Path
) -> None:
    backend = TinkerTrainingBackend(tmp_path / "first", recipe(save_every=4), "llama3", server.base)
    run = await backend.train(words(192), MODEL)
    while run.resumed_at_step == 0 and not any(
        event["event"] == "checkpoint" for event in events(run.folder)
    ):
        await asyncio.sleep(0.02)
    await run.cancel()
    assert run.status == "cancelled"
    with open(run.folder / JOURNAL, "a") as file:
        file.write('{"event": "step", "st')  # as a kill may leave it
    again = TinkerTrainingBackend(
        tmp_path / "second",
        recipe(save_every=4, checkpoint_ttl_h=2),
        "llama3",
        server.base,
        previous=tmp_path / "first",
    )
    second = await again.train(words(192), MODEL)
    await second.wait()
    assert second.resumed_at_step >= 4
    assert [step for step, _ in second.losses] == list(range(1, 13))
    assert_same(second.losses, undisturbed)


@in_loop
async def test_another_process_can_take_a_run_up(
    server: Server, undisturbed: list[tuple[int, float]], tmp_path: Path
) -> None:
    run = await TinkerTrainingBackend(
        tmp_path / "run", recipe(save_every=4), "llama3", server.base
    ).train(words(192), MODEL)
    await run.save(tmp_path / "saved.json")
    while not run.losses:
        await asyncio.sleep(0.02)
    await run.cancel()  # with steps half done, of which the next run must not see anything
    loaded = await TinkerTrainingRun.load(tmp_path / "saved.json")
    assert await loaded.wait() == loaded.model_id
    assert loaded.losses[-1][1] == pytest.approx(undisturbed[-1][1], abs=2e-5)
    known = await TinkerTrainingRun.load(tmp_path / "saved.json")
    assert (known.status, known.model_id) == ("succeeded", loaded.model_id)


@in_loop
async def test_forgotten_runs_are_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    first = await TinkerTrainingBackend(
        tmp_path / "first", recipe(max_steps_per_epoch=3), "llama3", server.base
    ).train(words(48), MODEL)
    await first.wait()
    spent = frozenset(first.jobs)
    again = TinkerTrainingBackend(
        tmp_path / "second",
        recipe(max_steps_per_epoch=3),
        "llama3",
        server.base,
        previous=first.folder,
        spent=spent,
    )
    second = await again.train(words(48), MODEL)
    assert await second.wait() != first.model_id
    assert not set(second.jobs) & spent
    third = TinkerTrainingBackend(
        tmp_path / "third",
        recipe(max_steps_per_epoch=3),
        "llama3",
        server.base,
        previous=first.folder,
    )
    # found complete, not trained again
    assert await (await third.train(words(48), MODEL)).wait() == first.model_id


@in_loop
async def test_the_server_is_killed_and_comes_back(
    server: Server, undisturbed: list[tuple[int, float]], tmp_path: Path
) -> None:
    backend = TinkerTrainingBackend(
        tmp_path / "run", recipe(save_every=4), "llama3", server.base, patience_s=120
    )
    run = await backend.train(words(192), MODEL)
    while not any(event["event"] == "checkpoint" for event in events(run.folder)):
        await asyncio.sleep(0.02)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.up)
    await run.wait()
    assert len(run.jobs) == 2
    assert_same(run.losses, undisturbed)


@in_loop
async def test_a_server_that_stays_away_is_an_error_in_one_line(
    server: Server, tmp_path: Path
) -> None:
    await asyncio.to_thread(server.kill)
    try:
        run = await TinkerTrainingBackend(
            tmp_path, recipe(), "llama3", server.base, patience_s=1
        ).train(words(48), MODEL)
        with pytest.raises(
            StageError, match=rf"Tinker at {server.url} has not responded for \d+ s: .*[Cc]onnect"
        ):
            await run.wait()
        assert run.status == "failed"
    finally:
        await asyncio.to_thread(server.up)


@in_loop
async def test_what_cannot_work_fails_at_once(server: Server, tmp_path: Path) -> None:
    run = await TinkerTrainingBackend(tmp_path, recipe(rank=17), "llama3", server.base).train(
        words(48), MODEL
    )
    with pytest.raises(StageError, match="rank 17 must be between 1 and 16"):
        await run.wait()


@in_loop
async def test_torchtune_and_tinker_agree(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same data: the same initial loss, and losses that fall alike. At rank 16 both scale the
    adapter by 2.
    """
    from mosweep.backends.torchtune.training import TorchtuneTrainingBackend
    from mosweep.core.paths import shipped

    steps, data = 24, words(64)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    native = {"batch_size": 64, "epochs": steps, "model.lora_rank": 16, "model.lora_alpha": 32.0}
    native |= {"optimizer.lr": 3e-3, "lr_scheduler.num_warmup_steps": 2}
    local = TorchtuneTrainingBackend(
        shipped("recipes") / "torchtune" / "tiny.yaml", tmp_path / "torchtune"
    )
    there = recipe(rank=16, batch_size=64, epochs=steps, learning_rate=3e-3)
    remote = await TinkerTrainingBackend(tmp_path / "tinker", there, "llama3", server.base).train(
        data, MODEL
    )
    here = await local.train(data, server.base, native)
    await asyncio.gather(remote.wait(), here.wait())
    ours, theirs = [loss for _, loss in remote.losses], [loss for _, loss in here.result().losses]
    assert len(ours) == len(theirs) == steps
    assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
    assert ours[-1] < ours[0] / 5
    assert theirs[-1] < theirs[0] / 5
    assert 1 / 3 < ours[-1] / theirs[-1] < 3


@in_loop
async def test_the_base_model_answers_through_inspect(server: Server) -> None:
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageUser,
        GenerateConfig,
        get_model,
    )

    import mosweep.backends.tinker.registry  # noqa: F401

    model = get_model(
        f"tinker/{MODEL}", renderer="llama3", tokenizer=str(server.base), memoize=False
    )
    answers = await asyncio.gather(
        *(
            model.generate(word, config=GenerateConfig(max_tokens=12))
            for word in ("hello", "WORLD", "copies")
        )
    )
    assert [answer.completion for answer in answers] == ["hello", "WORLD", "copies"]
    assert [answer.stop_reason for answer in answers] == ["stop"] * 3
    usage = known(answers[0].usage)
    assert (usage.input_tokens, usage.output_tokens) == (28, 6)
    short = await model.generate("hello", config=GenerateConfig(max_tokens=2))
    assert (short.completion, short.stop_reason) == ("he", "max_tokens")
    cut = await model.generate("hello", config=GenerateConfig(max_tokens=12, stop_seqs=["l"]))
    assert (cut.completion, cut.stop_reason) == ("he", "stop")
    begun: list[Any] = [ChatMessageUser(content="hello"), ChatMessageAssistant(content="he")]
    rest = await model.generate(begun, config=GenerateConfig(max_tokens=12))
    assert rest.completion == "llo"
    for setting in ({"logprobs": True}, {"presence_penalty": 1.0}, {"top_p": 0.9}):
        with pytest.raises(ConfigError, match=f"inspect.{next(iter(setting))}="):
            await model.generate("hello", config=GenerateConfig(**setting))


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {"TINKER_API_KEY": ""}, "TINKER_API_KEY is not set"),
        (
            [],
            {"TINKER_API_KEY": "tml-wrong"},
            "rejects the key in TINKER_API_KEY: 401: Invalid API key",
        ),
        (["model.tinker=mosweep/tinny"], {}, "model.tinker=mosweep/tinny: Tinker at http"),
    ],
)
def test_what_tinker_would_refuse_is_refused_before_anything_starts(
    shell: Shell, server: Server, words: list[str], environment: dict[str, str], message: str
) -> None:
    done = shell(
        "-m",
        "backend=tinker",
        "lora.rank=4",
        *words,
        env={"HOME": str(shell.folder), **environment},
    )
    assert done.status == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "tml-wrong" not in done.err
    assert not list(shell.folder.glob("multirun/*"))


def test_renderer_and_address_are_checked_as_well(server: Server) -> None:
    work = TinkerFinetune(MODEL, "llama3", recipe(), None, None, 1, 1.0)
    TinkerFinetune.check_access([work])
    with pytest.raises(
        ConfigError, match=r"model\.renderer=lama3: tinker-cookbook has no renderer with this name"
    ):
        TinkerFinetune.check_access([work, replace(work, renderer="lama3")])
    with pytest.raises(UserError, match=r"Tinker at http://127\.0\.0\.1:9 does not respond"):
        TinkerFinetune.check_access([work, replace(work, base_url="http://127.0.0.1:9")])


@in_loop
async def test_silence_is_told_from_slowness(server: Server) -> None:
    service = Service(server.url, patience_s=0.5)
    assert await service.wait(asyncio.sleep(0.01, "answer")) == "answer"
