"""Recommended learning rates for LoRA, as tinker-cookbook has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mosweep.core.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from mosweep.config.groups import Model

__all__ = ["recommended_lr"]


def recommended_lr(model: Model, key: str) -> float:
    """The peak learning rate for LoRA on ``model`` by ``tinker_cookbook.hyperparam_utils.get_lr``.

    Raises ``ConfigError`` on the setting ``key``, which asked for it, where there is none.
    """
    name = model.tinker or model.hub or model.name
    try:
        from tinker_cookbook.hyperparam_utils import get_lr
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker-cookbook", "tinker", key) from error
    try:
        rate = float(get_lr(name, is_lora=True))
    except Exception as error:  # what it raises for unknown models depends on the model
        why = " ".join(str(error).split())[:120]
        problem = f"tinker-cookbook recommends none for the model {name} ({why}); give optim.lr"
        raise ConfigError(key, "true", problem) from error
    if not math.isfinite(rate) or rate <= 0:
        problem = f"tinker-cookbook recommends {rate} for the model {name}; give optim.lr"
        raise ConfigError(key, "true", problem)
    return rate
