"""What a researcher sees of a recorded sweep: MLflow's own user interface, in a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.results import SweepResult
from mosweep.recorders.mlflow import project

#: MLflow 3.17.2 with SQLAlchemy 2.1.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    if BROWSER is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=OPTIONS)
        page = browser.new_page(viewport={"width": 3200, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture
def recorded(
    sweep: Callable[..., SweepResult], tmp_path: Path
) -> Iterator[tuple[SweepResult, str, str]]:
    """A sweep that was recorded, the URI that it was recorded at, and the address of MLflow's
    interface to it.
    """
    result = sweep(dummy=True)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    project(result, uri)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, server, tmp_path / "server.log")
        yield result, uri, address
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"MLflow's server does not answer:\n{log.read_text()}")


def colours(page: Any, path: Path) -> int:
    """Number of different colours in a screenshot of the page, which is stored at ``path``."""
    page.screenshot(path=str(path))
    image = pytest.importorskip("PIL.Image").open(path)
    return len(image.convert("RGB").getcolors(1 << 24))


def test_runs_are_nested_and_show_factors_and_scores(
    page: Any, recorded: tuple[SweepResult, str, str], tmp_path: Path
) -> None:
    result, uri, address = recorded
    page.goto(f"{address}/{project(result, uri).page}")
    sweep_cell = (
        page.locator("[role=gridcell]").filter(has=page.get_by_text("letters", exact=True)).first
    )
    sweep_cell.wait_for()
    # below the sweep, which is closed at first
    assert not page.get_by_text(result.trials[0].name).count()
    sweep_cell.locator("button").first.click()
    page.get_by_text(result.trials[-1].name).first.wait_for()
    page.get_by_text("capitalization/accuracy").first.wait_for()
    text = page.inner_text("body")
    for trial in result.trials:
        assert trial.name in text
    for word in ("lora.rank", "64", "0.125", "0.254", "0.314", "words", "dummy"):
        assert word in text
    assert colours(page, tmp_path / "runs.png") > 50


def test_compare_view_shows_what_differs(
    page: Any, recorded: tuple[SweepResult, str, str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    result, uri, address = recorded
    runs = MlflowClient(tracking_uri=uri).search_runs(["1"], "params.`lora.rank` != ''")
    ids = ",".join(f'"{run.info.run_id}"' for run in runs)
    page.goto(f'{address}/#/compare-runs?runs=[{ids}]&experiments=["1"]')
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    page.get_by_text("capitalization/accuracy").first.wait_for()
    text = page.inner_text("body")
    for word in (*(trial.name for trial in result.trials if not trial.control), "lora.rank"):
        assert word in text
    assert colours(page, tmp_path / "compare.png") > 50


def test_model_page_shows_data_source_run_and_scores(
    page: Any, recorded: tuple[SweepResult, str, str], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    _, uri, address = recorded
    (model,) = MlflowClient(tracking_uri=uri).search_logged_models(
        ["1"], filter_string="params.`lora.rank` = '64'"
    )
    page.goto(f"{address}/#/experiments/1/models/{model.model_id}")
    page.get_by_text("capitalization/accuracy").first.wait_for()
    page.get_by_text("words (#").first.wait_for()
    text = page.inner_text("body")
    for word in (
        "model=tiny,lora_rank=64",
        "Source run",
        "model=tiny,lora.rank=64",
        "0.314",
        "Datasets used",
        "words (#d1d1",
        "lora.rank",
        "64",
        "dummy",
    ):
        assert word in text
    assert colours(page, tmp_path / "model.png") > 50
