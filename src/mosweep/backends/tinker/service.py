"""The Tinker service: its address and key, its availability, its errors and its renderers.

This module does not depend on runs, steps or stages.
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
    "KEY",
    "Service",
    "address",
    "check_key",
    "check_renderer",
    "load_renderer",
    "one_line",
    "permanent",
    "recommended_renderer",
    "supported_models",
]

T = TypeVar("T")

#: Some libraries cannot be imported by two threads at the same time.
_importing = threading.Lock()

#: The environment variable that holds the API key.
KEY = "TINKER_API_KEY"
#: The environment variable that holds the address of the server.
ADDRESS = "TINKER_BASE_URL"
#: Timeout of a health check, in seconds.
PROBE_TIMEOUT_S = 10.0
#: Seconds between health checks while a result is awaited.
PROBE_EVERY_S = 15.0
#: Timeout of requests before a launch, in seconds.
REQUEST_TIMEOUT_S = 60.0
#: Timeout for closing a session, in seconds.
CLOSE_TIMEOUT_S = 10.0


def check_key() -> None:
    """Raise ``UserError`` if no API key for Tinker is configured."""
    stored = Path("~/.tinker/credentials.json").expanduser()
    if not (os.environ.get(KEY) or os.environ.get("TINKER_CREDENTIAL_CMD") or stored.exists()):
        raise UserError(
            f"backend=tinker needs the API key of your Tinker account: {KEY} is not set"
        )


def address(given: str | None) -> str:
    """The address of the server: ``given``, else ``TINKER_BASE_URL``, else Tinker's own."""
    return (given or os.environ.get(ADDRESS) or _sdk_address()).rstrip("/")


def _sdk_address() -> str:
    try:
        from tinker.lib.base_url import DEFAULT_BASE_URL
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker", "tinker", "backend=tinker") from error
    return DEFAULT_BASE_URL


def one_line(error: BaseException) -> str:
    """The message of an error on one line, with API keys removed."""
    body = getattr(error, "body", None)
    detail = body.get("detail") if isinstance(body, dict) else None
    text = re.sub(
        r"\btml-[\w-]+", "tml-…", " ".join(str(detail or error or type(error).__name__).split())
    )
    status = getattr(error, "status_code", None)
    text = f"{status}: {text}" if status and not text.startswith(str(status)) else text
    return text if len(text) <= 300 else text[:299] + "…"


def permanent(error: BaseException) -> bool:
    """Whether a retry would fail again, because the request is invalid or forbidden."""
    import tinker
    from tinker.types import RequestErrorCategory

    if isinstance(error, ValueError) and isinstance(error.__cause__, tinker.APIStatusError):
        error = error.__cause__  # the SDK wraps errors of unavailable results
    if isinstance(error, tinker.RequestFailedError):
        return error.category is RequestErrorCategory.User
    # 404, 409 and 410: the session or the model no longer exists, for instance after a restart
    if isinstance(error, tinker.APIStatusError):
        return 400 <= error.status_code < 500 and error.status_code not in (404, 408, 409, 410, 429)
    return not isinstance(
        error, tinker.TinkerError | ValueError | OSError | RuntimeError | TimeoutError
    )


