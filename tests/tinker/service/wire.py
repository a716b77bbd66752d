"""What skyrl 0.4.0's server, made for version 0.25 of Tinker's SDK, has to answer so that version
0.38 is content.

And, so that clients can be tested: a key that must be right, unknown base models refused, and a
count of what was asked of it.
"""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

#: The only key that this server takes, unless the environment names another.
KEY = os.environ.get("MOSWEEP_TINKER_KEY", "tml-local")


def install(api: Any) -> None:
    """Add all of it to skyrl's application."""
    api.AdamParams = with_clipping(api)
    api.OptimStepRequest.model_fields["adam_params"].annotation = api.AdamParams
    api.OptimStepRequest.model_rebuild(force=True)
    api.app.add_middleware(SequenceIds)
    api.app.middleware("http")(guard(collections.Counter()))
    serialize, respond = api.serialize_result, api.raw_json_response
    api.serialize_result = lambda kind, data: serialize(
        kind, completed(api.types.RequestType, kind, data)
    )
    # The service names sampler checkpoints tinker://RUN/sampler_weights/NAME.
    api.raw_json_response = lambda text: respond(
        text and re.sub(r'("path":\s*"tinker://[^/"]+)/([^/"]+")', r"\1/sampler_weights/\2", text)
    )
    for method, path, answer in routes(api):
        api.app.router.routes.insert(0, APIRoute(path, answer, methods=[method]))


def with_clipping(api: Any) -> Any:
    """Adam's parameters with ``grad_clip_norm``, which stock drops."""

    class AdamParams(api.AdamParams):  # type: ignore[misc,name-defined]
        grad_clip_norm: float = 0.0

        def to_types(self) -> Any:
            plain = super().to_types().model_dump()
            return api.types.AdamParams(**{**plain, "grad_clip_norm": self.grad_clip_norm})

    return AdamParams


def guard(
    asked: collections.Counter[str],
) -> Callable[[Request, Callable[[Request], Awaitable[Any]]], Awaitable[Any]]:
    """Refuse wrong keys; count requests by path, told at ``GET /asked``."""

    async def answer(request: Request, go_on: Callable[[Request], Awaitable[Any]]) -> Any:
        path = request.url.path
        if path == "/asked":
            return JSONResponse(asked)
        given = request.headers.get("x-api-key") or request.headers.get(
            "authorization", ""
        ).removeprefix("Bearer ")
        if path != "/api/v1/healthz" and given != KEY:
            return JSONResponse({"detail": "Invalid API key"}, status_code=401)
        asked[path.rpartition("/")[2]] += 1
        response = await go_on(request)
        return (
            await told(response)
            if path.endswith("/retrieve_future") and response.status_code == 400
            else response
        )

    return answer


async def told(response: Any) -> Any:
    """A request that failed, as the service tells of it: with whose fault it was, and nothing to
    ask again for.
    """
    error = json.loads(b"".join([part async for part in response.body_iterator]))["detail"]
    return JSONResponse({"error": error, "category": "server" if "not loaded" in error else "user"})


def completed(kinds: Any, kind: Any, data: dict[str, Any]) -> dict[str, Any]:
    """A result with what the service's has beyond it."""
    if kind in (kinds.FORWARD, kinds.FORWARD_BACKWARD):
        outputs = data.get("loss_fn_outputs") or []
        total = sum(sum(output["elementwise_loss"]["data"]) for output in outputs)
        return {**data, "metrics": {**(data.get("metrics") or {}), "loss:sum": float(total)}}
    if kind == kinds.SAMPLE and data.get("prompt_logprobs") is not None:
        # the service has one for the first token, too
        return {**data, "prompt_logprobs": [None, *data["prompt_logprobs"]]}
    return data


