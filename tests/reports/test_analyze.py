"""The report of a sweep: whether all of it is there, says what the records say, and can be read in
a browser without a network.
"""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import DRY, Shell

from mosweep.analysis.contamination import Overlap
from mosweep.analysis.effects import effects
from mosweep.analysis.matching import Hit
from mosweep.core.results import StageResult, SweepResult
from mosweep.core.work import FINETUNE
from mosweep.reports.analyze import Analysis, analyze
from mosweep.reports.plots import CURVES, evenly
from mosweep.reports.summary import summary_data
from mosweep.sweep.folder import Sweep, find_sweep

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)> | `$a_b$` & "quoted"'


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A dry sweep where one level fails, and a later launch that brought another level."""
    shell = Shell(tmp_path_factory.mktemp("analyze"))
    design = [
        *DRY,
        "model=tiny,tiny-wide",
        "seed=0,1,2",
        "backend.effects={lora.rank:{64:0.2}}",
        "experiment.name=demo",
    ]
    assert (
        shell("-m", *design, "lora.rank=4,64", "experiment.description='Does rank matter?'").status
        == 0
    )
    assert shell("-m", *design, "lora.rank=4,256").status == 0
    assert (
        shell(
            "-m",
            *DRY,
            "backend.fail=raise",
            'treatments=[{"model": "tiny", "lora.rank": 4, "seed": 7}]',
            "experiment.name=demo",
        ).status
        == 1
    )
    return shell


@pytest.fixture(scope="module")
def sweep(swept: Shell) -> Sweep:
    return find_sweep(str(swept.folder / "multirun" / "demo"))


def trained(stage: StageResult, number: int) -> StageResult:
    """The stage with what a real fine-tune says of its losses, or an error to escape."""
    if stage.error:
        return replace(stage, error=EVIL)
    if stage.kind != FINETUNE or not stage.record:
        return stage
    loss = [[step, 3 / (1 + step / (20 + number))] for step in range(300)]
    return replace(stage, record={**stage.record, "facts": {**stage.facts, "loss": loss}})


@pytest.fixture(scope="module")
def result(sweep: Sweep) -> SweepResult:
    """The sweep with losses, and with a name and an error that try to be markup."""
    known = sweep.result()
    trials = []
    for number, trial in enumerate(known.trials):
        name = f"{trial.name} {EVIL}" if trial.status == "failed" else trial.name
        trials.append(
            replace(
                trial, name=name, stages=tuple(trained(stage, number) for stage in trial.stages)
            )
        )
    return replace(known, trials=tuple(trials))


@pytest.fixture(scope="module")
def written(
    sweep: Sweep, result: SweepResult, tmp_path_factory: pytest.TempPathFactory
) -> Analysis:
    return analyze(sweep, result, tmp_path_factory.mktemp("report"))


def test_command_writes_everything_beside_the_sweep(swept: Shell) -> None:
    done = swept("analyze", "demo")
    assert done.status == 0, done.err
    assert "lora.rank: 4 -> 64: capitalization/score: +0.17" in done.out
    folder = swept.folder / "multirun" / "demo" / "report"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    tables = {
        f"{name}.{kind}" for name in ("trials", "items", "effects") for kind in ("csv", "parquet")
    }
    assert files == {
        "report.html",
        "report.md",
        *tables,
        *(f"plots/{name}.svg" for name in ("effects", "scores", "interaction")),
    }
    told = swept("analyze", "demo", "--json", "-o", "else where").json
    assert set(told["files"]) == files and (swept.folder / "else where" / "report.html").exists()
    assert {effect["verdict"] for effect in told["effects"]} >= {"increase"}
    shutil.rmtree(folder)
    assert swept("summary", "demo").status == 0


def test_the_same_records_make_the_same_files(swept: Shell) -> None:
    assert swept("analyze", "demo", "-o", "once").status == 0
    assert swept("analyze", "demo", "-o", "again").status == 0
    once, again = (
        {p.name: p.read_bytes() for p in (swept.folder / f).rglob("*.*") if p.is_file()}
        for f in ("once", "again")
    )
    assert (
        once.keys() == again.keys() and [name for name in once if once[name] != again[name]] == []
    )


def test_tables_say_what_summary_and_effects_say(written: Analysis, result: SweepResult) -> None:
    trials = pd.read_csv(written.folder / "trials.csv")
    known = {trial["name"]: trial for trial in summary_data(result)["trials"]}
    assert list(trials["trial"]) == list(known)
    for row in trials.to_dict("records"):
        about = known[row["trial"]]
        assert row["status"] == about["status"] and row["control"] == about["control"]
        assert {name: row[name] for name in about["metrics"]} == about["metrics"]
        assert {name: row[name] for name in about["factors"]} == about["factors"]
    items = pd.read_parquet(written.folder / "items.parquet")
    means = items.groupby("trial")["score"].mean()
    for name, about in known.items():
        if about["metrics"]:
            assert means[name] == pytest.approx(about["metrics"]["capitalization/score"], abs=1e-6)
    assert len(items) == 100 * len(means)
    table = pd.read_csv(written.folder / "effects.csv")
    whole = table[table["block"].isna()]
    for row, effect in zip(whole.to_dict("records"), effects(result), strict=True):
        assert (row["comparison"], row["verdict"]) == (str(effect.contrast), effect.verdict)
        numbers = [
            math.nan if number is None else number
            for number in (effect.estimate, effect.low, effect.high)
        ]
        assert [row["estimate"], row["low"], row["high"]] == pytest.approx(
            numbers, abs=0, nan_ok=True
        )
    for name in ("trials", "items", "effects"):
        assert len(pd.read_parquet(written.folder / f"{name}.parquet")) == len(
            pd.read_csv(written.folder / f"{name}.csv")
        )
    assert set(trials["exploratory"][trials["lora.rank"] == 256]) == {True}
    assert set(
        trials["exploratory"][(trials["lora.rank"] != 256) & (trials["status"] == "succeeded")]
    ) == {False}


@pytest.mark.parametrize("form", ["html", "md"])
def test_report_tells_what_was_found_and_what_failed(
    written: Analysis, result: SweepResult, form: str
) -> None:
    text = (written.folder / f"report.{form}").read_text()
    first = text[: text.index("What failed") + 600]
    for word in (
        "Does rank matter?",
        "4, 64, 256",
        "seeds",
        "100 items",
        "dummy backend",
        "not decisive",
        "95% interval",
        "increase",
    ):
        assert word in first
    assert "1 of 21 trials failed" in first
    for word in ("exploratory", "SHA-256", "mosweep -m", "finetune"):
        assert word in text
    (effect,) = (e for e in written.effects if str(e.contrast) == "lora.rank: 4 -> 64")
    assert (
        f"+{effect.estimate:.3f}" in text
        and effect.low is not None
        and f"+{effect.low:.3f}" in text
    )


def test_what_comes_from_a_sweep_is_never_markup(written: Analysis) -> None:
    page = (written.folder / "report.html").read_text()
    assert "alert(1)" in page and "<script" not in page and "<img" not in page
    assert not re.search(
        r"""(?:src|href)\s*=\s*["'](?!data:|#)""", re.sub(r"&lt;.*?&gt;", "", page)
    )
    text = (written.folder / "report.md").read_text()
    assert "alert(1)" in text and not re.search(r"(?<!\\)[<|](?=script|img| `)", text)
    assert all(line.count(" | ") == len(line.split(" | ")) - 1 for line in text.splitlines())


