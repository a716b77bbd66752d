"""Models that Tinker holds: its address and key, whether it is there, what its errors mean, how
chats are written for its models.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mosweep.core.errors import ConfigError, MissingExtra, StageError, UserError

if TYPE_CHECKING:
    from tinker import ServiceClient

__all__ = [
    *(
        "KEY",
        "Service",
        "address",
        "check_key",
        "check_renderer",
        "hopeless",
        "load_renderer",
        "one_line",
        "recommended_renderer",
    ),
    "supported_models",
]

T = TypeVar("T")

#: Some libraries cannot be imported by two threads at a time.
_importing = threading.Lock()

#: The variables that hold the key and the address.
KEY, ADDRESS = "TINKER_API_KEY", "TINKER_BASE_URL"
#: How long a look at the service's health may take, and how often it is looked at while an answer
#: is waited for, in seconds.
PROBE_S, LOOK_S = 10.0, 15.0
#: How long the questions before a launch may take, and the goodbye at the end of a session.
ASK_S, CLOSE_S = 60.0, 10.0


def check_key() -> None:
    """``UserError`` if there is nothing that Tinker would take for a key."""
    stored = Path("~/.tinker/credentials.json").expanduser()
    if not (os.environ.get(KEY) or os.environ.get("TINKER_CREDENTIAL_CMD") or stored.exists()):
        raise UserError(
            f"backend=tinker needs the key of your Tinker account in the environment: {KEY} is "
            "not set"
        )


def address(given: str | None) -> str:
    """Where Tinker is: as given, or by ``TINKER_BASE_URL``, or the service itself."""
    return (given or os.environ.get(ADDRESS) or _sdk_address()).rstrip("/")


def _sdk_address() -> str:
    try:
        from tinker.lib.base_url import DEFAULT_BASE_URL
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker", "tinker", "backend=tinker") from error
    return DEFAULT_BASE_URL


def one_line(error: BaseException) -> str:
    """What an error says, on one line, without anything like a key."""
    body = getattr(error, "body", None)
    told = body.get("detail") if isinstance(body, dict) else None
    text = re.sub(
        r"\btml-[\w-]+", "tml-…", " ".join(str(told or error or type(error).__name__).split())
    )
    status = getattr(error, "status_code", None)
    text = f"{status}: {text}" if status and not text.startswith(str(status)) else text
    return text if len(text) <= 300 else text[:299] + "…"


def hopeless(error: BaseException) -> bool:
    """Whether trying again from the last checkpoint cannot help: the request was wrong, or is not
    allowed.
    """
    import tinker
    from tinker.types import RequestErrorCategory

    if isinstance(error, ValueError) and isinstance(error.__cause__, tinker.APIStatusError):
        error = error.__cause__  # so the SDK says that a result is not to be had
    if isinstance(error, tinker.RequestFailedError):
        return error.category is RequestErrorCategory.User
    # 404, 409 and 410: the session or the model is gone, as after a restart
    if isinstance(error, tinker.APIStatusError):
        return 400 <= error.status_code < 500 and error.status_code not in (404, 408, 409, 410, 429)
    return not isinstance(
        error, tinker.TinkerError | ValueError | OSError | RuntimeError | TimeoutError
    )


@dataclass(frozen=True)
class Service:
    """Tinker at ``url``, which may be silent for ``patience_s`` before we give up. ``client``: one
    to use rather than our own.
    """

    url: str
    patience_s: float = 900.0
    client: ServiceClient | None = None

    async def open(self, about: dict[str, str]) -> ServiceClient:
        """A client with a session of its own; ``about`` is what the service notes about it."""
        if self.client is not None:
            return self.client
        await self.answering()

        def make() -> ServiceClient:
            import tinker

            # one line for every time it asks again
            logging.getLogger("tinker.lib.api_future_impl").setLevel(logging.ERROR)
            client = tinker.ServiceClient(user_metadata=about, base_url=self.url)
            client.holder.get_session_id()  # made here, where waiting for it blocks nobody
            return client

        return await asyncio.to_thread(make)

    async def close(
        self, client: ServiceClient, how: Literal["success", "errored", "interrupted"]
    ) -> None:
        """End the session, which frees what the service holds for it. One that cannot be ended ends
        by itself.
        """
        if client is self.client:
            return
        try:
            await asyncio.wait_for(client.close(how), CLOSE_S)
        except Exception as error:
            print(f"Tinker: the session was not closed: {one_line(error)}")

    async def answering(self) -> None:
        """Return once the service answers; ``StageError`` if it does not within ``patience_s``."""
        begun, pause = time.monotonic(), 0.5
        while (trouble := await self._trouble()) is not None:
            waited = time.monotonic() - begun
            if waited + pause > self.patience_s:
                raise StageError(
                    f"Tinker at {self.url} has not answered for {_span(waited)}: {trouble}"
                )
            print(f"Tinker: no answer ({trouble}); again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30.0)

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """What ``awaitable`` gives, however long it takes, as long as the service is there; the SDK
        alone would wait for ever.
        """
        task = asyncio.ensure_future(awaitable)
        silent_since: float | None = None
        try:
            while not (await asyncio.wait([task], timeout=LOOK_S))[0]:
                now = time.monotonic()
                if (trouble := await self._trouble()) is None:
                    silent_since = None
                elif now - (silent_since := silent_since or now) > self.patience_s:
                    raise StageError(
                        f"Tinker at {self.url} has not answered for {_span(now - silent_since)}: "
                        f"{trouble}"
                    )
            return task.result()
        finally:
            task.cancel()

    async def _trouble(self) -> str | None:
        """Why the service does not answer; any answer of less than 500 is one."""
        if self.client is not None:
            return None
        import httpx

        try:
            async with httpx.AsyncClient(timeout=PROBE_S) as http:
                answer = await http.get(f"{self.url}/api/v1/healthz")
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if answer.status_code < 500 else f"{answer.status_code} {answer.reason_phrase}"


def supported_models(url: str) -> list[str]:
    """The models that Tinker at ``url`` offers to this key; one quick question. ``UserError`` for a
    key that it does not take, or none.
    """
    check_key()
    import httpx
    import tinker

    try:
        httpx.get(f"{url}/api/v1/healthz", timeout=PROBE_S)
    except httpx.HTTPError as error:
        raise UserError(
            f"Tinker at {url} does not answer: {str(error) or type(error).__name__}"
        ) from error
    try:
        found = _in_time(
            lambda: tinker.RestClient(base_url=url).get_server_capabilities().result(ASK_S)
        )
    except (tinker.AuthenticationError, tinker.PermissionDeniedError) as error:
        raise UserError(
            f"Tinker at {url} does not accept the key in {KEY}: {one_line(error)}"
        ) from error
    except (tinker.TinkerError, TimeoutError, ValueError) as error:
        raise UserError(
            f"Tinker at {url} cannot be asked for its models: {one_line(error)}"
        ) from error
    return sorted(model.model_name for model in found.supported_models if model.model_name)


def recommended_renderer(model: str) -> str:
    """tinker-cookbook's renderer for ``model``; ``ConfigError`` where it knows none."""
    try:
        from tinker_cookbook.model_info import get_recommended_renderer_name
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker-cookbook", "tinker", "backend=tinker") from error
    try:
        return get_recommended_renderer_name(model)
    # what it raises for models that it does not know depends on the name's shape
    except Exception as error:
        problem = (
            f"tinker-cookbook knows no renderer for {model}: name one, such as llama3, qwen3 or "
            "role_colon"
        )
        raise ConfigError("model.renderer", None, problem) from error


