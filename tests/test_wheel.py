"""The wheel: installed into an empty environment, used in an empty folder, with the user's own
model beside.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its light dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(folder),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = folder.glob("mosweep-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        str(ROOT / "constraints.txt"),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    return python


def run(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MOSWEEP"))
    }
    command = [str(python), "-m", "mosweep", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def own_model(folder: Path) -> None:
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "mine.yaml").write_text(
        "name: mine\nrecipe: tiny\ngenerate: {dim: 64, layers: 2}\ngenerate_seed: 2\n"
    )


def test_a_dry_run_needs_only_the_core(python: Path, tmp_path: Path) -> None:
    own_model(tmp_path)
    done = run(
        python,
        tmp_path,
        "-m",
        "backend=dummy",
        "tracking=none",
        "model=mine,tiny",
        "lora.rank=4,64",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("succeeded") == 6
    packages = subprocess.run(
        [str(python), "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert len(packages.split()) < 15, packages


def test_what_is_missing_is_named(python: Path, tmp_path: Path) -> None:
    done = run(python, tmp_path, "-m", "lora.rank=4", "tracking=none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'mosweep[torchtune,local,inspect]'" in done.stderr
    assert "tracking=none" in run(python, tmp_path, "backend=dummy").stderr
    assert not list(tmp_path.rglob("experiment.yaml"))
    assert "pip install 'mosweep[torchtune]'" in run(python, tmp_path, "doctor").stdout
    assert run(python, tmp_path, "ui").returncode != 0


@pytest.mark.real
def test_the_real_thing_from_the_wheel(python: Path, tmp_path: Path) -> None:
    own_model(tmp_path)
    # The heavy libraries are lent by the environment of these tests: installing them again would
    # take minutes.
    site = next((python.parents[1] / "lib").glob("python3*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    try:
        done = run(python, tmp_path, "-m", "model=mine", "lora.rank=4", "experiment.name=mine")
    finally:
        (site / "lent.pth").unlink()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        line.split()[0]: float(line.split()[1])
        for line in done.stdout.splitlines()
        if line.startswith(("control", "tuned"))
    }
    assert rows["control"] < 0.1
    assert rows["tuned"] > 0.8