def routes(api: Any) -> list[tuple[str, str, Callable[..., Awaitable[Any]]]]:
    """Calls that version 0.38 makes and this server does not know, or knows in another shape."""

    async def create_model(request: Request) -> Any:
        body, known = await request.json(), request.app.state.engine_config.base_model
        if body.get("base_model") != known:
            raise HTTPException(
                400,
                f"Base model {body.get('base_model')!r} is not supported. Supported: [{known!r}]",
            )
        async with api.AsyncSession(request.app.state.db_engine) as session:
            wanted = {name: body[name] for name in ("session_id", "base_model", "lora_config")}
            return await api.create_model(api.CreateModelRequest(**wanted), session)

    async def load_weights(request: Request) -> Any:
        """Also without ``model_id``: then a new model is made for the weights."""
        body = await request.json()
        async with api.AsyncSession(request.app.state.db_engine) as session:
            if not body.get("model_id"):
                path = api.types.TinkerPath.parse(body["path"])
                if not path or path.kind != "weights":
                    raise HTTPException(400, "path must be tinker://<run>/weights/<name>")
                source = await api.get_model(session, path.primary_id)
                lora = api.types.LoraConfig(**source.lora_config)
                body["model_id"] = f"{body['session_id']}:train:{body['model_seq_id']}"
                made = await api.create_future(
                    session=session,
                    request_type=api.types.RequestType.CREATE_MODEL,
                    model_id=body["model_id"],
                    request_data=api.types.CreateModelInput(lora_config=lora, model_role="policy"),
                )
                session.add(
                    api.ModelDB(
                        model_id=body["model_id"],
                        base_model=source.base_model,
                        lora_config=source.lora_config,
                        status="created",
                        request_id=made,
                        session_id=body["session_id"],
                    )
                )
                await session.commit()
            load = api.LoadWeightsRequest(
                model_id=body["model_id"],
                path=body["path"],
                optimizer=body.get("optimizer", True),
                seq_id=body.get("seq_id"),
            )
            return await api.load_weights(load, request, session)

    async def get_info(request: Request) -> Any:
        async with api.AsyncSession(request.app.state.db_engine) as session:
            model = await api.get_model(session, (await request.json())["model_id"])
        about = {
            "model_name": model.base_model,
            "tokenizer_id": model.base_model,
            "arch": "unknown",
        }
        lora = {"is_lora": True, "lora_rank": model.lora_config["rank"]}
        return {
            "type": "get_info",
            "model_id": model.model_id,
            "model_name": model.base_model,
            "model_data": about,
            **lora,
        }

    async def finish(session_id: str, request: Request) -> Any:
        """The end of a session: its models' adapter slots are free again."""
        of_session = api.select(api.ModelDB).where(
            api.ModelDB.session_id == session_id, api.ModelDB.status == "created"
        )
        async with api.AsyncSession(request.app.state.db_engine) as session:
            for model in (await session.exec(of_session)).all():
                model.status = "unloading"
                session.add(model)
                kind, nothing = api.types.RequestType.UNLOAD_MODEL, api.types.UnloadModelInput()
                await api.create_future(
                    session=session,
                    request_type=kind,
                    model_id=model.model_id,
                    request_data=nothing,
                )
            await session.commit()
        return api.Response(status_code=204)

    async def nothing() -> Any:
        return {}

    return [
        ("POST", "/api/v1/create_model", create_model),
        ("POST", "/api/v1/load_weights", load_weights),
        ("POST", "/api/v1/get_info", get_info),
        ("POST", "/api/v1/sessions/{session_id}/finish", finish),
        ("POST", "/api/v1/cancel_future", nothing),
    ]


class SequenceIds:
    """Answers to ``asample`` with one id per sequence that was asked for."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/api/v1/asample":
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        count = int(json.loads(body or b"{}").get("num_samples") or 1)
        waiting, head, answer = (
            [{"type": "http.request", "body": body, "more_body": False}],
            {},
            bytearray(),
        )

        async def replay() -> Any:
            return waiting.pop() if waiting else await receive()

        async def complete(message: Any) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
                return
            answer.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            text = bytes(answer)
            if head["status"] == 200:
                data = json.loads(text)
                data["sample_sequence_ids"] = [
                    f"sequence-{data['request_id']}-{number}" for number in range(count)
                ]
                text = json.dumps(data).encode()
                others = [
                    (name, value)
                    for name, value in head["headers"]
                    if name.lower() != b"content-length"
                ]
                head["headers"] = [*others, (b"content-length", str(len(text)).encode())]
            await send(head)
            await send({"type": "http.response.body", "body": text})

        await self.app(scope, replay, complete)
