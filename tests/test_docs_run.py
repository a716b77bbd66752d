"""Every Python example in docs/ runs, as a file of its own in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example(code: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "MOSWEEP_HOME"}
    command = [sys.executable, "-W", "error", "example.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_reference_is_built(tmp_path: Path) -> None:
    modules = (DOCS / "reference.txt").read_text().split()
    command = [sys.executable, "-m", "pdoc", "--no-show-source", "-o", str(tmp_path), *modules]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert "Warn" not in done.stderr, done.stderr
    page = (tmp_path / "mosweep" / "workflow.html").read_text()
    assert "Something in the store: its data, what it was made from" in page
    for module in modules:
        assert (tmp_path / f"{module.replace('.', '/')}.html").exists()
