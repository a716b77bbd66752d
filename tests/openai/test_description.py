"""That whatever is said between us and the server is checked against OpenAI's description, and that
the check finds what is wrong.
"""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest
from openai import AsyncOpenAI
from tests.openai import description
from tests.openai.conftest import KEY, Service, until

from mosweep.backends.openai.account import Account

JOBS = "/v1/fine_tuning/jobs"


def told(openai: Service) -> list[str]:
    """What the check has noted, and that it is not to be noted for the whole test."""
    found: list[str] = openai.report["amiss"]
    openai.set(amiss=[])
    return found


def ask(
    openai: Service,
    method: str,
    path: str,
    body: bytes | None = None,
    sort: str = "application/json",
) -> None:
    """A request that no SDK would send."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": sort}
    request = urllib.request.Request(
        openai.url.removesuffix("/v1") + path, body, headers, method=method
    )
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        error.close()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"trained_tokens": "many"}, "answer.trained_tokens: 'many' is no int"),
        ({"created_at": 1.5}, "answer.created_at: 1.5 is no int"),
        (
            {"status": "done"},
            "answer.status: 'done' is none of 'validating_files', 'queued', 'running', "
            "'succeeded', 'failed', 'cancelled'",
        ),
        ({"price": 3}, "answer.price: there is no such field"),
        ({"result_files": [3]}, "answer.result_files[0]: 3 is no str"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": "big"}}}},
            "dpo.hyperparameters.beta: 'big' is none of 'auto'",
        ),
        ({"error": {"code": "c", "message": "m"}}, "answer.error.param: is missing"),
    ],
)
def test_an_answer_of_another_shape_is_found(
    openai: Service, fields: dict[str, Any], problem: str
) -> None:
    openai.fault(f"POST {JOBS}$", "spoil", fields=fields)

    async def go() -> None:
        account = await Account.of()
        file = await account.file(b'{"messages": []}\n')
        async with AsyncOpenAI() as client:
            await client.fine_tuning.jobs.create(model="gpt-4.1-mini", training_file=file)

    asyncio.run(go())
    [found] = told(openai)
    assert found.startswith(f"POST {JOBS}: answer 200: answer.")
    assert found.endswith(problem)


def test_a_job_lacks_nothing(openai: Service) -> None:
    job = {"id": "ftjob-1", "object": "fine_tuning.job"}
    shown = set(
        description.wrong_answer(
            _operation("GET", f"{JOBS}/ftjob-1"), 200, _JSON, json.dumps(job).encode()
        )
    )
    wanted = {
        "created_at",
        "error",
        "fine_tuned_model",
        "finished_at",
        "hyperparameters",
        "model",
        "organization_id",
        "result_files",
        "seed",
    }
    wanted |= {"status", "trained_tokens", "training_file", "validation_file"}
    assert shown == {f"answer.{name}: is missing" for name in wanted}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"training_file": 5}, "body.training_file: 5 is no str"),
        ({"training_file": None}, "body.training_file: None is no str"),
        ({"n_epochs": 3}, "body.n_epochs: there is no such field"),
        ({"suffix": "s" * 65}, "body.suffix: 65 characters are not from 1 to 64"),
        ({"seed": 2**31}, "body.seed: 2147483648 is not from 0 to 2147483647"),
        (
            {"metadata": {"k" * 65: "v"}},
            "body.metadata: more than 16 fields, or keys over 64 or values over 512 characters",
        ),
        ({"metadata": {"k": 1}}, "body.metadata.k: 1 is no str"),
        (
            {"method": {"type": "sft"}},
            "body.method.type: 'sft' is none of 'supervised', 'dpo', 'reinforcement'",
        ),
        ({"method": {"dpo": {}}}, "body.method.type: is missing"),
    ],
)
def test_a_request_of_another_shape_is_found(
    openai: Service, given: dict[str, Any], problem: str
) -> None:
    ask(
        openai,
        "POST",
        JOBS,
        json.dumps({"model": "gpt-4.1-mini", "training_file": "file-1", **given}).encode(),
    )
    assert f"POST {JOBS}: request: {problem}" in told(openai)


@pytest.mark.parametrize(
    ("method", "path", "problem"),
    [
        ("GET", f"{JOBS}?limit=many", "request: query.limit: 'many' is no int"),
        ("GET", f"{JOBS}?order=asc", "request: query.order: there is no such field"),
        ("GET", f"{JOBS}?metadata[k]=v&metadata=x", "request: query.metadata: 'x' is no mapping"),
        ("GET", "/v1/files?limit=0", "request: query.limit: 0 is not from 1 to 10000"),
        ("GET", "/v1/fine-tunes", "the API has no such operation"),
        ("DELETE", f"{JOBS}/ftjob-1", "the API has no such operation"),
    ],
)
def test_questions_that_the_api_does_not_have_are_found(
    openai: Service, method: str, path: str, problem: str
) -> None:
    ask(openai, method, path)
    assert any(problem in found for found in told(openai))


def test_who_goes_away_in_the_middle_is_answered_by_nobody(openai: Service) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", openai.port)) as line:
        line.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        until(lambda: openai.report["requests"])
    until(lambda: openai.report["gone"] == 1)
    assert openai.report["amiss"] == []


def test_a_body_that_is_no_json(openai: Service) -> None:
    ask(openai, "POST", JOBS, b"{")
    assert any("request: body: is not JSON" in found for found in told(openai))


def test_an_upload_is_a_form(openai: Service) -> None:
    ask(openai, "POST", "/v1/files", b"{}")
    assert (
        "POST /v1/files: request: content-type: 'application/json' is not multipart/form-data"
        in told(openai)
    )


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"message": "no"}, "an error has the field error alone, not ['message']"),
        (
            {"error": {"message": "no", "type": "t", "code": 404, "param": None}},
            "error.code: 404 is no str",
        ),
        ({"error": {"message": "no", "type": "t"}}, "error.code: is missing"),
    ],
)
def test_errors_have_a_shape_too(answer: Any, problem: str) -> None:
    for status in (400, 401, 404, 429, 500):
        shown = description.wrong_answer(
            _operation("GET", f"{JOBS}/ftjob-1"), status, _JSON, json.dumps(answer).encode()
        )
        assert problem in list(shown)


def test_what_is_not_known_of_a_checkpoint_is_missing_and_not_null() -> None:
    checkpoint = {
        "id": "ftckpt_1",
        "created_at": 1,
        "fine_tuned_model_checkpoint": "m",
        "fine_tuning_job_id": "ftjob-1",
    }
    checkpoint |= {
        "metrics": {"step": 3, "valid_loss": None},
        "object": "fine_tuning.job.checkpoint",
        "step_number": 3,
    }
    page = {
        "object": "list",
        "data": [checkpoint],
        "first_id": "ftckpt_1",
        "last_id": "ftckpt_1",
        "has_more": False,
    }
    shown = description.wrong_answer(
        _operation("GET", f"{JOBS}/ftjob-1/checkpoints"), 200, _JSON, json.dumps(page).encode()
    )
    assert list(shown) == ["data[0].metrics.valid_loss: is null"]


def test_a_page_has_a_shape_too() -> None:
    page = {"object": "list", "data": [{"id": 1}], "has_more": None}
    shown = list(
        description.wrong_answer(
            _operation("GET", f"{JOBS}/ftjob-1/events"), 200, _JSON, json.dumps(page).encode()
        )
    )
    assert "page.has_more: None is no bool" in shown
    assert "data[0].id: 1 is no str" in shown
    assert "data[0].level: is missing" in shown


_JSON = {"content-type": "application/json"}


def _operation(method: str, path: str) -> description.Operation:
    found = description.operation(method, path)
    assert found
    return found
