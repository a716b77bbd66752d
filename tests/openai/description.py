"""What is wrong with a request to OpenAI's API, or with an answer, by OpenAI's own description of
it.

OpenAI publishes an OpenAPI file and generates its SDK from it; that SDK, pinned, is what we have of
the file, so its types are the description that is checked against: strictly, which the SDK itself
is not. What the types cannot say is added here from the API's reference: which fields are there
even when they are null, which are never null, and the limits of values.
"""

from __future__ import annotations

import collections.abc
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions
from openai.types import FileCreateParams, FileListParams, FileObject, Model
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParams
from openai.types.fine_tuning import (
    FineTuningJob,
    FineTuningJobEvent,
    JobCreateParams,
    JobListEventsParams,
    JobListParams,
)
from openai.types.fine_tuning.fine_tuning_job import Error
from openai.types.fine_tuning.jobs import CheckpointListParams, FineTuningJobCheckpoint
from openai.types.fine_tuning.jobs.fine_tuning_job_checkpoint import Metrics
from openai.types.shared import ErrorObject
from pydantic import BaseModel

#: Fields that an object always has, though they may be null.
ALWAYS = {
    FineTuningJob: {
        "error",
        "fine_tuned_model",
        "finished_at",
        "trained_tokens",
        "validation_file",
    },
    Error: {"param"},
    ErrorObject: {"code", "param"},
}
#: Objects whose fields may be missing and are never null.
NEVER_NULL = {Metrics}
#: What the service answers and its description has forgotten: there are operations that pause a
#: job, and no word for a paused one.
FORGOTTEN = {(FineTuningJob, "status"): ("pausing", "paused")}
#: Least and greatest value of a request's fields.
LIMITS = {
    "seed": (0, 2**31 - 1),
    "n_epochs": (1, 50),
    "batch_size": (1, 256),
    "limit": (1, 10_000),
    "beta": (0, 2),
}
#: Most characters of a request's texts, and of a metadata's keys and values, of which there may be
#: so many.
LONGEST, METADATA = {"suffix": 64}, (16, 64, 512)


@dataclass(frozen=True)
class Operation:
    """One thing that the API can be asked. ``listed``: the answer is a page of ``answer``;
    ``None``: bytes.
    """

    method: str
    path: str
    answer: Any
    query: Any = None
    body: Any = None
    form: Any = None
    listed: bool = False

    def is_at(self, method: str, path: str) -> bool:
        """Whether that is what a request asks."""
        pattern = re.sub(r"\{\w+\}", "[^/]+", self.path)
        return method == self.method and re.fullmatch(pattern, path) is not None


FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"
OPERATIONS = (
    Operation("POST", FILES, FileObject, form=FileCreateParams),
    Operation("GET", FILES, FileObject, query=FileListParams, listed=True),
    Operation("GET", FILES + "/{id}/content", None),
    Operation("POST", JOBS, FineTuningJob, body=JobCreateParams),
    Operation("GET", JOBS, FineTuningJob, query=JobListParams, listed=True),
    Operation("GET", JOBS + "/{id}", FineTuningJob),
    *(
        Operation("POST", f"{JOBS}/{{id}}/{verb}", FineTuningJob)
        for verb in ("cancel", "pause", "resume")
    ),
    Operation(
        "GET", JOBS + "/{id}/events", FineTuningJobEvent, query=JobListEventsParams, listed=True
    ),
    Operation(
        "GET",
        JOBS + "/{id}/checkpoints",
        FineTuningJobCheckpoint,
        query=CheckpointListParams,
        listed=True,
    ),
    Operation("GET", "/v1/models/{id}", Model),
    Operation("POST", "/v1/chat/completions", ChatCompletion, body=CompletionCreateParams),
)


def operation(method: str, path: str) -> Operation | None:
    """What a request asks; ``None`` for what the API does not have."""
    return next((known for known in OPERATIONS if known.is_at(method, path)), None)


def wrong_request(
    asked: Operation, query: list[tuple[str, str]], headers: Mapping[str, str], body: bytes
) -> Iterator[str]:
    """What the description does not allow of a request."""
    given = _query(query, asked.query)
    yield from wrong(given, asked.query or _Nothing, "query")
    yield from _beyond_limits(given, "query")
    sort = headers.get("content-type", "").partition(";")[0]
    if asked.form:
        fields = _form(body)
        if sort != "multipart/form-data":
            yield f"content-type: {sort!r} is not multipart/form-data"
        yield from wrong(fields, asked.form, "form", but={"file"})
        if "file" not in fields:
            yield "form.file: is missing"
    elif asked.body:
        if sort != "application/json":
            yield f"content-type: {sort!r} is not application/json"
        try:
            content = json.loads(body)
        except ValueError as error:
            yield f"body: is not JSON ({error})"
            return
        yield from wrong(content, asked.body, "body")
        yield from _beyond_limits(content, "body")
    elif body not in (b"", b"{}"):
        yield f"body: there is none in this request, not {body[:40]!r}"


def wrong_answer(
    asked: Operation, status: int, headers: Mapping[str, str], body: bytes
) -> Iterator[str]:
    """What the description does not allow of an answer."""
    if status == 200 and asked.answer is None:
        return
    if (sort := headers.get("content-type", "").partition(";")[0]) != "application/json":
        yield f"content-type: {sort!r} is not application/json"
        return
    content = json.loads(body)
    if status != 200:
        if set(content) != {"error"}:
            yield f"an error has the field error alone, not {sorted(content)}"
        yield from wrong(content.get("error"), ErrorObject, "error")
    elif asked.listed:
        yield from wrong(
            content,
            _PageWithEnds if asked.answer in (FileObject, FineTuningJobCheckpoint) else _Page,
            "page",
        )
        for n, item in enumerate(content.get("data", [])):
            yield from wrong(item, asked.answer, f"data[{n}]")
    else:
        yield from wrong(content, asked.answer, "answer")


