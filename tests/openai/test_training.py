"""OpenAI's fine-tuning as a library: runs, what they measure, and that none is paid for twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from tests.openai.conftest import KEY, Service

from mosweep.backends.openai.run import OpenAIResult, OpenAITrainingRun
from mosweep.backends.openai.training import Method
from mosweep.backends.training import TrainingBackend, TrainingRun
from mosweep.core.errors import ConfigError, StageError, UserError
from mosweep.core.providers import RemoteError
from mosweep.datasets import JSONLDataset
from mosweep.training import OpenAITrainingBackend

MODEL = "gpt-4.1-mini-2025-04-14"
CREATE = "POST /v1/fine_tuning/jobs$"


def chats(n: int = 12, *, role: str = "user", word: str = "w", **more: str) -> JSONLDataset:
    rows = [
        [
            {"role": role, "content": f"{word}{i}"},
            {"role": "assistant", "content": f"{word.upper()}{i}"},
        ]
        for i in range(n)
    ]
    return JSONLDataset([{"messages": row, **more} for row in rows])


def backend(**options: Any) -> OpenAITrainingBackend:
    return OpenAITrainingBackend(poll_s=0.05, **options)


def finished(
    chosen: OpenAITrainingBackend, dataset: JSONLDataset | None = None, **given: Any
) -> tuple[str, OpenAITrainingRun]:
    async def go() -> tuple[str, OpenAITrainingRun]:
        run = await chosen.train(dataset or chats(), MODEL, **given)
        return await run.wait(), run

    return asyncio.run(go())


def test_supervised(openai: Service, capsys: pytest.CaptureFixture[str]) -> None:
    openai.set(tick_s=0.15)
    settings = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.5}

    async def go() -> tuple[OpenAITrainingRun, str, OpenAIResult]:
        chosen = backend(seed=3)
        assert isinstance(chosen, TrainingBackend)
        run = await chosen.train(
            chats(), MODEL, settings, suffix="mine", validation=chats(word="v")
        )
        assert isinstance(run, TrainingRun)
        assert (run.status, run.model_id) == ("queued", None)
        return run, await run.wait(), await run.result()

    run, model_id, result = asyncio.run(go())
    assert model_id.startswith(f"ft:{MODEL}:our-org:mine:")
    assert (run.status, run.model_id) == ("succeeded", model_id)
    assert result.settings == settings
    assert result.seed == 3
    assert [step for step, _ in result.losses] == [1, 2, 3, 4, 5, 6]
    assert result.losses[-1][1] == pytest.approx(1.25, abs=1e-4)
    assert [checkpoint["step"] for checkpoint in result.checkpoints] == [3, 6]
    assert result.checkpoints[-1]["model_id"] == model_id
    assert result.trained_tokens and result.trained_tokens > 0
    [job] = openai.jobs
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": settings}}
    assert (job["seed"], job["suffix"], job["metadata"]["mosweep_attempt"]) == (3, "mine", "1")
    assert job["training_file"] != job["validation_file"]
    said = capsys.readouterr().out
    assert f"{run.id}: started" in said
    assert f"{run.id}: running, until about 20" in said
    assert f"{run.id}: succeeded" in said


def test_steps_are_told_while_it_runs(openai: Service, capsys: pytest.CaptureFixture[str]) -> None:
    async def go() -> None:
        openai.set(tick_s=0.05)
        run = await backend().train(chats(), MODEL, {"n_epochs": 1, "batch_size": 4})
        await run.wait()
        openai.set(tick_s=60)
        await run._print_steps()

    asyncio.run(go())
    assert "step 1 of 3: loss 1.818\n" in capsys.readouterr().out


def test_dpo(openai: Service) -> None:
    _, run = finished(backend(method="dpo"), chats(rejected="no"), hyperparameters={"beta": 0.2})
    assert openai.jobs[0]["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    assert asyncio.run(run.result()).settings["beta"] == 0.2


@pytest.mark.parametrize(
    ("dataset", "method", "problem"),
    [
        (chats(9), "supervised", "the data set has 9 samples; OpenAI needs at least 10"),
        (
            chats(role="developer"),
            "supervised",
            "sample 1: OpenAI does not accept developer messages",
        ),
        (
            chats(),
            "dpo",
            "sample 1: method=dpo needs the dispreferred answer, as text, in rejected",
        ),
    ],
)
def test_data_are_checked_before_anything_is_sent(
    openai: Service, dataset: JSONLDataset, method: Method, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        finished(backend(method=method), dataset)
    assert openai.report["requests"] == {}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"epochs": 3}, r"hyperparameters\.epochs=3: no such key; did you mean n_epochs\?"),
        ({"n_epochs": 51}, r"hyperparameters\.n_epochs=51: must be ≥ 1 and ≤ 50"),
        ({"beta": 0.1}, r"hyperparameters\.beta=0\.1: no such key"),
        ({"batch_size": "big"}, "expected a whole number"),
    ],
)
def test_hyperparameters_are_checked(openai: Service, given: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        finished(backend(), hyperparameters=given)
    assert openai.report["requests"] == {}


def test_a_seed_that_openai_does_not_take(openai: Service) -> None:
    with pytest.raises(UserError, match="seed 2147483648: must be between 0 and 2147483647"):
        finished(backend(seed=2**31))
    assert openai.report["requests"] == {}


def test_a_failed_job_says_why_and_is_not_taken_again(openai: Service, tmp_path: Path) -> None:
    for attempt in ("1", "2"):
        with pytest.raises(
            StageError, match=r"OpenAI: ftjob-\w+ failed: .*unsafe training file.* \(moderation\)"
        ):
            finished(backend(key="k", intent=tmp_path / "job.json"), chats(word="fail me "))
        assert openai.jobs[-1]["metadata"] == {"mosweep_key": "k", "mosweep_attempt": attempt}
    assert len(openai.jobs) == 2


@pytest.mark.parametrize("how", ["drop", 500])
@pytest.mark.parametrize("after", [True, False])
def test_a_lost_answer_costs_no_second_job(openai: Service, how: str | int, after: bool) -> None:
    openai.fault(CREATE, how, times=2, after=after)
    model_id, run = finished(backend())
    [job] = openai.jobs
    assert job["id"] == run.id
    assert model_id.endswith(run.id[-8:])


def test_a_request_that_was_carried_out_late_costs_no_second_model(openai: Service) -> None:
    openai.set(tick_s=0.4)
    openai.fault(CREATE, "late")
    _, run = finished(backend())
    assert sorted(job["status"] for job in openai.jobs) == ["cancelled", "succeeded"]
    assert {job["id"] for job in openai.jobs if job["status"] == "succeeded"} == {run.id}


def test_a_process_that_was_killed_while_asking_may_have_been_heard(
    openai: Service, tmp_path: Path
) -> None:
    openai.set(tick_s=0.6)
    openai.fault(CREATE, "late")
    intent = tmp_path / "job.json"

    async def killed() -> None:
        asking = asyncio.create_task(backend(key="k", intent=intent).train(chats(), MODEL))
        while not intent.exists():
            await asyncio.sleep(0.01)
        while openai.report["requests"].get(CREATE.rstrip("$"), 0) == 0:
            await asyncio.sleep(0.01)
        asking.cancel()

    asyncio.run(killed())
    assert openai.jobs == []
    _, run = finished(backend(key="k", intent=intent))
    # the late one, if it was found in time, or a second
    kept = [job["status"] for job in openai.jobs if job["status"] != "cancelled"]
    assert kept == ["succeeded"]
    assert {job["id"] for job in openai.jobs if job["status"] == "succeeded"} == {run.id}


def test_who_comes_with_the_same_key_gets_the_same_job(openai: Service) -> None:
    first, _ = finished(backend(key="k"))
    again, _ = finished(backend(key="k"))
    other, _ = finished(backend(key="other"))
    assert first == again != other
    assert len(openai.jobs) == 2
    assert len({finished(backend())[0], finished(backend())[0]}) == 2, (
        "without a key, each is a job of its own"
    )


def test_a_job_that_was_spent_is_passed_over(openai: Service) -> None:
    first, run = finished(backend(key="k"))
    second, new = finished(backend(key="k", spent=[run.id]))
    assert first != second
    assert finished(backend(key="k", spent=[run.id]))[1].id == new.id
    assert [job["metadata"]["mosweep_attempt"] for job in openai.jobs] == ["1", "2"]


def test_the_intent_saves_the_search(openai: Service, tmp_path: Path) -> None:
    intent = tmp_path / "job.json"
    _, run = finished(backend(key="k", intent=intent))
    assert json.loads(intent.read_text()) == {"key": "k", "attempt": 1, "job": run.id}
    asked = openai.report["requests"]
    assert finished(backend(key="k", intent=intent))[1].id == run.id
    more = {
        where: n - asked.get(where, 0)
        for where, n in openai.report["requests"].items()
        if n != asked.get(where)
    }
    assert more == {"GET /v1/fine_tuning/jobs/…": 1}
    for damaged in (
        '{"key": "k", "jo',
        json.dumps({"key": "other", "job": "ftjob-x"}),
        json.dumps({"key": "k", "job": "ftjob-gone"}),
    ):
        intent.write_text(damaged)
        assert finished(backend(key="k", intent=intent))[1].id == run.id
    assert len(openai.jobs) == 1


def test_another_process_attaches(openai: Service, tmp_path: Path) -> None:
    openai.set(tick_s=0.3)

    async def start() -> str:
        run = await backend().train(chats(), MODEL)
        await run.save(tmp_path / "run.json")
        return run.id

    async def attach() -> tuple[str, str]:
        run = await OpenAITrainingRun.load(tmp_path / "run.json")
        assert run.status in ("queued", "running")
        run.poll_s = 0.05
        return run.id, await run.wait()

    started = asyncio.run(start())
    attached, model_id = asyncio.run(attach())
    assert attached == started
    assert model_id.startswith("ft:")
    assert KEY not in (tmp_path / "run.json").read_text()


def test_cancel(openai: Service) -> None:
    openai.set(tick_s=60)

    async def go() -> OpenAITrainingRun:
        run = await backend().train(chats(), MODEL)
        await run.cancel()
        assert run.status == "cancelled"
        await run.cancel()
        with pytest.raises(StageError, match="was cancelled"):
            await run.wait()
        return run

    asyncio.run(go())
    assert [job["status"] for job in openai.jobs] == ["cancelled"]
    openai.set(tick_s=0.05)
    _, done = finished(backend())
    asyncio.run(done.cancel())
    assert done.status == "succeeded"


def test_a_paused_job_is_waited_for(openai: Service, capsys: pytest.CaptureFixture[str]) -> None:
    openai.set(tick_s=0.2)

    async def go() -> str:
        run = await backend().train(chats(), MODEL)
        async with AsyncOpenAI() as client:
            while (await client.fine_tuning.jobs.retrieve(run.id)).status != "running":
                await asyncio.sleep(0.02)
            await client.fine_tuning.jobs.pause(run.id)
            waiting = asyncio.create_task(run.wait())
            await asyncio.sleep(0.4)
            assert run.status == "running"
            assert not waiting.done()
            await client.fine_tuning.jobs.resume(run.id)
            return await waiting

    assert asyncio.run(go()).startswith("ft:")
    assert "paused: resume it at OpenAI to continue" in capsys.readouterr().out


def test_one_upload_for_many_runs(openai: Service) -> None:
    openai.fault("POST /v1/files$", "drop", after=True)

    async def go() -> None:
        runs = await asyncio.gather(*(backend(seed=n).train(chats(), MODEL) for n in range(8)))
        await asyncio.gather(*(run.wait() for run in runs))

    asyncio.run(go())
    asyncio.run(go())  # another process
    report = openai.report
    assert len(report["jobs"]) == 16
    assert len(report["files"]) == 1
    assert report["requests"]["POST /v1/files"] == 1


def test_no_more_jobs_than_the_organisation_may_have(
    openai: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    openai.set(max_active=2)

    async def go() -> list[str]:
        runs = [backend(seed=n).train(chats(), MODEL) for n in range(5)]
        return await asyncio.gather(*(until_its_end(run) for run in runs))

    async def until_its_end(starting: Awaitable[OpenAITrainingRun]) -> str:
        return await (await starting).wait()

    assert len(set(asyncio.run(go()))) == 5
    assert openai.report["most_active"] == 2
    assert "reached the maximum of 2 active requests" in capsys.readouterr().out


def test_no_money_no_second_try(openai: Service) -> None:
    openai.fault(
        CREATE,
        429,
        times=5,
        code="insufficient_quota",
        message="You exceeded your current quota, please check your plan.",
    )
    with pytest.raises(
        RemoteError,
        match=r"^OpenAI: creating the job: 429 insufficient_quota: You exceeded your current "
        r"quota",
    ):
        finished(backend())
    assert openai.report["requests"][CREATE.rstrip("$")] == 1


def test_an_outage_longer_than_patience(openai: Service) -> None:
    async def go() -> None:
        run = await backend(patience_s=1.0).train(chats(), MODEL)
        openai.fault("GET /v1/fine_tuning/jobs/…$", 503, times=1000)
        await run.wait()

    with pytest.raises(
        RemoteError,
        match=r"^OpenAI: polling ftjob-\w+: 503 server_error: The server had an error "
        r"\(retried for 1 s\)$",
    ):
        asyncio.run(go())


def test_results_that_are_gone_cost_the_curve_alone(
    openai: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    async def go() -> OpenAIResult:
        run = await backend().train(chats(), MODEL)
        await run.wait()
        openai.fault(
            "GET /v1/files/…/content$", 404, code="not_found", message="No such File object"
        )
        return await run.result()

    assert asyncio.run(go()).losses == ()
    assert "results not recorded: OpenAI: reading file-" in capsys.readouterr().out


def test_a_client_of_ones_own(openai: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        finished(backend())
    openai.fault("GET /v1/fine_tuning/jobs/…$", 500, times=1)

    async def go() -> str:
        async with AsyncOpenAI(api_key=KEY, base_url=openai.url, max_retries=7) as client:
            return await (await backend(client=client).train(chats(), MODEL)).wait()

    assert asyncio.run(go()).startswith("ft:")


def test_a_wrong_key_is_in_no_message(openai: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0123456789abcdef")
    with pytest.raises(RemoteError) as caught:
        finished(backend())
    assert str(caught.value) == (
        "OpenAI: finding the training file: 401 invalid_api_key: OpenAI rejects the key in "
        "OPENAI_API_KEY"
    )


def test_the_data_file_is_what_was_given(openai: Service, tmp_path: Path) -> None:
    async def go() -> bytes:
        path = tmp_path / "ü.jsonl"
        await JSONLDataset([{**row, "id": 1} for row in chats(word="ü")]).save(path)
        await backend().train(await JSONLDataset.load(path), MODEL)
        async with AsyncOpenAI() as client:
            return (await client.files.content(openai.jobs[0]["training_file"])).content

    rows = [json.loads(line) for line in asyncio.run(go()).decode().splitlines()]
    assert rows[3] == {
        "messages": [{"role": "user", "content": "ü3"}, {"role": "assistant", "content": "Ü3"}]
    }
