"""The notebook reads a real sweep, shows the report's numbers, and can be had as a Jupyter
notebook.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import DRY, Shell

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "sweep.py"

pytest.importorskip("marimo", reason="needs marimo: pip install 'mosweep[notebook]'")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A sweep with its report."""
    shell = Shell(tmp_path_factory.mktemp("notebook"))
    design = (
        "model=tiny,tiny-wide",
        "lora.rank=4,64",
        "seed=0,1,2",
        "backend.effects={lora.rank:{64:0.2}}",
    )
    assert shell("-m", *DRY, *design, "experiment.name=first").status == 0
    assert shell("analyze", "first").status == 0
    return shell


def python(shell: Shell, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_as_a_script_and_says_what_the_report_says(swept: Shell) -> None:
    shown = pd.read_csv(io.StringIO(python(swept, str(NOTEBOOK), "--", "--sweep", "first")))
    report = pd.read_csv(swept.folder / "multirun/first/report/effects.csv")
    assert len(shown) > 3
    pd.testing.assert_frame_equal(shown, report[list(shown)])


def test_it_can_be_had_as_a_jupyter_notebook_that_shows_the_newest_sweep(swept: Shell) -> None:
    python(swept, "-m", "marimo", "export", "ipynb", str(NOTEBOOK), "-o", "sweep.ipynb")
    cells = [
        cell
        for cell in json.loads((swept.folder / "sweep.ipynb").read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    assert not any(cell["outputs"] for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells)
    told = python(
        swept,
        "-c",
        f"{code}\nassert (len(trials), len(items)) == (14, 1400)\nprint(forest.svg, end='')",
    )
    assert told.endswith((swept.folder / "multirun/first/report/plots/effects.svg").read_text())
