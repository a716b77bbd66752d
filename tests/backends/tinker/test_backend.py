"""What ``backend=tinker`` makes of a trial's settings, without Tinker."""

from __future__ import annotations

import json

import pytest
from tests.conftest import Shell

from mosweep.backends.tinker.recipe import load_recipe
from mosweep.backends.tinker.works import TinkerFinetune
from mosweep.cost.prices import Usage, cost

NOWHERE = {"TINKER_API_KEY": "", "TINKER_BASE_URL": "http://127.0.0.1:9"}
DPO = ("backend.method=dpo",)
HUB = ("model.generate=null", "model.tinker=null", "model.renderer=null", "model.hub=Qwen/Qwen3-8B")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lora.alpha=16"], "lora.alpha=16.0: Tinker sets alpha itself"),
        (["lora.dropout=0.1"], "lora.dropout=0.1: Tinker does not support dropout"),
        (["backend.method=grpo"], "backend.method=grpo: valid: dpo, supervised"),
        (
            ["backend.beta=0.2"],
            "backend.beta=0.2: requires method=dpo, not method=supervised",
        ),
        (
            ["tinker.beta=0.2"],
            "tinker.beta=0.2: requires backend.method=dpo, not backend.method=supervised",
        ),
        (
            ["backend.config=dpo"],
            "tinker.beta=0.1: requires backend.method=dpo, not backend.method=supervised",
        ),
        ([*DPO, "backend.beta=0"], "backend.beta=0: must be > 0"),
        (
            [*DPO, "backend.use_recommended_lr=true"],
            "backend.use_recommended_lr=true: tinker-cookbook recommends learning rates for superv",
        ),
        (
            [*DPO, "loop.enabled=true", "loop.use_recommended_lr=true"],
            "loop.use_recommended_lr=true: tinker-cookbook recommends",
        ),
        (
            ["backend.config=mine"],
            "backend.config=mine: no file recipes/tinker/mine.yaml; valid: default, dpo, tiny",
        ),
        (["tinker.batchsize=3"], "tinker.batchsize=3: no such key; did you mean batch_size"),
        (
            ["model.tinker=null"],
            "model.tinker=None: backend=tinker requires Tinker's name for tiny",
        ),
        (
            ["backend.use_recommended_lr=true", "optim.lr=1e-3"],
            "optim.lr=0.001: conflicts with backend.use_recommended_lr=true",
        ),
        (
            ["backend.use_recommended_lr=true", "tinker.learning_rate=1e-3"],
            "tinker.learning_rate=0.001: conflicts with backend.use_recommended_lr=true",
        ),
        (
            [*HUB, "model.revision=main"],
            "model.revision=main: Tinker offers one revision of each model",
        ),
        (["loop.enabled=true", "tinker.epochs=3"], "tinker.epochs=3: does not apply in a loop"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    shell: Shell, words: list[str], message: str
) -> None:
    done = shell("-m", "backend=tinker", "model=tiny", *words, env=NOWHERE)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert shell.files() == set()


def test_what_a_fine_tune_will_use_counts_both_answers_and_what_is_only_read() -> None:
    supervised = load_recipe(None, ("tiny",), {"epochs": 3}, {})
    works = [
        TinkerFinetune("Qwen/Qwen3-8B", "qwen3", recipe, None, None, 1, 1.0)
        for recipe in (supervised, load_recipe(None, (), {"epochs": 3}, {}, "dpo"))
    ]
    assert [work.expected_usage(1000) for work in works] == [
        Usage("tinker", "Qwen/Qwen3-8B", train_tokens=3000),
        Usage("tinker", "Qwen/Qwen3-8B", train_tokens=6000, input_tokens=8000),
    ]
    assert cost([works[1].expected_usage(1_000_000)]) == pytest.approx(6 * 0.40 + 8 * 0.13)


CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}]%s}\n'
ASKED = (
    '{"messages": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "a"}], '
    '"rejected": "b"}\n'
)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            CHAT % ', "rejected": "b"' + CHAT % "",
            "sample 2: method=dpo needs the dispreferred answer, as text, in rejected",
        ),
        (
            CHAT % ', "rejected": ["b"]',
            "sample 1: method=dpo needs the dispreferred answer, as text, in rejected",
        ),
        (ASKED, "sample 1: method=dpo needs the preferred answer as the last message"),
    ],
)
@pytest.mark.parametrize("name", ["own.jsonl", "own/train.jsonl"])
def test_ones_own_data_without_preferences_are_refused_before_anything_runs(
    shell: Shell, name: str, rows: str, problem: str
) -> None:
    own = shell.folder / name
    own.parent.mkdir(exist_ok=True)
    own.write_text(rows)
    given, before = name.partition("/")[0], shell.files()
    for words in (("-m",), ("plan",)):
        done = shell(
            *words, "backend=tinker", "model=tiny", *DPO, f"dataset.path={given}", env=NOWHERE
        )
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert f"dataset.path={given}: {problem}" in done.err
    assert shell.files() == before
    # copying takes them
    done = shell("plan", "backend=tinker", "model=tiny", f"dataset.path={given}", env=NOWHERE)
    assert done.status == 0, done.err


def test_planning_needs_neither_key_nor_network_and_knows_what_is_the_same(shell: Shell) -> None:
    def keys(*words: str) -> set[str]:
        done = shell("plan", *words, "--json", env=NOWHERE)
        assert done.status == 0, done.err
        return {job["key"] for job in json.loads(done.out)["jobs"]}

    tiny = keys("backend=tinker", "model=tiny", "lora.rank=4")
    same = (
        "tinker.save_every=3",
        "backend.base_url=http://elsewhere",
        "backend.max_concurrent=2",
        "backend.patience_min=1",
    )
    assert keys("backend=tinker", "model=tiny", "lora.rank=4", *same) == tiny
    assert keys("backend=tinker", "model=tiny", "lora.rank=4", "tinker.eps=1e-9") != tiny
    preferring = {
        beta: keys("backend=tinker", "model=tiny", "lora.rank=4", *DPO, *beta)
        for beta in [(), ("backend.beta=0.1",), ("backend.beta=0.2",)]
    }
    assert preferring[()] == preferring["backend.beta=0.1",]
    assert len({frozenset(tiny), *map(frozenset, preferring.values())}) == 3
    # model, data and control trial are torchtune's, too: the untouched base model is evaluated by
    # its weights where they are here.
    assert len(tiny & keys("backend=torchtune", "model=tiny", "lora.rank=4")) == 3