def load_renderer(name: str, model: str, tokenizer: str | Path | None = None) -> Any:
    """The renderer ``name`` with the tokenizer in the folder ``tokenizer``, or else that of
    ``model``. Slow: loads libraries.
    """
    with _importing:
        from tinker_cookbook.renderers import get_renderer
        from tinker_cookbook.tokenizer_utils import get_tokenizer
        from transformers import AutoTokenizer

    if tokenizer is None:
        loaded = get_tokenizer(model)
    else:
        loaded = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    return get_renderer(name, loaded, model_name=model)


def check_renderer(name: str) -> None:
    """``ConfigError`` for a renderer that tinker-cookbook does not have."""
    from tinker_cookbook.exceptions import RendererError
    from tinker_cookbook.renderers import get_renderer

    nothing: Any = None
    try:
        get_renderer(name, nothing)
    except RendererError as error:
        raise ConfigError(
            "model.renderer", name, "tinker-cookbook has no renderer of that name"
        ) from error
    except Exception:
        return  # it is there, and wants a tokenizer


def _in_time(ask: Any) -> Any:
    """What ``ask()`` returns, or ``TimeoutError``: the SDK goes on asking for minutes."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((ask(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ASK_S)
    if not outcome:
        raise TimeoutError(f"no answer within {ASK_S:g} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
