"""The smallest effects that a design detects, and the seeds that it needs."""

from __future__ import annotations

from mosweep.analysis.statistics import Components
from mosweep.analysis.variance import detected, variance_of_sum

__all__ = ["minimum_effect", "seeds_needed"]


def minimum_effect(
    spread: Components,
    *,
    runs: int,
    items: int,
    blocks: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
    fixed: bool = False,
) -> float:
    """The difference that a design detects with this ``power``, in units of the score.

    It has ``runs`` seeds on each side of each of ``blocks``, and ``items`` that all blocks share.
    With ``fixed``, one side is the only possible run, such as an untouched model. A standard
    deviation of ``None`` counts as 0.

    Raises ``ValueError`` for fewer than two runs or items, because their variance is unknown.
    """
    if runs < 2 or items < 2 or blocks < 1:
        raise ValueError(
            f"{runs} runs, {items} items, {blocks} blocks: expected at least two runs, two items "
            "and one block"
        )
    sides = (1 if fixed else 2) / blocks / runs
    v_rest = sides * (spread.rest or 0.0) ** 2 / items
    v_runs, v_items = (
        sides * (spread.runs or 0.0) ** 2 + v_rest,
        (spread.items or 0.0) ** 2 / items + v_rest,
    )
    df = (1 if fixed else 2) * blocks * (runs - 1)
    # The expectation of Welch's df: E[(sum of s²)²] over E[sum of s⁴] / (runs - 1).
    welch = df if fixed else (df + 2) * (runs - 1) / (runs + 1)
    return detected(
        *variance_of_sum(v_runs, welch, v_items, items - 1, v_rest, df * (items - 1)), alpha, power
    )


def seeds_needed(
    effect: float,
    spread: Components,
    *,
    items: int,
    blocks: int = 1,
    alpha: float = 0.05,
    power: float = 0.8,
    most: int = 1000,
) -> int | None:
    """The fewest seeds on each side that detect ``effect``.

    ``None`` if not even ``most`` do: there are too few items.
    """
    enough = (
        n
        for n in range(2, most + 1)
        if minimum_effect(spread, runs=n, items=items, blocks=blocks, alpha=alpha, power=power)
        <= effect
    )
    return next(enough, None)
