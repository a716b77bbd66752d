"""Keys in .env, and endpoints that nobody listens at."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosweep.core.errors import UserError
from mosweep.evals.inspect.endpoint import await_endpoint


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai/gpt-x", "OPENAI_BASE_URL"),
        ("vllm/a-model", "VLLM_BASE_URL"),
        ("openai-api/my-lab/a-model", "MY_LAB_BASE_URL"),
    ],
)
def test_a_refused_connection_is_told_with_its_address(
    monkeypatch: pytest.MonkeyPatch, closed: int, model: str, variable: str
) -> None:
    address = f"http://127.0.0.1:{closed}/v1"
    monkeypatch.setenv(variable, address)
    begun = time.monotonic()
    with pytest.raises(UserError, match="refuses connections") as caught:
        await_endpoint(model, None, patience_s=0.2)
    assert address in str(caught.value) and variable in str(caught.value)
    assert time.monotonic() - begun < 5


def test_a_server_that_is_about_to_start_is_waited_for() -> None:
    server = socket.socket()
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def start() -> None:
            server.bind(("127.0.0.1", port))
            server.listen()

        timer = threading.Timer(0.7, start)
        timer.start()
        await_endpoint("openai/x", f"http://127.0.0.1:{port}/v1", patience_s=10)
        timer.join()
    finally:
        server.close()


def test_a_provider_without_an_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    await_endpoint("openai/gpt-x", None)
    await_endpoint("mockllm/model", None)


def test_a_setting_that_is_wrong_is_named(closed: int) -> None:
    with pytest.raises(UserError, match=r"inspect\.model_base_url"):
        await_endpoint("openai/x", f"http://localhost:{closed}", patience_s=0)


@pytest.mark.real
@pytest.mark.parametrize("place", ["here", "above"])
def test_a_key_in_env_is_found_as_inspect_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from mosweep.evals.inspect.backend import _model
    from mosweep.evals.inspect.options import InspectOptions

    folder = tmp_path / "project"
    folder.mkdir()
    (folder if place == "here" else tmp_path).joinpath(".env").write_text("OPENAI_API_KEY=of-env\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = _model("openai/gpt-4o-mini", {}, InspectOptions())
    assert model.api.api_key == "of-env"
    os.environ.pop("OPENAI_API_KEY")


@pytest.mark.real
def test_a_key_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mosweep.evals.inspect.backend import _model
    from mosweep.evals.inspect.options import InspectOptions

    monkeypatch.chdir(tmp_path)
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        _model("openai/gpt-4o-mini", {}, InspectOptions())
