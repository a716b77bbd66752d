"""No setting is dropped in silence: one that changes no stage's key and no resource is refused, or
the reference says that it is not in the key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode

from mosweep.config.choices import choices_of
from mosweep.config.groups import Config
from mosweep.config.reference import Option, options
from mosweep.core.errors import ConfigError, MosweepError
from mosweep.core.schema import plain
from mosweep.core.types import Trial, unique_stages
from mosweep.design.application import _Session
from mosweep.design.compose import Composer
from mosweep.design.designs import compose_trials

#: Kinds of trials, each with what it takes beside the defaults.
TRIALS = {
    "torchtune": [],
    "dummy": ["backend=dummy"],
    "tinker": ["backend=tinker", "model=qwen3-8b"],
    "openai": ["backend=openai", "model=gpt-4.1-mini"],
    "loop": ["loop.enabled=true", "loop.hard_examples=boost"],
    "dummy loop": ["backend=dummy", "loop.enabled=true"],
    "hub": ["model=qwen3-8b", "model.recipe=qwen2_5_0_5b"],
}
#: What a model's file says of the model, for the backends that want to know.
OF_THE_MODEL = frozenset({"model.generate_seed", "model.recipe", "model.tinker", "model.renderer"})
#: Not settings of a trial themselves: groups, designs, and places to look in.
NO_LEAVES = frozenset({"backend", "eval", "transforms", "native", "resources", "model.name"})
#: Values for settings whose type does not tell what would be valid.
VALUES = {
    "model.path": "nowhere",
    "model.generate.heads": "2",
    "model.generate.kv_heads": "4",
    "model.generate.dim": "128",
    "dataset.name": "words_small",
    "dataset.path": "mine.jsonl",
    "task.name": "copying",
    "eval.tasks": "[copying,negative]",
    "loop.hard_by": "[topic]",
    "loop.metric": "accuracy",
    "loop.task": "copying",
    "loop.warmup_steps": "7",
    "backend.effects": "{model:{tiny:0.5}}",
    "backend.rounds": "[0.1,0.2]",
    "backend.environment": "{A:b}",
    "backend.recipe": "full_finetune_single_device",
    "backend.config": "llama3_2_1b",
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))
    (tmp_path / "mine.jsonl").write_text(
        '{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}\n'
    )


def values(option: Option) -> Iterator[str]:
    """Values other than the default, each of a kind that the setting takes."""
    if option.key in VALUES:
        yield VALUES[option.key]
    elif option.type.startswith("true or false"):
        yield "false" if option.default == "true" else "true"
    elif option.type.startswith("whole number"):
        yield "11" if "≤ 10" not in option.bounds else "7"
    elif option.type.startswith("number"):
        yield "0.375" if "≥ 1" not in option.bounds else "2.5"
    elif " or " in option.type and not option.type.startswith(("text", "list", "mapping")):
        words = [word for word in option.type.split(" or ") if word not in ("null", option.default)]
        yield from (word for word in words if word not in ("true", "false"))
    else:
        yield "other"


def what_counts(trials: list[Trial]) -> tuple[Any, ...]:
    stages = unique_stages(trials)
    return tuple(sorted((key, str(plain(stage.resources))) for key, stage in stages.items()))


@pytest.mark.parametrize("kind", TRIALS)
def test_every_setting_counts_or_is_refused_or_says_that_it_is_not_in_the_key(kind: str) -> None:
    base = TRIALS[kind]
    silent = []
    with _Session() as hydra:
        loader = hydra.config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        master = hydra.compose_config("config", ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)

        def composed(*more: str) -> list[Trial]:
            return compose_trials(master, loader, [[*base, *more]], []).trials

        before = what_counts(composed())
        first = Composer(loader, master).compose(base)
        chosen = {group: type_of(first[group]["_target_"]) for group in ("backend", "eval")}
        every = [*options(Config), *options(chosen["backend"], "backend")]
        for option in [*every, *options(chosen["eval"], "eval")]:
            if not option.keyed or option.key in NO_LEAVES | OF_THE_MODEL:
                continue
            for value in values(option):
                try:
                    after = what_counts(composed(f"{option.key}={value}"))
                except MosweepError:
                    continue  # one line, exit status 2
                if after == before and str(dig(first, option.key)).lower() != value:
                    silent.append(f"{option.key}={value}")
    assert not silent, f"{kind}: these change nothing and are not refused: {silent}"


def type_of(target: str) -> type[Any]:
    parts = [*choices_of("backend").values(), *choices_of("eval").values()]
    return next(part for part in parts if f"{part.__module__}.{part.__qualname__}" == target)


def dig(plain_config: Any, key: str) -> Any:
    for name in key.split("."):
        plain_config = plain_config.get(name) if isinstance(plain_config, dict) else None
    return plain_config


def test_settings_of_the_model_say_who_reads_them() -> None:
    for option in options(Config):
        if option.key in OF_THE_MODEL:
            words = ("backend", "tinker", "generated")
            assert any(word in option.meaning.lower() for word in words), option.meaning


def test_a_setting_that_belongs_to_another_one_is_refused_without_it() -> None:
    with _Session() as hydra:
        master = hydra.compose_config("config", ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        for overrides, key in (
            (["model.revision=main"], "model.revision"),
            (["loop.enabled=true", "loop.hard_factor=2"], "loop.hard_factor"),
            (["loop.enabled=true", "loop.hard_by=[topic]"], "loop.hard_by"),
            (["backend=dummy", "backend.rounds=[0.1]"], "backend.rounds"),
        ):
            with pytest.raises(ConfigError) as caught:
                compose_trials(master, hydra.config_loader, [overrides], [])
            assert caught.value.key == key
