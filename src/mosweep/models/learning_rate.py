"""Recommended learning rates for LoRA, from tinker-cookbook."""

from __future__ import annotations

import math

from mosweep.core.errors import ConfigError, MissingExtra

__all__ = ["recommended_lr"]


def recommended_lr(name: str, key: str) -> float:
    """The peak learning rate that tinker-cookbook recommends for LoRA on the model ``name``.

    ``key`` is the setting that requires it. Raises ``ConfigError`` for ``key`` if there is no
    recommendation.
    """
    try:
        from tinker_cookbook.hyperparam_utils import get_lr
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker-cookbook", "tinker", key) from error
    try:
        rate = float(get_lr(name, is_lora=True))
    except Exception as error:  # the type of the exception for unknown models varies
        why = " ".join(str(error).split())[:120]
        problem = f"tinker-cookbook recommends none for the model {name} ({why}); set optim.lr"
        raise ConfigError(key, "true", problem) from error
    if not math.isfinite(rate) or rate <= 0:
        problem = f"tinker-cookbook recommends {rate} for the model {name}; set optim.lr"
        raise ConfigError(key, "true", problem)
    return rate