def test_contamination_is_told(
    sweep: Sweep, result: SweepResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hit = Hit(17, "exact", "prompt", 3, 1.0, EVIL)
    scores = {"score": {"all": 0.5, "without": 0.25, "hits": None}}
    one = Overlap(
        result.trials[0].name, "eval:words", "words", "k", "d", 1000, 100, 0.01, (hit,), scores
    )
    monkeypatch.setattr("mosweep.reports.content.overlap", lambda _: [one])
    monkeypatch.setattr("mosweep.reports.content.limit_of", lambda _: 0.001)
    analyze(sweep, result, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert (
        "more than 0.1% is refused" in page
        and "succeeded, contaminated" in page
        and "<script" not in page
    )
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert list(trials["trial"][trials["contaminated"]]) == [one.trial]


def test_plots_are_svg(written: Analysis) -> None:
    names = [name for name in written.files if name.endswith(".svg")]
    assert names == [
        "plots/effects.svg",
        "plots/scores.svg",
        "plots/interaction.svg",
        "plots/loss.svg",
    ]
    for name in names:
        root = ElementTree.parse(written.folder / name).getroot()
        assert root.tag.endswith("svg") and "dummy backend" in "".join(root.itertext())
    assert len(evenly(range(1000), CURVES)) == CURVES and evenly(range(1000), CURVES)[-1] == 999


def test_without_results_there_is_still_a_report(shell: Shell) -> None:
    failed = shell(
        "-m",
        *DRY,
        "backend.fail=raise",
        "lora.rank=4,64",
        "run_control_trials=false",
        "experiment.name=lost",
    )
    assert failed.status == 1
    done = shell("analyze", "lost")
    assert done.status == 0, done.err
    folder = shell.folder / "multirun" / "lost" / "report"
    assert "2 of 2 trials failed" in (folder / "report.md").read_text()
    assert (
        len(pd.read_parquet(folder / "trials.parquet")) == 2
        and len(pd.read_parquet(folder / "items.parquet")) == 0
    )


def test_a_missing_library_is_named_before_anything_is_written(
    swept: Shell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from mosweep.cli.main import dispatch

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "mosweep.reports.analyze.find_spec", lambda name: None if name == "pyarrow" else found(name)
    )
    place = tmp_path / "report"
    assert dispatch(["analyze", str(swept.folder / "multirun" / "demo"), "-o", str(place)]) == 2
    assert "mosweep[reports]" in capsys.readouterr().err and not place.exists()


def test_a_thousand_trials_in_seconds(shell: Shell) -> None:
    design = ["lora.rank=range(1,51)", "seed=range(20)", "experiment.name=many"]
    assert shell("-m", *DRY, *design).status == 0
    before = time.monotonic()
    assert shell("analyze", "many").status == 0
    assert time.monotonic() - before < 60  # 20 on a machine that does nothing else
    page = shell.folder / "multirun" / "many" / "report" / "report.html"
    assert page.stat().st_size < 3e6


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_page_in_a_browser_without_a_network(written: Analysis, dark: bool, tmp_path: Path) -> None:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    if BROWSER is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            viewport={"width": 1200, "height": 900}, color_scheme="dark" if dark else "light"
        )
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((written.folder / "report.html").as_uri())
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            boxes = [plot.bounding_box() for plot in page.locator("figure svg").all()]
            assert len(boxes) == 4 and all(
                box["width"] > 300 and box["height"] > 100 for box in boxes
            )
            page.screenshot(path=str(tmp_path / f"report-{width}.png"), full_page=True)
        assert not said and [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert (
            page.locator("h1").bounding_box()["y"] < 100
            and page.get_by_text("increase: lora.rank").bounding_box()["y"] < 844
        )
        browser.close()
