"""Recipes: the settings of a fine-tune on Tinker.

The model's recipe overrides ``recipes/tinker/default.yaml``, and the trial's settings override
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mosweep.core import schema
from mosweep.core.errors import ConfigError, UserError, choices
from mosweep.core.fingerprint import unkeyed
from mosweep.core.paths import cached_here, own_and_shipped
from mosweep.core.schema import between
from mosweep.core.yaml_text import load_yaml
from mosweep.stages.loop.schedule import Schedule

__all__ = ["Method", "TinkerRecipe", "load_recipe"]

PREFIX = "tinker"

Method = Literal["supervised", "dpo"]


@dataclass(frozen=True)
class TinkerRecipe:
    """The settings that define a run on Tinker, besides model, renderer and data.

    The settings of checkpoints are not part of the key. With ``beta``, the run trains on
    preferences, and ``beta`` is the weight of the reference model. Without ``beta``, it is
    supervised.
    """

    rank: int = field(metadata=between(ge=1))
    seed: int = field(metadata=between(ge=0))
    train_attn: bool
    train_mlp: bool
    train_unembed: bool
    loss_on: Literal["answer", "message"]
    max_length: int = field(metadata=between(ge=2))
    batch_size: int = field(metadata=between(ge=1))
    epochs: int = field(metadata=between(ge=1))
    learning_rate: float = field(metadata=between(gt=0))
    schedule: Literal["cosine", "linear", "constant"]
    warmup_steps: int = field(metadata=between(ge=0))
    min_learning_rate: float = field(metadata=between(ge=0))
    beta1: float = field(metadata=between(ge=0, lt=1))
    beta2: float = field(metadata=between(ge=0, lt=1))
    eps: float = field(metadata=between(gt=0))
    weight_decay: float = field(metadata=between(ge=0))
    grad_clip_norm: float = field(metadata=between(ge=0))
    save_every: int = field(metadata={**unkeyed, **between(ge=1)})
    checkpoint_ttl_h: float = field(metadata={**unkeyed, **between(ge=1)})
    max_steps_per_epoch: int | None = field(default=None, metadata=between(ge=1))
    beta: float | None = field(default=None, metadata=between(gt=0))

    def __post_init__(self) -> None:
        if not (self.train_attn or self.train_mlp or self.train_unembed):
            raise ConfigError(
                "train_attn",
                False,
                "nothing to train: train_attn, train_mlp and train_unembed are all false",
            )
        if self.min_learning_rate > self.learning_rate:
            raise ConfigError(
                "min_learning_rate",
                self.min_learning_rate,
                f"must be ≤ learning_rate={self.learning_rate:g}",
            )

    def steps(self, examples: int) -> int:
        """The number of optimizer steps for a number of examples.

        Raises ``ConfigError`` unless there are more steps than warm-up steps.
        """
        per_epoch = examples // self.batch_size
        steps = self.epochs * min(per_epoch, self.max_steps_per_epoch or per_epoch)
        if not steps:
            raise ConfigError(
                f"{PREFIX}.batch_size",
                self.batch_size,
                f"the data set is too small for one step: it has {examples} examples",
            )
        if self.warmup_steps >= steps:
            raise ConfigError(
                f"{PREFIX}.warmup_steps",
                self.warmup_steps,
                f"must be less than the run's {steps} steps",
            )
        return steps

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of ``step``, counting from 1, in a run of ``steps``."""
        if self.schedule == "cosine":
            return Schedule(
                self.learning_rate, self.min_learning_rate, self.warmup_steps, steps
            ).lr(step)
        if step <= self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        progress = (step - 1 - self.warmup_steps) / (steps - self.warmup_steps)
        return self.learning_rate + (self.min_learning_rate - self.learning_rate) * progress


def load_recipe(
    name: str | None,
    models: tuple[str, ...],
    settings: Mapping[str, Any],
    native: Mapping[str, Any],
    method: Method = "supervised",
) -> TinkerRecipe:
    """The recipe of a run. Later layers override earlier ones:

    1. ``default.yaml``
    2. without ``name``, the recipe of the first of ``models`` that has one
    3. ``dpo.yaml`` for the method dpo, because models' recipes are for supervised fine-tunes
    4. the recipe ``name``: a path, or ``recipes/tinker/<name>.yaml``, your own or shipped
    5. ``settings``, then ``native``, by their names in a recipe
    """
    own = {} if name else next(filter(None, map(_find, models)), {})
    layers = [
        _file("default"),
        own,
        _file("dpo") if method == "dpo" else {},
        _named(name) if name else {},
        settings,
        native,
    ]
    recipe = schema.build(
        TinkerRecipe, {key: value for layer in layers for key, value in layer.items()}, PREFIX
    )
    if method == "supervised" and recipe.beta is not None:
        raise ConfigError(
            f"{PREFIX}.beta",
            recipe.beta,
            "requires backend.method=dpo, not backend.method=supervised",
        )
    if method == "dpo" and recipe.beta is None:
        raise ConfigError(f"{PREFIX}.beta", None, "backend.method=dpo requires a value")
    return recipe


def _named(name: str) -> Mapping[str, Any]:
    if name.endswith((".yaml", ".yml")):
        return _load(Path(name))
    recipe = _find(name)
    if recipe is None:
        valid = {
            path.stem
            for folder in own_and_shipped("recipes")
            for path in (folder / PREFIX).glob("*.yaml")
        }
        raise ConfigError(
            "backend.config", name, f"no file recipes/tinker/{name}.yaml; {choices(name, valid)}"
        )
    return recipe


def _file(name: str) -> Mapping[str, Any]:
    recipe = _find(name)
    assert recipe is not None
    return recipe


@cached_here
def _find(name: str) -> Mapping[str, Any] | None:
    for folder in own_and_shipped("recipes"):
        if (path := folder / PREFIX / f"{name}.yaml").exists():
            return _load(path)
    return None


@cache
def _load(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = load_yaml(path.read_bytes())
    except OSError as error:
        raise UserError(f"the Tinker recipe {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(
            f"the Tinker recipe {path} is not YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"the Tinker recipe {path} is not a mapping of settings")
    return data
