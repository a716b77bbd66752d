"""The user's mistakes: exit status 2, one or two lines that name key, value and what would be
valid, nothing written.
"""

from __future__ import annotations

import pytest
from tests.conftest import Shell

CASES = [
    (["lora.rnk=4"], ["lora.rnk=4", "lora.rank"]),
    (["lora.rank=abc"], ["lora.rank=abc", "whole number"]),
    (["lora.rank=-1"], ["lora.rank=-1", "≥ 1"]),
    (["lora.rank=4.5"], ["lora.rank=4.5", "whole number"]),
    (["optim.lr=0"], ["optim.lr=0", "> 0"]),
    (["optim.lr=nan"], ["optim.lr=nan"]),
    (["lora.dropout=1"], ["lora.dropout=1", "< 1"]),
    (["model=nope"], ["model=nope", "tiny-wide"]),
    (["model=tinny"], ["model=tinny", "did you mean tiny"]),
    (["backend=nope"], ["backend=nope", "dummy, openai, tinker, torchtune"]),
    (["tracking=nope"], ["tracking=nope", "mlflow, mlflow+wandb, none, wandb"]),
    (["task=nope"], ["task=nope", "capitalization"]),
    (["dataset=nope"], ["dataset=nope", "words"]),
    (["dataset.path=nope.jsonl"], ["dataset.path=nope.jsonl", "no such file"]),
    (["model.generate=null", "model.path=/nope"], ["model.path=/nope", "config.json"]),
    (["model.path=/nope"], ["model.path=/nope", "generate and path"]),
    (["model.generate.heads=3"], ["model.generate", "multiple"]),
    (["torchtune.model.lora_rnk=4"], ["torchtune.model.lora_rnk=4", "model.lora_rank"]),
    (["torchtune.output_dir=/tmp"], ["torchtune.output_dir=/tmp", "mosweep"]),
    (
        ["backend=dummy", "torchtune.model.lora_rnk=4"],
        ["torchtune.model.lora_rnk=4", "model.lora_rank"],
    ),
    (["inspect.temprature=1"], ["inspect.temprature=1", "temperature"]),
    (["inspect.task_args.nope=1"], ["inspect.task_args.nope=1", "max_tokens"]),
    (["eval.tasks=[]"], ["eval.tasks"]),
    (["eval.tasks=[capitalization,capitalization]"], ["eval.tasks", "twice"]),
    (["resources.default.time=soon"], ["resources.default.time=soon"]),
    (["resources.models.tiny.gpu=1"], ["resources.models.tiny.gpu=1", "gpus"]),
    (["backend=dummy", "backend.fail=perhaps"], ["backend.fail=perhaps", "oom"]),
    (["hydra/launcher=nope"], ["hydra/launcher=nope", "local"]),
    (["hydra.launcher.workers=0"], ["workers=0", "≥ 1"]),
    (["experiment.name=a/b"], ["experiment.name=a/b"]),
    (["experiment=nope"], ["experiment=nope", "rank"]),
    (["+nope=1"], ["nope=1", "no such key"]),
    (["nope"], ["nope"]),
    (["lora=4"], ["string"]),
    (["lora.rank=[1"], ["[1"]),
    (["treatments={modl:[a]}"], ["modl=a", "model"]),
    (['treatments={"lora.rank": [4,}'], ["treatments"]),
    (["treatments=@nope.json"], ["treatments=@nope.json", "No such file"]),
    (["controls=3"], ["controls=3"]),
    (["seeds=0"], ["seeds=0"]),
    (["backend.api_key=hunter2hunter2"], ["backend.api_key", "environment"]),
    (["model.name=sk-proj-0123456789abcdefghij"], ["model.name", "environment"]),
]


@pytest.mark.parametrize(
    ("overrides", "words"),
    CASES,
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
@pytest.mark.parametrize("mode", [["-m"], []], ids=["sweep", "single"])
def test_one_line_and_nothing_written(
    shell: Shell, mode: list[str], overrides: list[str], words: list[str]
) -> None:
    if not mode and overrides[0].startswith(("treatments", "controls", "seeds", "hydra")):
        pytest.skip("means something in a sweep only")
    done = shell(*mode, *overrides)
    assert done.status == 2, done.out + done.err
    assert 1 <= len(done.err.strip().splitlines()) <= 2, done.err
    assert done.err.startswith("mosweep: ")
    for word in words:
        assert word in done.err
    assert "hunter2" not in done.err
    assert shell.files() == set()


def test_plan_says_the_same(shell: Shell) -> None:
    done = shell("plan", "lora.rnk=4")
    assert (done.status, shell.files()) == (2, set())
    assert "lora.rank" in done.err


def test_a_mistake_in_one_of_many_trials_stops_all(shell: Shell) -> None:
    done = shell("-m", "backend=dummy", "lora.rank=4,8,0")
    assert (done.status, shell.files()) == (2, set())
    assert "lora.rank=0" in done.err


def test_unknown_verb(shell: Shell) -> None:
    done = shell("sumary")
    assert done.status == 2
    assert "summary" in done.err


def test_verbs_without_a_sweep(shell: Shell) -> None:
    for verb in ("status", "summary", "run", "sync"):
        done = shell(verb)
        assert (done.status, len(done.err.strip().splitlines())) == (2, 1), verb
    assert shell("summary", "nope").status == 2
    assert shell.files() == set()


def test_full_traceback_on_request(shell: Shell) -> None:
    done = shell("lora.rank=0", env={"HYDRA_FULL_ERROR": "1"})
    assert done.status != 0
    assert "Traceback" in done.err


def test_a_secret_in_the_environment_reaches_no_file(shell: Shell) -> None:
    canary = "canary-4f1c9b7e2d"
    done = shell(
        "-m",
        "backend=dummy",
        "lora.rank=4,64",
        env={"OPENAI_API_KEY": canary, "WANDB_API_KEY": canary, "MY_TOKEN": canary},
    )
    assert done.status == 0, done.err
    assert canary not in done.out + done.err
    assert not [
        path
        for path in shell.folder.rglob("*")
        if path.is_file() and canary.encode() in path.read_bytes()
    ]
