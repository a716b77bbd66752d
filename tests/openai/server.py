"""OpenAI's API for fine-tuning, as a server of our own: ``python -m tests.openai.server PORT``.
Files, jobs, events, checkpoints, chat.

Answers are made of the SDK's own types, errors have the original's shapes. A job walks
validating_files → queued → running → succeeded, each for ``tick_s``. A fine-tuned model answers in
capitals, a base model echoes. ``POST /control`` sets what goes wrong; ``GET /control`` tells what
was asked: jobs, uploads, the most jobs at a time, requests that came although the server had asked
to be left alone, and what of requests and answers OpenAI's description of its API does not allow
(``amiss``, see ``description.py``).
"""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
import os
import random
import re
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from openai.types import FileObject, Model
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.openai import description

METHODS = {
    "gpt-4.1-2025-04-14": {"supervised", "dpo"},
    "gpt-4.1-mini-2025-04-14": {"supervised", "dpo"},
    "gpt-4.1-nano-2025-04-14": {"supervised", "dpo"},
    "gpt-4o-mini-2024-07-18": {"supervised"},
    "o4-mini-2025-04-16": {"reinforcement"},
}
ALIASES = {re.sub(r"-\d{4}-\d\d-\d\d$", "", name): name for name in METHODS}
RETIRED = {"babbage-002", "davinci-002", "gpt-3.5-turbo-0125"}
ENDED = ("succeeded", "failed", "cancelled")
PHASES = {"validating_files": "queued", "queued": "running", "running": "succeeded"}
GOOD_KEY = "sk-test-"


@dataclass
class State:
    """All that the server knows."""

    tick_s: float = 0.2
    max_active: int = 10_000
    p_drop: float = 0.0  # answers that are lost, half of them before anything was done
    p_error: float = 0.0  # 500s and 503s, likewise
    storm_every: int = 0  # so many requests after the last, a time of 429s begins
    storm_s: float = 1.5
    grace_s: float = 0.9  # what was under way when the 429 was sent is no offence
    faults: list[dict[str, Any]] = field(default_factory=list)
    late: list[Any] = field(default_factory=list)
    closed: bool = False  # whether fine-tuning is closed to this organisation
    files: dict[str, FileObject] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    living: dict[str, Job] = field(default_factory=dict)
    by_metadata: dict[tuple[str, str], list[Job]] = field(default_factory=dict)
    models: dict[str, Job] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    storm: tuple[float, float] = (0.0, 0.0)
    calm: int = 0  # requests since
    storms: int = 0
    early: list[str] = field(default_factory=list)
    amiss: list[str] = field(default_factory=list)
    gone: int = 0  # clients that went away in the middle of a request
    most_active: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def active(self) -> int:
        for job in list(self.living.values()):
            job.advance()
        self.most_active = max(self.most_active, len(self.living))
        return len(self.living)

    def report(self) -> dict[str, Any]:
        self.active()
        return {
            "jobs": [
                {"id": job.id, "status": job.status, **job.asked} for job in self.jobs.values()
            ],
            "files": [file.filename for file in self.files.values() if file.purpose == "fine-tune"],
            "requests": dict(self.requests),
            "most_active": self.most_active,
            "storms": self.storms,
            "early": self.early,
            "amiss": self.amiss,
            "gone": self.gone,
        }


