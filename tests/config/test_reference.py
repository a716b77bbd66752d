"""What ``config.reference`` says of the keys is what the keys are and do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mosweep.config.groups import Config
from mosweep.config.reference import Option, meanings, options
from mosweep.config.resources import Request
from mosweep.core.fingerprint import unkeyed
from mosweep.core.paths import shipped
from mosweep.core.schema import between
from mosweep.core.work import Resources
from mosweep.design.application import planned

LOOP = ("loop.enabled=true",)
TINKER = ("backend=tinker", "model=qwen3-8b")
ROW = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}]}\n'
#: A change of every key that can be changed alone, and what has to stand beside it.
CHANGES: dict[str, tuple[str, ...]] = {
    "model.generate_seed": ("model.generate_seed=3",),
    "model.generate.dim": ("model.generate.dim=128",),
    "model.generate.layers": ("model.generate.layers=3",),
    "model.generate.heads": ("model.generate.heads=2",),
    "model.generate.kv_heads": ("model.generate.kv_heads=1",),
    "model.generate.ffn": ("model.generate.ffn=64",),
    "model.tinker": ("model.tinker=Qwen/Qwen3-4B", *TINKER),
    "model.renderer": ("model.renderer=qwen3", *TINKER),
    "dataset.name": ("dataset.name=words-control",),
    "task.name": ("task.name=rhyme", "dataset.path=own.jsonl"),
    "lora.rank": ("lora.rank=3",),
    "lora.alpha": ("lora.alpha=3",),
    "lora.dropout": ("lora.dropout=0.3",),
    "optim.lr": ("optim.lr=0.3",),
    "optim.batch_size": ("optim.batch_size=3",),
    "optim.epochs": ("optim.epochs=3",),
    "optim.max_steps_per_epoch": ("optim.max_steps_per_epoch=3",),
    "optim.warmup_steps": ("optim.warmup_steps=3",),
    "optim.weight_decay": ("optim.weight_decay=0.3",),
    "loop.enabled": ("loop.enabled=true",),
    "loop.task": ("loop.task=copying", "eval.tasks=[capitalization,copying]", *LOOP),
    "loop.metric": ("loop.metric=accuracy", *LOOP),
    "loop.threshold": ("loop.threshold=0.3", *LOOP),
    "loop.max_rounds": ("loop.max_rounds=2", *LOOP),
    "loop.steps_per_round": ("loop.steps_per_round=3", *LOOP),
    "loop.max_steps": ("loop.max_steps=30", *LOOP),
    "loop.lr_decay": ("loop.lr_decay=0.3", *LOOP),
    "loop.min_lr": ("loop.min_lr=1e-6", *LOOP),
    "loop.warmup_steps": ("loop.warmup_steps=3", *LOOP),
    "loop.batch_size": ("loop.batch_size=3", *LOOP),
    "loop.max_seq_length": ("loop.max_seq_length=30", *LOOP),
    "loop.hard_examples": ("loop.hard_examples=mine", *LOOP),
    "loop.hard_factor": ("loop.hard_factor=2", "loop.hard_examples=boost", *LOOP),
    "loop.hard_by": ("loop.hard_by=[topic]", "loop.hard_examples=boost", *LOOP),
    "loop.evalops.url": ("loop.evalops.url=https://localhost", "loop.evalops.suite=s", *LOOP),
    "loop.evalops.suite": ("loop.evalops.suite=s", *LOOP),
    "loop.evalops.tries": ("loop.evalops.tries=2", *LOOP),
    "loop.evalops.timeout_s": ("loop.evalops.timeout_s=2", *LOOP),
    "seed": ("seed=3",),
    "resources": ("resources.default.gpus=2",),
    "experiment.name": ("experiment.name=x",),
    "experiment.description": ("experiment.description=x",),
    "tracking.recorder": ("tracking.recorder=none",),
    "tracking.uri": ("tracking.uri=x",),
    "tracking.project": ("tracking.project=x", "tracking=wandb"),
    "tracking.entity": ("tracking.entity=x", "tracking=wandb"),
    "tracking.mode": ("tracking.mode=offline", "tracking=wandb"),
    "store.dir": ("store.dir=x",),
    "budget.gpu_hours": ("budget.gpu_hours=3",),
    "budget.usd": ("budget.usd=3",),
    "contamination.max_overlap": ("contamination.max_overlap=0.3",),
    "native": ("torchtune.clip_grad_norm=3",),
    "primary_metric": ("primary_metric=capitalization/accuracy",),
    "contrasts": ("contrasts=['lora.rank: 4 -> 64']",),
    "delta": ("delta=0.3",),
}
#: Keys that make other trials or other sources, rather than another stage of the same trial.
ELSEWHERE = {
    *("model.name", "model.recipe", "model.path", "model.hub", "model.revision", "model.inspect"),
    *("dataset.path", "backend", "eval", "control", "controls", "treatments", "seeds", "setting"),
    *("tags", "run_control_trials", "tasks_dir", "data_dir", "model_dir"),
    *("loop.use_recommended_lr", "loop.renderer", "transforms"),
}


@dataclass(frozen=True)
class Inner:
    """Nested."""

    size: int = 3
    """How large."""


@dataclass(frozen=True)
class Base:
    """A base."""

    name: str
    """What it is
    called.
    """
    silent: bool = field(default=True, metadata=unkeyed)


@dataclass(frozen=True)
class Example(Base):
    """An example."""

    mode: Literal["on", "off"] | None = None
    """Which way."""
    share: float = field(default=0.5, metadata=between(gt=0, le=1))
    """A share."""
    inner: Inner | None = None
    """Nested."""
    place: Inner = field(default=Inner(), metadata=unkeyed)
    """Nested, too."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Anything else."""


def test_fields_as_they_are_written() -> None:
    assert options(Example, "example") == [
        Option("example.name", "text", "required", "", True, "What it is called."),
        Option("example.silent", "true or false", "true", "", False, ""),
        Option("example.mode", "on or off or null", "null", "", True, "Which way."),
        Option("example.share", "number", "0.5", "> 0, ≤ 1", True, "A share."),
        Option("example.inner.size", "whole number", "3", "", True, "How large."),
        Option("example.place.size", "whole number", "3", "", False, "How large."),
        Option("example.more", "mapping", "{}", "", True, "Anything else."),
    ]
    assert meanings(Example)["place"] == "Nested, too."


@pytest.mark.parametrize("schema", [Config, Request, Resources])
def test_every_key_has_a_meaning(schema: type[Any]) -> None:
    assert [option.key for option in options(schema) if not option.meaning] == []


def test_the_defaults_are_those_of_the_shipped_configuration() -> None:
    shown = {option.key: option.default for option in options(Config)}
    for key, value in _leaves(yaml.safe_load((shipped("conf") / "config.yaml").read_text())):
        if key.split(".")[0] not in ("defaults", "hydra") and value != "???":
            text = "null" if value is None else str(value).lower().removesuffix(".0")
            assert shown[key] == text, key


def test_all_keys_are_tried_below() -> None:
    assert {option.key for option in options(Config)} == {*CHANGES, *ELSEWHERE}


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_makes_another_stage_exactly_where_the_reference_says_so(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))
    (tmp_path / "own.jsonl").write_text(ROW)
    [option] = [option for option in options(Config) if option.key == key]
    change, *beside = CHANGES[key]
    changed = {stage.key for stage in planned([change, *beside])[0][0].stages}
    plain = {stage.key for stage in planned(list(beside))[0][0].stages}
    assert (changed != plain) == option.keyed


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
