"""Recommended learning rates for LoRA, as tinker-cookbook has them."""

from __future__ import annotations

import math

from mosweep.core.errors import ConfigError, MissingExtra

__all__ = ["recommended_lr"]


def recommended_lr(name: str, key: str) -> float:
    """The peak learning rate for LoRA on the model ``name`` by
    ``tinker_cookbook.hyperparam_utils.get_lr``.

    Raises ``ConfigError`` on the setting ``key``, which asked for it, where there is none.
    """
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