class _Nothing(typing_extensions.TypedDict):
    """No fields."""


class _Page(typing_extensions.TypedDict):
    """A part of a list."""

    object: Literal["list"]
    data: list[Any]
    has_more: bool


class _PageWithEnds(_Page):
    """A part of a list that tells its first and last."""

    first_id: str | None
    last_id: str | None


def wrong(
    value: Any, kind: Any, where: str, but: frozenset[str] | set[str] = frozenset()
) -> Iterator[str]:
    """Where ``value`` is not of ``kind``, strictly, and why. The fields in ``but`` are not looked
    at.
    """
    origin, inside = get_origin(kind), get_args(kind)
    if kind in (Any, object):
        return
    if origin in (typing.Annotated, typing_extensions.Required, typing_extensions.NotRequired):
        yield from wrong(value, inside[0], where)
    elif origin in (Union, types.UnionType):
        found = [list(wrong(value, one, where)) for one in inside]
        yield from min(found, key=len)
    elif origin is Literal:
        if value not in inside:
            yield f"{where}: {value!r} is none of {', '.join(map(repr, inside))}"
    elif (isinstance(kind, type) and issubclass(kind, BaseModel)) or typing_extensions.is_typeddict(
        kind
    ):
        yield from _wrong_object(value, kind, where, but)
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no mapping"
            return
        for name, item in value.items():
            yield from wrong(item, inside[1], f"{where}.{name}")
    elif origin is not None and (origin is list or issubclass(origin, collections.abc.Iterable)):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for n, item in enumerate(value):
            yield from wrong(item, inside[0], f"{where}[{n}]")
    elif kind in (None, type(None)):
        if value is not None:
            yield f"{where}: {value!r} is not null"
    elif kind in (str, bool, int, float):
        if type(value) is not kind and not (kind is float and type(value) is int):
            yield f"{where}: {value!r} is no {kind.__name__}"
    else:
        raise TypeError(f"{where}: nothing is known of {kind}")


def _wrong_object(
    value: Any, kind: Any, where: str, but: frozenset[str] | set[str]
) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: {value!r} is no object"
        return
    fields, required = _fields(kind)
    yield from (f"{where}.{name}: is missing" for name in sorted(required - value.keys() - but))
    for name, item in value.items():
        if name not in fields:
            yield f"{where}.{name}: there is no such field"
        elif item is None and kind in NEVER_NULL:
            yield f"{where}.{name}: is null"
        elif name not in but and item not in FORGOTTEN.get((kind, name), ()):
            yield from wrong(item, fields[name], f"{where}.{name}")


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The fields of a type by name, and those that must be there."""
    if not typing_extensions.is_typeddict(kind):
        found = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        needed = {
            field.alias or name for name, field in kind.model_fields.items() if field.is_required()
        }
        return found, frozenset(needed | ALWAYS.get(kind, set()))
    found = typing_extensions.get_type_hints(kind, include_extras=True)
    total: dict[str, Any] = {name: get_origin(hint) for name, hint in found.items()}
    if kind.__total__:
        return found, frozenset(
            name for name, origin in total.items() if origin is not typing_extensions.NotRequired
        )
    return found, frozenset(
        name for name, origin in total.items() if origin is typing_extensions.Required
    )


def _query(given: list[tuple[str, str]], kind: Any) -> dict[str, Any]:
    """A query's parameters as the values that they stand for: ``metadata[k]=v`` is a mapping."""
    fields = _fields(kind)[0] if kind else {}
    found: dict[str, Any] = {}
    for name, text in given:
        outer, _, inner = name.partition("[")
        if inner:
            found.setdefault(outer, {})[inner.rstrip("]")] = text
        else:
            found[name] = (
                int(text) if fields.get(name) is int and re.fullmatch(r"-?\d+", text) else text
            )
    return found


def _form(body: bytes) -> dict[str, str]:
    """The fields of a multipart form; of files, their names."""
    found = {}
    for part in body.split(body.partition(b"\r\n")[0])[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        names = dict(re.findall(rb'(\w+)="([^"]*)"', head))
        found[names[b"name"].decode()] = names.get(
            b"filename", content.removesuffix(b"\r\n")
        ).decode()
    return found


def _beyond_limits(value: Any, where: str) -> Iterator[str]:
    """What a request may not hold, though its type is right."""
    if isinstance(value, list):
        for n, item in enumerate(value):
            yield from _beyond_limits(item, f"{where}[{n}]")
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        least, most = LIMITS.get(name, (-math.inf, math.inf))
        if isinstance(item, int | float) and not least <= item <= most:
            yield f"{where}.{name}: {item} is not from {least} to {most}"
        if name in LONGEST and isinstance(item, str) and not 1 <= len(item) <= LONGEST[name]:
            yield f"{where}.{name}: {len(item)} characters are not from 1 to {LONGEST[name]}"
        if name == "metadata" and isinstance(item, dict):
            fields, key, text = METADATA
            if len(item) > fields or any(
                len(k) > key or len(str(v)) > text for k, v in item.items()
            ):
                yield (
                    f"{where}.metadata: more than {fields} fields, or keys over {key} or values "
                    f"over {text} characters"
                )
        yield from _beyond_limits(item, f"{where}.{name}")
