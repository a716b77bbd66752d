"""mosweep in a folder with another Hydra application, and what is run can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import DRY, Shell

from mosweep.core.paths import shipped

PLAN = ("plan", "backend=dummy", "lora.rank=4,8")
NOTE = "conf/config.yaml is not a configuration of mosweep's"
FOREIGN = {
    "groups of its own": "defaults: [{model: resnet}, {trainer: fast}, _self_]\nepochs: 3\n",
    "no defaults": "epochs: 3\nlr: 0.1\n",
    "the same keys": "model: {name: resnet}\nseed: 7\nlora: {rank: 99}\n",
    "empty": "",
    "a list": "[1, 2]\n",
    "not YAML": "a: [1\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_another_applications_primary_configuration(shell: Shell, text: str) -> None:
    wanted = shell(*PLAN)
    write(
        shell.folder,
        {
            "conf/config.yaml": text,
            "conf/trainer/fast.yaml": "fp16: true\n",
            "conf/model/resnet.yaml": "depth: 18\n",
            "conf/model/mine.yaml": "name: mine\ngenerate: {dim: 32}\n",
        },
    )
    done = shell(*PLAN)
    assert (done.status, done.out) == (0, wanted.out)
    assert NOTE in done.err and done.err.count("\n") == 1
    both = shell(*PLAN, "model=mine")
    assert both.status == 0, both.err


def test_a_primary_configuration_for_mosweep_is_used(shell: Shell) -> None:
    text = (shipped("conf") / "config.yaml").read_text()
    write(shell.folder, {"conf/config.yaml": text.replace("seed: 0 ", "seed: 7 ")})
    done = shell("--cfg", "job", "-p", "seed")
    assert (done.status, done.err) == (0, "")
    assert "7" in done.out


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_what_runs_with_a_folder_is_planned_with_it(shell: Shell, flag: str) -> None:
    experiment = "# @package _global_\ntreatments: {lora.rank: [4, 8, 16]}\n"
    write(shell.folder, {"more/experiment/mine.yaml": experiment})
    words = [flag, "more", "experiment=mine", "run_control_trials=false"]
    for order in (words, [*words[2:], *words[:2]]):
        planned = shell("plan", *order, "backend=dummy")
        assert planned.out.startswith("3 trials"), planned.err
    assert shell("-m", *words, *DRY).out.startswith("3 trials")


@pytest.mark.parametrize("flag", ["--config-name", "-cn"])
def test_what_runs_with_a_name_is_planned_with_it(shell: Shell, flag: str) -> None:
    text = "defaults: [config, _self_]\nseed: 5\ntreatments: {lora.rank: [4, 8]}\n"
    write(shell.folder, {"conf/study.yaml": text})
    planned = shell("plan", flag, "study", "backend=dummy", "run_control_trials=false")
    assert planned.out.startswith("2 trials"), planned.err


@pytest.mark.parametrize("verb", [["plan"], ["-m"]])
def test_a_folder_or_name_that_is_not_there(shell: Shell, verb: list[str]) -> None:
    for words, said in (
        (["--config-dir", "nope"], "--config-dir nope: no such folder"),
        (["--config-name", "nope"], "nope"),
    ):
        done = shell(*verb, *words, "lora.rank=4")
        assert (done.status, done.err.count("\n")) == (2, 1), done.err
        assert said in done.err


def test_options_of_hydra_that_would_be_dropped(shell: Shell) -> None:
    for words, said in (
        (["--config-path", "x"], "--config-dir x"),
        (["--experimental-rerun", "x"], "mosweep run"),
    ):
        done = shell("-m", *words)
        assert done.status == 2 and said in done.err


def test_paths_of_jobs_that_change_their_folder(shell: Shell) -> None:
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}]}'
    write(shell.folder, {"own/mine/train.jsonl": row + "\n", "conf/lora/small.yaml": "rank: 2\n"})
    for override in ("data_dir=own", "dataset.path=own/mine/train.jsonl"):
        done = shell(
            *("-m", *DRY, "hydra/launcher=basic", "hydra.job.chdir=true", "lora=small"),
            *("dataset=mine", override, f"experiment.name={override.partition('=')[0]}"),
        )
        assert done.status == 0, done.err + done.out
        assert (shell.folder / "multirun").is_dir()
    assert not [path for path in shell.files() if path.count("multirun") > 1]


def test_the_folder_of_the_command_wins_over_the_own_one(shell: Shell) -> None:
    write(shell.folder, {"conf/lora/x.yaml": "rank: 2\n", "more/lora/x.yaml": "rank: 3\n"})
    done = shell("--config-dir", "more", "--cfg", "job", "-p", "lora", "lora=x")
    assert "rank: 3" in done.out, done.err
    assert "rank: 2" in shell("--cfg", "job", "-p", "lora", "lora=x").out