class Job:
    """One fine-tuning job, moved on by the clock whenever somebody looks."""

    def __init__(self, asked: dict[str, Any], method: str, settings: dict[str, Any]) -> None:
        self.id, self.asked, self.method, self.settings = unique("ftjob-"), asked, method, settings
        self.status, self.since, self.created = "validating_files", time.time(), time.time()
        self.events: list[FineTuningJobEvent] = []
        self.checkpoints: list[FineTuningJobCheckpoint] = []
        self.results: list[str] = []
        self.rows: list[Any] = []
        self.error: dict[str, Any] | None = None
        self.ended: float | None = None
        self.seed = asked["seed"] if asked.get("seed") is not None else S.rng.randrange(2**31)
        self.tell(f"Created fine-tuning job: {self.id}")
        self.tell(f"Validating training file: {asked['training_file']}")

    def tell(self, message: str, data: Any = None) -> None:
        kind = "metrics" if data else "message"
        made = FineTuningJobEvent.construct(
            id=unique("ftevent-"),
            created_at=int(time.time()),
            level="info",
            message=message,
            object="fine_tuning.job.event",
            type=kind,
            data=data,
        )
        self.events.insert(0, made)

    def become(self, status: str) -> None:
        self.status, self.since = status, self.since + S.tick_s
        if status in ENDED:
            self.ended = time.time()
            S.living.pop(self.id, None)

    def advance(self) -> None:
        while self.status in PHASES and time.time() - self.since >= S.tick_s:
            if self.status == "validating_files":
                self.rows, problem = validated(S.contents[self.asked["training_file"]], self.method)
                if problem:
                    self.error = {
                        "code": problem[0],
                        "message": problem[1],
                        "param": "training_file",
                    }
                    self.tell(problem[1])
                    self.become("failed")
                    return
                chosen = {
                    "n_epochs": 3,
                    "batch_size": max(1, len(self.rows) // 500),
                    "learning_rate_multiplier": 1.8,
                }
                self.settings = {**chosen, **self.settings}
                self.tell("Files validated, moving job to queued state")
            if self.status == "running":
                self.train()
            self.become(PHASES[self.status])
            self.tell(
                {
                    "running": "Fine-tuning job started",
                    "succeeded": "The job has successfully completed",
                }.get(self.status, self.status)
            )

    def train(self) -> None:
        per_epoch = -(-len(self.rows) // self.settings["batch_size"])
        steps = per_epoch * self.settings["n_epochs"]
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(
            ["step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"]
        )
        shown = {1, *range(per_epoch, steps + 1, per_epoch), steps}
        for step in range(1, steps + 1):
            loss = 2.0 / (1 + 0.1 * step)
            writer.writerow([step, f"{loss:.5f}", f"{1 - loss / 4:.5f}", "", ""])
            if step in shown:
                self.tell(
                    f"Step {step}/{steps}: training loss={loss:.2f}",
                    {"step": step, "train_loss": loss, "total_steps": steps},
                )
        for step in sorted(shown - {1})[-3:]:
            name = self.model + ("" if step == steps else f":ckpt-step-{step}")
            made = FineTuningJobCheckpoint.construct(
                id=unique("ftckpt_"),
                created_at=int(time.time()),
                fine_tuned_model_checkpoint=name,
                fine_tuning_job_id=self.id,
                metrics={"step": step, "train_loss": 2.0 / (1 + 0.1 * step)},
                object="fine_tuning.job.checkpoint",
                step_number=step,
            )
            self.checkpoints.insert(0, made)
            S.models[name] = self
        content = base64.b64encode(table.getvalue().encode())
        self.results = [keep("step_metrics.csv", content, "fine-tune-results").id]

    @property
    def model(self) -> str:
        return f"ft:{self.asked['model']}:our-org:{self.asked.get('suffix') or ''}:{self.id[-8:]}"

    def shown(self) -> dict[str, Any]:
        self.advance()
        settings = {
            **dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto"),
            **self.settings,
        }
        done = self.status == "succeeded"
        tokens = sum(len(json.dumps(row)) // 4 for row in self.rows) * self.settings.get(
            "n_epochs", 0
        )
        job = FineTuningJob.construct(
            id=self.id,
            created_at=int(self.created),
            error=self.error,
            fine_tuned_model=self.model if done else None,
            finished_at=self.ended and int(self.ended),
            hyperparameters={k: v for k, v in settings.items() if k != "beta"},
            model=self.asked["model"],
            object="fine_tuning.job",
            organization_id="org-ours",
            result_files=self.results,
            seed=self.seed,
            status=self.status,
            trained_tokens=tokens if done else None,
            training_file=self.asked["training_file"],
            validation_file=self.asked.get("validation_file"),
            estimated_finish=int(self.since + 60) if self.status == "running" else None,
            integrations=[],
            metadata=self.asked.get("metadata"),
            method={"type": self.method, self.method: {"hyperparameters": settings}},
        )
        return job.to_dict(mode="json")


def validated(data: bytes, method: str) -> tuple[list[Any], tuple[str, str] | None]:
    rows = []
    for number, line in enumerate(data.decode().splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            return [], (
                "invalid_file_format",
                f"Invalid file format. Line {number} is not valid JSON.",
            )
        wanted = {
            "supervised": ["messages"],
            "dpo": ["input", "preferred_output", "non_preferred_output"],
        }[method]
        if missing := [key for key in wanted if key not in row]:
            return [], (
                "invalid_training_file",
                f"The job failed due to an invalid training file. Line {number} lacks {missing}.",
            )
        if "fail me" in line:
            return [], ("moderation", "The job failed due to an unsafe training file.")
        rows.append(row)
    if len(rows) < 10:
        return [], (
            "invalid_n_examples",
            f"Training file has {len(rows)} example(s), but must have at least 10 examples",
        )
    return rows, None


def unique(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]


def keep(name: str, content: bytes, purpose: str) -> FileObject:
    file = FileObject.construct(
        id=unique("file-"),
        bytes=len(content),
        created_at=int(time.time()),
        filename=name,
        object="file",
        purpose=purpose,
        status="processed",
    )
    S.files[file.id], S.contents[file.id] = file, content
    return file


def refused(
    status: int, message: str, code: str | None = None, param: str | None = None, **headers: str
) -> JSONResponse:
    body = {
        "error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    }
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body, status, headers={"x-request-id": unique("req_"), **shown})


def page(
    items: list[Any], request: Request, default: int = 20, *, ends: bool = False
) -> JSONResponse:
    plain = [item if isinstance(item, dict) else item.to_dict(mode="json") for item in items]
    after, limit = (
        request.query_params.get("after"),
        int(request.query_params.get("limit", default)),
    )
    start = next((n + 1 for n, item in enumerate(plain) if item["id"] == after), 0) if after else 0
    shown = plain[start : start + limit]
    both = (
        {
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
        }
        if ends
        else {}
    )
    return JSONResponse(
        {"object": "list", "data": shown, **both, "has_more": start + limit < len(plain)}
    )


async def upload(request: Request) -> Response:
    await request.body()
    form = await request.form()
    if (file := form.get("file")) is None or isinstance(file, str):
        return refused(400, "'file' is a required property", param="file")
    if form.get("purpose") == "fine-tune" and not str(file.filename).endswith(".jsonl"):
        return refused(400, "Invalid file format for Fine-Tuning API. Must be .jsonl", param="file")
    content = await file.read()
    return JSONResponse(
        keep(str(file.filename), content, str(form["purpose"])).to_dict(mode="json")
    )


async def list_files(request: Request) -> Response:
    purpose = request.query_params.get("purpose")
    return page(
        [file for file in S.files.values() if purpose in (None, file.purpose)],
        request,
        10_000,
        ends=True,
    )


async def content(request: Request) -> Response:
    found = S.contents.get(request.path_params["id"])
    return (
        refused(404, "No such File object", param="id")
        if found is None
        else Response(found, media_type="application/octet-stream")
    )


async def create(request: Request) -> Response:
    asked = await request.json()
    asked["model"] = ALIASES.get(asked["model"], asked["model"])
    name, method = asked["model"], asked.get("method") or {"type": "supervised"}
    if S.closed:
        return refused(
            403, "Fine-tuning is no longer available to your organization.", "fine_tuning_closed"
        )
    if name in RETIRED:
        return refused(
            400,
            f"The model {name} has been retired and can no longer be fine-tuned.",
            "model_retired",
            "model",
        )
    if name not in METHODS:
        return refused(
            400,
            f"Model {name} is not available for fine-tuning or does not exist.",
            "model_not_available",
            "model",
        )
    if method["type"] not in METHODS[name]:
        return refused(
            400,
            f"Method '{method['type']}' is not supported for model {name}.",
            "invalid_method",
            "method",
        )
    for param in ("training_file", "validation_file"):
        if (param == "training_file" or asked.get(param)) and asked.get(param) not in S.files:
            return refused(400, f"invalid {param}: {asked.get(param)}", None, param)
    if len(asked.get("suffix") or "") > 64:
        return refused(
            400,
            "Invalid 'suffix': string too long. Expected a maximum length of 64.",
            "string_above_max_length",
            "suffix",
        )
    if S.active() >= S.max_active:
        text = (
            "This fine-tune request has been rate-limited. Your organization has reached the "
            f"maximum of {S.max_active} active requests"
        )
        return refused(
            429,
            f"{text} ({S.max_active} running or pending) for the model.",
            "rate_limit_exceeded",
            x_should_retry="false",
        )
    settings = (method.get(method["type"]) or {}).get("hyperparameters") or {}
    job = Job(asked, method["type"], {k: v for k, v in settings.items() if v not in ("auto", None)})
    S.jobs[job.id] = S.living[job.id] = job
    for item in (asked.get("metadata") or {}).items():
        S.by_metadata.setdefault(item, []).append(job)
    S.active()
    return JSONResponse(job.shown())


async def list_jobs(request: Request) -> Response:
    wanted = [
        (key[9:-1], value)
        for key, value in request.query_params.items()
        if key.startswith("metadata[")
    ]
    found = list(S.jobs.values()) if not wanted else S.by_metadata.get(wanted[0], [])
    matching = [
        job
        for job in found
        if all((job.asked.get("metadata") or {}).get(key) == value for key, value in wanted)
    ]
    return page([job.shown() for job in reversed(matching)], request)


async def of_job(request: Request) -> Response:
    job, verb = S.jobs.get(request.path_params["id"]), request.path_params.get("verb")
    if job is None:
        return refused(
            404,
            f"Could not find fine tune: {request.path_params['id']}",
            "fine_tune_not_found",
            "fine_tune_id",
        )
    job.advance()
    if verb == "events":
        return page(job.events, request)
    if verb == "checkpoints":
        return page(job.checkpoints, request, 10, ends=True)
    if verb is not None:
        possible = {
            "pause": job.status == "running",
            "resume": job.status == "paused",
            "cancel": job.status not in ENDED,
        }
        if not possible[verb]:
            return refused(400, f"Job {job.id} cannot be {verb}d in state {job.status}")
        job.since = time.time() - S.tick_s
        job.become({"pause": "paused", "resume": "running", "cancel": "cancelled"}[verb])
    return JSONResponse(job.shown())


async def model(request: Request) -> Response:
    name = request.path_params["id"]
    if ALIASES.get(name, name) not in METHODS and name not in S.models:
        return refused(404, f"The model '{name}' does not exist", "model_not_found", "model")
    return JSONResponse(
        Model(id=name, created=0, object="model", owned_by="openai").to_dict(mode="json")
    )


async def chat(request: Request) -> Response:
    asked = await request.json()
    name, said = asked["model"], asked["messages"][-1]["content"]
    said = said if isinstance(said, str) else "".join(part.get("text", "") for part in said)
    if name not in S.models and ALIASES.get(name, name) not in METHODS:
        return refused(
            404,
            f"The model `{name}` does not exist or you do not have access to it.",
            "model_not_found",
        )
    answer = said.upper() if name in S.models else said
    count = {
        "prompt_tokens": len(said),
        "completion_tokens": len(answer),
        "total_tokens": len(said) + len(answer),
    }
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": answer, "refusal": None},
    }
    made = {
        "id": unique("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": name,
        "choices": [choice],
        "usage": count,
    }
    return JSONResponse(ChatCompletion.model_validate(made).to_dict(mode="json"))


async def control(request: Request) -> Response:
    """``POST`` sets fields of ``State``; ``restart: true`` says that the client is a new process,
    which knows of no 429.
    """
    global S
    if request.method == "POST":
        given = await request.json()
        if given.pop("reset", False):
            S = State()
        if given.pop("restart", False):
            S.storm = (0.0, 0.0)
        for name, value in given.items():
            getattr(S, name)
            setattr(S, name, value)
    return JSONResponse(S.report())


class Layer:
    """What stands between a client and ``app``: ``serve`` has the requests to OpenAI's API, and not
    the tests' own.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] != "http" or scope["path"] == "/control"
        await (self.app if ours else self.serve)(scope, receive, send)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError


class Gate(Layer):
    """What stands before the routes: the key, rate limits, and everything that goes wrong."""

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        where = f"{scope['method']} {re.sub(r'(ftjob|file)-[0-9a-f]+', '…', scope['path'])}"
        S.requests[where] += 1
        if not headers.get(b"authorization", b"").decode().startswith(f"Bearer {GOOD_KEY}"):
            given = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
            await refused(
                401, f"Incorrect API key provided: {given[:8]}***{given[-4:]}.", "invalid_api_key"
            )(scope, receive, send)
            return
        while S.late and where == f"POST {JOBS}":
            late_scope, body = S.late.pop()
            await self.app(late_scope, replay(body), nowhere)
        now = time.time()
        since, until = S.storm
        if now < until:
            if now > since + S.grace_s:
                S.early.append(
                    f"{where}, {now - since:.2f} s after the 429, {until - now:.2f} s before its "
                    "end"
                )
            await self.limited(until - now)(scope, receive, send)
            return
        S.calm += 1
        fault = next((f for f in S.faults if f["times"] > 0 and re.search(f["path"], where)), None)
        if fault:
            fault["times"] -= 1
            await self.fail(
                scope, receive, send, fault.get("do", "drop"), fault.get("after", False), fault
            )
        elif S.storm_every and S.calm > S.storm_every:
            S.storm, S.storms, S.calm = (now, now + S.storm_s), S.storms + 1, 0
            await self.limited(S.storm_s)(scope, receive, send)
        elif S.rng.random() < S.p_drop:
            await self.fail(scope, receive, send, "drop", S.rng.random() < 0.5, {})
        elif S.rng.random() < S.p_error:
            await self.fail(
                scope, receive, send, S.rng.choice([500, 502, 503]), S.rng.random() < 0.5, {}
            )
        else:
            await self.app(scope, receive, send)

    @staticmethod
    def limited(seconds: float) -> JSONResponse:
        wish = (
            {"retry_after": str(-int(-seconds // 1))}
            if S.rng.random() < 0.3
            else {"retry_after_ms": f"{1000 * seconds:.0f}"}
        )
        return refused(429, "Rate limit reached for requests.", "rate_limit_exceeded", **wish)

    async def fail(
        self, scope: Any, receive: Any, send: Any, how: Any, after: bool, fault: dict[str, Any]
    ) -> None:
        if after:  # it is done, but nobody hears of it
            await self.app(scope, receive, nowhere)
        await asyncio.sleep(fault.get("delay_s", 0))
        if how == "spoil":  # an answer of another shape than the original's
            await self.app(scope, receive, spoiled(send, fault["fields"]))
            return
        # on its way while its sender has given it up; it is carried out before the next of its kind
        if how == "late":
            S.late.append((scope, (await receive())))
            how = "drop"
        if how == "drop":
            receive.__self__.transport.abort()
            return
        wish = {
            name: str(fault[name])
            for name in ("retry_after", "retry_after_ms", "x_should_retry")
            if name in fault
        }
        await refused(
            int(how),
            fault.get("message", "The server had an error"),
            fault.get("code", "server_error"),
            **wish,
        )(scope, receive, send)


class Check(Layer):
    """Compares all that comes and goes with OpenAI's description of its API, and notes in ``amiss``
    what that does not allow.
    """

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        where = f"{scope['method']} {scope['path']}"
        asked = description.operation(scope["method"], scope["path"])
        if asked is None:
            S.amiss.append(f"{where}: the API has no such operation")
            await self.app(scope, receive, send)
            return
        heard, said = Heard(receive, headers_of(scope)), Said(send)
        try:
            await self.app(scope, heard.next, said.next)
        finally:
            if heard.whole:
                query = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
                found = description.wrong_request(asked, query, heard.headers, heard.body)
                S.amiss += [f"{where}: request: {problem}" for problem in found]
            if heard.gone:
                S.gone += 1
            elif said.whole:
                found = description.wrong_answer(asked, said.status, said.headers, said.body)
                S.amiss += [f"{where}: answer {said.status}: {problem}" for problem in found]


class Heard:
    """A request's body as it comes; one without a body is whole though nobody asks for it."""

    def __init__(self, receive: Any, headers: dict[str, str]) -> None:
        self.receive, self.transport, self.headers = receive, receive.__self__.transport, headers
        self.gone, self.body, self.whole = (
            False,
            b"",
            headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers,
        )

    async def next(self) -> Any:
        message = await self.receive()
        if message["type"] == "http.request":
            self.body += message.get("body", b"")
            self.whole = not message.get("more_body", False)
        elif not self.whole:
            self.gone = True
        return message


class Said:
    """An answer as it goes."""

    def __init__(self, send: Any) -> None:
        self.send, self.status, self.body, self.whole = send, 0, b"", False
        self.headers: dict[str, str] = {}

    async def next(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], headers_of(message)
        else:
            self.body += message.get("body", b"")
            self.whole = not message.get("more_body", False)
        await self.send(message)


def headers_of(message: Any) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in message["headers"]}


async def nowhere(message: Any) -> None:
    """An answer that nobody hears."""


def spoiled(send: Any, fields: dict[str, Any]) -> Any:
    """What sends an answer with other ``fields``."""
    begun: list[Any] = []

    async def other(message: Any) -> None:
        if message["type"] == "http.response.start":
            begun.append(message)
            return
        answer = JSONResponse({**json.loads(message["body"]), **fields}, begun[0]["status"])
        await send({**begun[0], "headers": answer.raw_headers})
        await send({**message, "body": answer.body})

    return other


def replay(message: Any) -> Any:
    """A request's body, once more."""

    async def receive() -> Any:
        return message

    return receive


S = State()
JOBS = "/v1/fine_tuning/jobs"
app = Check(
    Gate(
        Starlette(
            routes=[
                Route("/v1/files", upload, methods=["POST"]),
                Route("/v1/files", list_files),
                Route("/v1/files/{id}/content", content),
                Route(JOBS, create, methods=["POST"]),
                Route(JOBS, list_jobs),
                Route(JOBS + "/{id}", of_job),
                Route(JOBS + "/{id}/{verb}", of_job, methods=["GET", "POST"]),
                Route("/v1/models/{id:path}", model),
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/control", control, methods=["GET", "POST"]),
            ]
        )
    )
)

if __name__ == "__main__":
    parent = os.getppid()

    async def serve() -> None:
        server = uvicorn.Server(
            uvicorn.Config(
                app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", http="h11"
            )
        )
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        while not task.done() and os.getppid() == parent:  # ends with whoever started it
            await asyncio.wait([task], timeout=1)

    asyncio.run(serve())
