"""What a launch may take: foreseen, refused beforehand, and stopped before it takes more. The
provider here is a user's own backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.conftest import Shell, known

from mosweep.config.groups import Budget
from mosweep.core.facts import Usage
from mosweep.core.fingerprint import unkeyed
from mosweep.core.store import Attempt, Store
from mosweep.core.types import Stage, Trial
from mosweep.core.work import FINETUNE, Context, Kind, RemoteWork, Traits
from mosweep.cost.budget import Meter
from mosweep.sweep.plan import make_plan

BACKEND = '''
from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mosweep.backends.base import Backend
from mosweep.core.facts import Usage
from mosweep.core.fingerprint import unkeyed
from mosweep.core.types import Stage
from mosweep.core.work import FINETUNE, Context, Kind, RemoteWork, Traits, Work
from mosweep.cost.prices import facts
from mosweep.stages.data import data_stage


@dataclass(frozen=True)
class Tune(RemoteWork):
    """Asks a provider for as many tokens as the rank, in thousands; rank 13 fails."""

    model: str
    rank: int
    seed: int
    epochs: int = 2
    max_concurrent: int = field(default=2, metadata=unkeyed)

    kind: ClassVar[Kind] = FINETUNE
    version: ClassVar[int] = 1
    provider: ClassVar[str] = "paid"

    @property
    def traits(self) -> Traits:
        return Traits(provider=self.provider, remote=self)

    def expected_usage(self, tokens: int) -> Usage:
        return Usage("paid", self.model, train_tokens=self.epochs * tokens)

    async def run(self, context: Context) -> Mapping[str, Any]:
        await asyncio.sleep(0.01)
        if self.rank == 13:
            raise RuntimeError("no")
        usage = facts(Usage("paid", self.model, train_tokens=1000 * self.rank))
        return {"model_id": f"paid/{context.key[:8]}", "mean": 0.5, "item_sd": 0.1, "usage": usage}


@dataclass(frozen=True)
class Paid(Backend):
    def finetune(self, setting: Any) -> Stage:
        config = setting.config
        work = Tune(config.model.name, config.lora.rank or 1, config.seed)
        return Stage("finetune", work, {"data": data_stage(setting)})


@dataclass(frozen=True)
class Train(Work):
    """Takes as long as the rank, in tenths of a second."""

    rank: int
    seed: int

    kind: ClassVar[Kind] = FINETUNE
    version: ClassVar[int] = 1

    async def run(self, context: Context) -> Mapping[str, Any]:
        await asyncio.sleep(0.1 * self.rank)
        return {"model_id": f"slow/{context.key[:8]}", "mean": 0.5, "item_sd": 0.1}


@dataclass(frozen=True)
class Slow(Backend):
    def finetune(self, setting: Any) -> Stage:
        return Stage("finetune", Train(setting.config.lora.rank, setting.config.seed), {}, \
setting.resources("finetune"))
'''
#: USD 1 for 1,000 tokens.
PRICES = "paid: {as_of: '2026-11', models: {tiny: {training: 1000}}}\n"
PAID = ("backend=paid", "eval=dummy", "tracking=none", "run_control_trials=false")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    for name, text in (
        ("paying.py", BACKEND),
        ("conf/backend/paid.yaml", "_target_: paying.Paid\n"),
        ("conf/backend/slow.yaml", "_target_: paying.Slow\n"),
        ("recipes/prices.yaml", PRICES),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Shell(tmp_path)


def cost(shell: Shell, *words: str) -> dict[str, Any]:
    done = shell("plan", *PAID, *words, "--json")
    assert done.status == 0, done.err
    found: dict[str, Any] = done.json["cost"]
    return found


def test_a_fine_tune_is_foreseen_by_records_else_by_the_length_of_its_data_else_not(
    shell: Shell,
) -> None:
    unknown = cost(shell, "lora.rank=2,4")
    assert unknown["usd"] is None
    assert unknown["usd_unknown"] == [
        "finetune of tiny: no similar stage has run yet, and its data set is not built yet"
    ]
    assert "cost: unknown; finetune of tiny" in shell("plan", *PAID, "lora.rank=2,4").out
    # leaves the data set
    assert shell("-m", *PAID, "lora.rank=13", "experiment.name=failed").status == 1

    about = cost(shell, "lora.rank=2,4")
    rows = (
        (next((shell.folder / ".mosweep/store/artifacts").glob("*/*/data/train.jsonl")))
        .read_text()
        .splitlines()
    )
    chars = sum(len(message["content"]) for row in rows for message in json.loads(row)["messages"])
    assert about["usd"]["expected"] == pytest.approx(2 * 2 * (chars // 4) / 1000)
    assert (about["usd_about"], about["prices_as_of"]) == (["finetune of tiny"], "2026-11")
    assert "cost: about $" in shell("plan", *PAID, "lora.rank=2,4").out

    assert shell("-m", *PAID, "lora.rank=2,4", "experiment.name=first").status == 0
    known = cost(shell, "lora.rank=2,4", "seed=1,2")
    assert known["usd"] == pytest.approx({"low": 8, "expected": 12, "high": 16})
    assert (known["usd_about"], known["usd_unknown"], known["prices_as_of"]) == ([], [], "2026-11")
    assert (
        "cost: $12.00 ($8.00 to $16.00), by the tokens of similar stages and the prices of 2026-11"
    ) in (shell("plan", *PAID, "lora.rank=2,4", "seed=1,2").out)


def test_a_model_without_a_price_is_named(shell: Shell) -> None:
    assert shell("-m", *PAID, "model=tiny-wide", "lora.rank=2", "experiment.name=first").status == 0
    told = cost(shell, "model=tiny-wide", "lora.rank=3")["usd_unknown"]
    assert told == ["finetune of tiny-wide: no price for paid/tiny-wide in recipes/prices.yaml"]
    refused = shell(
        "-m", *PAID, "model=tiny-wide", "lora.rank=3", "budget.usd=100", "experiment.name=second"
    )
    assert refused.status == 2
    assert "no price for paid/tiny-wide" in refused.err


def test_a_budget_refuses_what_may_cost_more_or_is_unknown(shell: Shell) -> None:
    unknown = shell("-m", *PAID, "lora.rank=2,4", "budget.usd=100", "experiment.name=no")
    assert (unknown.status, "unknown" in unknown.err) == (2, True)
    assert shell("-m", *PAID, "lora.rank=2,4", "experiment.name=first").status == 0
    refused = shell(
        "-m", *PAID, "lora.rank=2,4", "seed=1,2", "budget.usd=15.9", "experiment.name=no"
    )
    assert refused.status == 2
    assert refused.err.strip() == (
        "mosweep: budget.usd=15.9: 8 stages may take $8.00 to $16.00 as similar stages took; "
        "nothing was started"
    )
    assert not (shell.folder / "multirun" / "no").exists()
    assert (
        shell(
            "-m", *PAID, "lora.rank=2,4", "seed=1,2", "budget.usd=16", "experiment.name=yes"
        ).status
        == 0
    )
    free = shell(
        "-m", "backend=dummy", "tracking=none", "seed=0,1", "budget.usd=0", "experiment.name=free"
    )
    assert free.status == 0, "what asks no provider needs no price"


def test_a_launch_stops_before_it_costs_more_than_its_budget(shell: Shell) -> None:
    assert shell("-m", *PAID, "lora.rank=1", "experiment.name=cheap").status == 0
    dear = ("-m", *PAID, "lora.rank=10", "seed=range(8)", "experiment.name=dear")
    stopped = shell(*dear, "budget.usd=35")
    assert stopped.status == 1
    trials = shell.summary("dear")
    assert "tokens; $30 at prices of 2026-11" in shell("summary", "dear").out
    spent = 10 * sum(trial["stages"][1]["status"] == "succeeded" for trial in trials.values())
    assert 20 <= spent <= 35
    not_run = [trial for trial in trials.values() if trial["status"] != "succeeded"]
    assert len(not_run) == 8 - spent / 10
    for trial in not_run:
        [error] = [stage["error"] for stage in trial["stages"] if stage["status"] == "cancelled"]
        assert error == f"not run: budget.usd=35: ${spent} spent, and it may take $10"
    assert f"NOT RUN {len(not_run)} stages: budget.usd=35: ${spent} spent" in stopped.out
    assert "not run" in shell("summary", "dear").out

    again = shell("run", "dear")
    assert again.status == 2, "the budget of the last launch holds until another is given"
    assert shell(*dear, "budget.usd=100").status == 0
    assert {trial["status"] for trial in shell.summary("dear").values()} == {"succeeded"}


@dataclass(frozen=True)
class Asks(RemoteWork):
    """A fine-tune at a provider."""

    model: str
    number: int
    max_concurrent: int = field(default=10, metadata=unkeyed)

    kind: ClassVar[Kind] = FINETUNE
    version: ClassVar[int] = 1
    provider: ClassVar[str] = "paid"

    @property
    def traits(self) -> Traits:
        return Traits(provider=self.provider, remote=self)

    async def run(self, context: Context) -> Mapping[str, Any]:
        raise NotImplementedError


def ended(store: Store, stage: Stage, usd: float) -> None:
    """Publish the stage as one that cost so much."""
    attempt = store.begin(stage.key)
    assert isinstance(attempt, Attempt)
    usage = asdict(Usage("paid", "tiny", train_tokens=int(usd * 1000)))
    store.publish(
        attempt, payload=stage.payload, facts={"usage": usage}, started=100.0, finished=101.0
    )


def four_stages(store: Store, *, before: float, budget: Budget) -> tuple[list[Stage], Meter]:
    """Four stages to run, and their meter. One like them ended and took ``before`` dollars."""
    first, *stages = (Stage("finetune", Asks("tiny", number)) for number in range(5))
    ended(store, first, before)
    trials = [Trial(stage.key, {}, (stage,)) for stage in stages]
    meter = Meter.of(replace(make_plan(trials, store), budget=budget), store)
    return stages, known(meter)


def test_what_is_under_way_is_waited_for_and_what_failed_counts_as_expected(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shell.folder)
    store = Store(shell.folder / "store")
    stages, meter = four_stages(store, before=10, budget=Budget(usd=35))
    first, second, third, fourth = (stage.key for stage in stages)
    for key in (first, second, third):
        assert (meter.refusal(key), meter.must_wait(key)) == (None, False)
        meter.starts(key)
    assert (meter.refusal(fourth), meter.must_wait(fourth)) == (None, True), (
        "they may take 30, and turn out cheaper"
    )
    meter.returns(third)
    assert not meter.must_wait(fourth)
    ended(store, stages[0], 2)
    meter.finished(first)
    meter.failed(second)
    assert not meter.must_wait(fourth), "2 and perhaps 10 are spent"
    meter.starts(third)
    ended(store, stages[2], 24)
    meter.finished(third)
    assert meter.refusal(fourth) == "not run: budget.usd=35: $36 spent, and it may take $24", (
        "a launch learns from its own stages"
    )


def test_what_waits_is_taken_back_when_others_cost_more(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shell.folder)
    store = Store(shell.folder / "store")
    stages, meter = four_stages(store, before=5, budget=Budget(usd=32))
    keys = [stage.key for stage in stages]
    for key in keys:
        meter.starts(key)
    assert meter.too_many(keys) == [], "four times 5"
    ended(store, stages[0], 10)
    meter.finished(keys[0])
    assert meter.too_many(keys[1:]) == [keys[3]], "10 are spent, and each of the rest may take 10"
    assert meter.too_many(keys[1:3]) == []


def test_a_launch_stops_before_it_takes_more_gpu_hours_than_its_budget(shell: Shell) -> None:
    slow = (
        "-m",
        "backend=slow",
        *PAID[1:],
        "hydra.launcher.workers=1",
        "resources.stages.finetune.gpus=4",
    )
    assert shell(*slow, "lora.rank=1", "experiment.name=quick").status == 0
    stopped = shell(
        *slow,
        "lora.rank=5",
        "seed=range(5)",
        f"budget.gpu_hours={4 * 1.3 / 3600}",
        "experiment.name=slow",
    )
    assert stopped.status == 1
    stages = [
        stage["status"]
        for trial in shell.summary("slow").values()
        for stage in trial["stages"]
        if stage["kind"] == "finetune"
    ]
    assert stages == ["succeeded", "succeeded", "cancelled", "cancelled", "cancelled"]
    assert "NOT RUN 3 stages: budget.gpu_hours=0.00144444: 0.001" in stopped.out
