"""Every option of ``hydra.job`` and ``hydra.sweep`` is honoured or refused; none is dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.conf import JobConf, SweepDir
from tests.conftest import DRY, Outcome, Shell
from tests.launchers.slurm.test_sharing import tuned

from mosweep.launchers.slurm.arrays import Array
from mosweep.launchers.slurm.options import Slurm
from mosweep.launchers.slurm.script import script
from mosweep.launchers.slurm.submissions import Submissions

#: A stage between fine-tune and evaluation that notes the variables that it sees.
PROBE = """
import os
from dataclasses import dataclass
from pathlib import Path

from mosweep import Kind, ModelFacts, Stage, Transform, WeightsAccess, Work


@dataclass(frozen=True)
class Look(Work):
    names: list[str]
    kind = Kind("look", leaves="model")
    version = 1

    async def run(self, context):
        (context.out / "weights").write_text("")
        seen = [os.environ.get(name, "nothing") for name in self.names]
        Path(os.environ["SEEN"]).write_text(" ".join(seen))
        return ModelFacts("looked", access=WeightsAccess("weights")).to_json()


@dataclass(frozen=True)
class Probe(Transform):
    names: list[str]

    def stage(self, trial, tuned):
        return Stage("look", Look(self.names), {"tuned": tuned}, trial.resources("look"))