@dataclass(frozen=True)
class Service:
    """Tinker at ``url``. It may be unreachable for ``patience_s`` seconds.

    ``client``: use this client instead of a new session.
    """

    url: str
    patience_s: float = 900.0
    client: ServiceClient | None = None

    async def open(self, about: dict[str, str]) -> ServiceClient:
        """A client with a new session. ``about`` is the session's metadata."""
        if self.client is not None:
            return self.client
        await self.wait_until_available()

        def make() -> ServiceClient:
            import tinker

            # The logger writes a line for every poll.
            logging.getLogger("tinker.lib.api_future_impl").setLevel(logging.ERROR)
            client = tinker.ServiceClient(user_metadata=about, base_url=self.url)
            client.holder.get_session_id()  # creates the session, which blocks
            return client

        return await asyncio.to_thread(make)

    async def close(
        self, client: ServiceClient, how: Literal["success", "errored", "interrupted"]
    ) -> None:
        """Close the session, so that the service frees its resources.

        A session that cannot be closed expires on the server.
        """
        if client is self.client:
            return
        try:
            await asyncio.wait_for(client.close(how), CLOSE_TIMEOUT_S)
        except Exception as error:
            print(f"Tinker: could not close the session: {one_line(error)}")

    async def wait_until_available(self) -> None:
        """Wait until the service responds. Raises ``StageError`` after ``patience_s``."""
        start, pause = time.monotonic(), 0.5
        while (problem := await self._outage()) is not None:
            waited = time.monotonic() - start
            if waited + pause > self.patience_s:
                raise StageError(
                    f"Tinker at {self.url} has not responded for {_span(waited)}: {problem}"
                )
            print(f"Tinker does not respond ({problem}); retrying in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, 30.0)

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """The result of ``awaitable``. Raises ``StageError`` if the service stops responding.

        Without this check the SDK would wait forever.
        """
        task = asyncio.ensure_future(awaitable)
        silent_since: float | None = None
        try:
            while not (await asyncio.wait([task], timeout=PROBE_EVERY_S))[0]:
                now = time.monotonic()
                if (problem := await self._outage()) is None:
                    silent_since = None
                elif now - (silent_since := silent_since or now) > self.patience_s:
                    raise StageError(
                        f"Tinker at {self.url} has not responded for "
                        f"{_span(now - silent_since)}: {problem}"
                    )
            return task.result()
        finally:
            task.cancel()

    async def _outage(self) -> str | None:
        """Why the service does not respond, or ``None``. Any status below 500 is a response."""
        if self.client is not None:
            return None
        import httpx

        try:
            async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S) as http:
                answer = await http.get(f"{self.url}/api/v1/healthz")
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if answer.status_code < 500 else f"{answer.status_code} {answer.reason_phrase}"


def supported_models(url: str) -> list[str]:
    """The models that Tinker at ``url`` offers for this API key.

    Raises ``UserError`` if the key is missing or rejected, or if Tinker does not respond in time.
    """
    check_key()
    import httpx
    import tinker

    try:
        httpx.get(f"{url}/api/v1/healthz", timeout=PROBE_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise UserError(
            f"Tinker at {url} does not respond: {str(error) or type(error).__name__}"
        ) from error
    try:
        capabilities = _with_timeout(
            lambda: (
                tinker.RestClient(base_url=url).get_server_capabilities().result(REQUEST_TIMEOUT_S)
            )
        )
    except (tinker.AuthenticationError, tinker.PermissionDeniedError) as error:
        raise UserError(f"Tinker at {url} rejects the key in {KEY}: {one_line(error)}") from error
    except (tinker.TinkerError, TimeoutError, ValueError) as error:
        raise UserError(f"Tinker at {url} does not list its models: {one_line(error)}") from error
    return sorted(model.model_name for model in capabilities.supported_models if model.model_name)


def recommended_renderer(model: str) -> str:
    """tinker-cookbook's renderer for ``model``. Raises ``ConfigError`` if it has none."""
    try:
        from tinker_cookbook.model_info import get_recommended_renderer_name
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker-cookbook", "tinker", "backend=tinker") from error
    try:
        return get_recommended_renderer_name(model)
    # The type of the exception depends on the form of the unknown name.
    except Exception as error:
        problem = (
            f"tinker-cookbook has no renderer for {model}: set one, such as llama3, qwen3 or "
            "role_colon"
        )
        raise ConfigError("model.renderer", None, problem) from error


def load_renderer(name: str, model: str, tokenizer: str | Path | None = None) -> Any:
    """The renderer ``name`` with the tokenizer in the folder ``tokenizer``, or else ``model``'s.

    The first call imports large libraries.
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
    """Raise ``ConfigError`` for a renderer that tinker-cookbook does not have."""
    from tinker_cookbook.exceptions import RendererError
    from tinker_cookbook.renderers import get_renderer

    nothing: Any = None
    try:
        get_renderer(name, nothing)
    except RendererError as error:
        raise ConfigError(
            "model.renderer", name, "tinker-cookbook has no renderer with this name"
        ) from error
    except Exception:
        return  # the renderer exists, and failed without a tokenizer


def _with_timeout(request: Any) -> Any:
    """The result of ``request()``, or ``TimeoutError``, because the SDK retries for minutes."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((request(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(REQUEST_TIMEOUT_S)
    if not outcome:
        raise TimeoutError(f"no response within {REQUEST_TIMEOUT_S:g} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
