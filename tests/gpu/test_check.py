"""The GPU check, small and on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.gpu import check
from tests.gpu.check import Check
from tests.gpu.runs import CPU

SCRIPT = Path(__file__).with_name("check.sh")


@pytest.mark.real
def test_the_check_passes_on_the_cpu(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "OUT": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", str(SCRIPT), "--cpu"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    known = json.loads((tmp_path / "gpu.json").read_text())
    assert (known["device"], known["passed"]) == ("cpu", True)
    found = {(row["step"], row["measure"]): row["value"] for row in known["rows"]}
    assert {step for step, _ in found} == {step.__name__ for step in check.STEPS}
    assert found["training", "steps"] == f"{CPU.steps} of {CPU.steps}"
    assert found["resume", "resumed after step"] == str(CPU.steps // CPU.epochs)
    assert found["resume", "adapter"] == "equal"
    assert found["overhead", "largest difference of the adapters"] == "0"
    assert "| generation | difference to the merged weights | 0 | ok |" in done.stdout


def test_a_step_that_fails_does_not_hide_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Check) -> None:
        raise RuntimeError("no such\ncard")

    def fine(check: Check) -> None:
        check.add("answer", 42, True)

    monkeypatch.setattr(check, "STEPS", (broken, fine))
    done = Check(CPU, tmp_path, 10, tmp_path)
    done.run()
    assert not done.passed
    assert "| broken | error | RuntimeError: no such card | FAILED |" in done.table()
    assert "| fine | answer | 42 | ok |" in done.table()
    assert json.loads((tmp_path / "gpu.json").read_text())["passed"] is False
    assert "Traceback" in capsys.readouterr().err


def test_no_step_begins_after_the_time(tmp_path: Path) -> None:
    done = Check(CPU, tmp_path, -1, None)
    done.run()
    assert {row.value for row in done.rows} == {"TimeoutError: no time left"}