"""
#: What each option does, with the override that shows it.
OPTIONS = {
    "job.name": ("honoured", "hydra.job.name=mine"),
    "job.chdir": ("refused", "hydra.job.chdir=true"),
    "job.override_dirname": ("refused", "hydra.job.override_dirname=x"),
    "job.id": ("refused", "hydra.job.id=7"),
    "job.num": ("refused", "hydra.job.num=7"),
    "job.config_name": ("refused", "hydra.job.config_name=other"),
    "job.env_set": ("honoured", "+hydra.job.env_set.GREETING=hello"),
    "job.env_copy": ("honoured", "hydra.job.env_copy=[HOME]"),
    "job.config.override_dirname.kv_sep": (
        "honoured",
        "hydra.job.config.override_dirname.kv_sep=is",
    ),
    "job.config.override_dirname.item_sep": (
        "honoured",
        "hydra.job.config.override_dirname.item_sep=and",
    ),
    "job.config.override_dirname.exclude_keys": (
        "honoured",
        "hydra.job.config.override_dirname.exclude_keys=[backend]",
    ),
    "sweep.dir": ("honoured", "hydra.sweep.dir=elsewhere"),
    "sweep.subdir": ("refused", "hydra.sweep.subdir=x"),
}


def leaves(kind: Any, prefix: str) -> Iterator[str]:
    for option in dataclasses.fields(kind):
        default = option.default_factory
        nested = default() if default is not dataclasses.MISSING else None
        if dataclasses.is_dataclass(nested):
            yield from leaves(type(nested), f"{prefix}{option.name}.")
        else:
            yield f"{prefix}{option.name}"


@pytest.fixture
def probe(shell: Shell) -> Shell:
    (shell.folder / "probe.py").write_text(PROBE)
    folder = shell.folder / "conf" / "probe"
    folder.mkdir(parents=True)
    (folder / "look.yaml").write_text("_target_: probe.Probe\nnames: [GREETING, OMP_NUM_THREADS]\n")
    return shell


def run(shell: Shell, *words: str, **env: str) -> Outcome:
    return shell(*words, env={"SEEN": str(shell.folder / "seen"), **env})


def seen(shell: Shell) -> str:
    return (shell.folder / "seen").read_text()


def test_every_option_of_hydra_is_known() -> None:
    assert {*leaves(JobConf, "job."), *leaves(SweepDir, "sweep.")} == set(OPTIONS)


@pytest.mark.parametrize(("kind", "override"), OPTIONS.values(), ids=OPTIONS)
def test_refused_options_stop_the_command(shell: Shell, kind: str, override: str) -> None:
    done = shell("plan", "backend=dummy", override)
    if kind == "honoured":
        assert done.status == 0, done.err
        return
    key = override.partition("=")[0]
    assert (done.status, shell.files()) == (2, set())
    assert done.err.startswith(f"mosweep: {override}: "), done.err
    assert done.err.count("\n") == 1
    ran = shell("-m", *DRY, override)
    assert (ran.status, ran.err, shell.files()) == (2, done.err, set())
    if key.startswith("hydra.job"):  # Without -m there is no folder of a sweep.
        assert shell(*DRY, override).err == done.err


@pytest.mark.parametrize("mode", [["-m"], []], ids=["sweep", "single"])
def test_variables_are_set_where_stages_run(probe: Shell, mode: list[str]) -> None:
    words = ["+hydra.job.env_set.GREETING=hello", "+hydra.job.env_set.OMP_NUM_THREADS=3"]
    done = run(probe, *mode, *DRY, "+probe=look", "run_control_trials=false", *words)
    assert done.status == 0, done.err
    assert seen(probe) == "hello 3"


def test_variables_in_a_file_and_on_resumption(probe: Shell) -> None:
    (probe.folder / "conf" / "experiment").mkdir()
    (probe.folder / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {job: {env_set: {GREETING: '${seed} times'}}}\n"
        "experiment: {name: mine}\nrun_control_trials: false\n"
    )
    assert run(probe, "-m", *DRY, "+probe=look", "experiment=mine").status == 0
    assert seen(probe).startswith("0 times")
    (probe.folder / "seen").unlink()
    assert run(probe, "run", "mine", "--stage", "look", "--force").status == 0
    assert seen(probe).startswith("0 times")


def test_the_jobs_of_stock_launchers_have_them_too(probe: Shell) -> None:
    words = ["hydra/launcher=basic", "+hydra.job.env_set.GREETING=hello"]
    done = run(probe, "-m", *DRY, "+probe=look", "run_control_trials=false", *words)
    assert done.status == 0, done.err
    assert seen(probe).startswith("hello")


def test_copied_variables_are_inherited_and_not_written_down(probe: Shell) -> None:
    words = ["hydra.job.env_copy=[GREETING]", "experiment.name=copied"]
    done = run(
        probe, "-m", *DRY, "+probe=look", "run_control_trials=false", *words, GREETING="canary-77"
    )
    assert done.status == 0, done.err
    assert seen(probe).startswith("canary-77")
    assert not [
        path
        for path in probe.folder.rglob("*")
        if path.is_file() and path.name != "seen" and b"canary-77" in path.read_bytes()
    ]


def test_a_copied_variable_that_is_not_set(shell: Shell) -> None:
    done = shell("-m", *DRY, "hydra.job.env_copy=[NOT_SET_AT_ALL]")
    assert (done.status, shell.files()) == (2, set())
    assert "hydra.job.env_copy" in done.err and "NOT_SET_AT_ALL" in done.err


def test_a_secret_in_a_file_is_refused(shell: Shell) -> None:
    (shell.folder / "conf" / "experiment").mkdir(parents=True)
    file = shell.folder / "conf" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nhydra: {job: {env_set: {MY_API_KEY: canary}}}\n")
    done = shell("-m", *DRY, "experiment=mine")
    assert done.status == 2
    assert "hydra.job.env_set.MY_API_KEY" in done.err and "canary" not in done.err


def test_slurm_jobs_export_them(tmp_path: Path) -> None:
    array = Array({0: tuned(1)})
    options = Slurm(env_set={"B": "own"}).exporting({"A": "it's $HOME", "B": "hydra's"})
    submission = Submissions(tmp_path / "slurm").create(array, "mosweep", "sweep", {}, {})
    text = script(options, array, submission, tmp_path)
    assert """export A='it'"'"'s $HOME'""" in text
    assert "export B=own" in text
