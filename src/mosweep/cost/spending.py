"""The spending of a sweep at providers, in tokens and USD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mosweep.core.results import SweepResult
from mosweep.cost.prices import Usage, cost, usages

__all__ = ["Spending", "spending"]


@dataclass(frozen=True)
class Spending:
    """Tokens and USD of all stages. Each stage counts once.

    ``usd`` is ``None`` if the price of a model is unknown, and ``unpriced`` lists these models.
    ``dates`` are the dates of the prices. Stages that another sweep has paid for count too, because
    the results depend on them.
    """

    train_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0
    dates: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = (
            (self.train_tokens, "trained on"),
            (self.input_tokens, "read"),
            (self.output_tokens, "written"),
        )
        tokens = ", ".join(f"{count:,} {word}" for count, word in kinds if count) or "0"
        if self.usd is None:
            return (
                f"{tokens} tokens; USD unknown: no price for {', '.join(self.unpriced)} in "
                "recipes/prices.yaml"
            )
        dated = f" at prices of {', '.join(self.dates)}" if self.dates else ""
        return f"{tokens} tokens; ${self.usd:,.4g}{dated}"


def spending(result: SweepResult) -> Spending | None:
    """The spending of the stages of ``result``, or ``None`` if they used no provider."""
    total = Spending()
    dates: set[str] = set()
    unpriced: set[str] = set()
    paid = False
    for stage in {
        stage.key: stage
        for trial in result.trials
        for stage in trial.stages
        if "usage" in stage.facts
    }.values():
        recorded = stage.facts["usage"]
        entries = [recorded] if isinstance(recorded, Mapping) else recorded
        for used, entry in zip(usages(stage.facts), entries, strict=True):
            paid = True
            usd = _usd(used, entry)
            if usd is None:
                unpriced.add(f"{used.provider}/{used.model}")
            if entry.get("prices_as_of"):
                dates.add(str(entry["prices_as_of"]))
            total = replace(
                total,
                train_tokens=total.train_tokens + used.train_tokens,
                input_tokens=total.input_tokens + used.input_tokens,
                output_tokens=total.output_tokens + used.output_tokens,
                usd=None if usd is None or total.usd is None else total.usd + usd,
            )
    return (
        replace(total, dates=tuple(sorted(dates)), unpriced=tuple(sorted(unpriced)))
        if paid
        else None
    )


def _usd(used: Usage, entry: Mapping[str, Any]) -> float | None:
    """The recorded cost or, if no price was known then, the cost at today's prices."""
    return float(entry["usd"]) if entry.get("usd") is not None else cost([used])
