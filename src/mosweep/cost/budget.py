"""What a launch may take: refused beforehand if it may need more, stopped in time where it turns
out to need more than was foreseen.

The caps are of one launch: each counts what its own stages take. What is under way when a cap comes
near is not ended; jobs that wait in Slurm are taken back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mosweep.core.errors import UserError
from mosweep.core.store import Store
from mosweep.core.types import Stage
from mosweep.cost.estimate import Experience, Range, estimate, gpus
from mosweep.cost.prices import cost, usages
from mosweep.sweep.plan import Plan

__all__ = ["NOT_RUN", "Meter", "check_budget"]

#: How the error of a stage begins that a cap kept from starting.
NOT_RUN = "not run: budget."


def check_budget(plan: Plan, store: Store) -> None:
    """``UserError`` if the plan may take more than its budget, or if that cannot be known."""
    budget = plan.budget
    if not plan.to_run or (budget.gpu_hours is None and budget.usd is None):
        return
    found = estimate(plan, store)
    if budget.gpu_hours is not None:
        if found.gpu_hours is None:
            raise UserError(
                f"budget.gpu_hours={budget.gpu_hours:g}: what {', '.join(found.unknown)} will "
                "take is unknown, no similar stage has run yet; "
                "run one such trial first, or launch without a budget"
            )
        _refuse(
            "gpu_hours",
            budget.gpu_hours,
            found.gpu_hours,
            len(plan.to_run),
            "{:.3g} to {:.3g} GPU-hours, as similar stages took",
        )
    if budget.usd is not None:
        if found.usd_unknown:
            raise UserError(
                f"budget.usd={budget.usd:g}: what it will cost is unknown: "
                f"{'; '.join(found.usd_unknown)}; "
                "run one such trial first (or give the price in a recipes/prices.yaml of your "
                "own), or launch without a budget"
            )
        by = "by the length of the data" if found.usd_about else "as similar stages took"
        _refuse(
            "usd",
            budget.usd,
            found.usd or Range(),
            len(plan.to_run),
            f"${{:,.2f}} to ${{:,.2f}} {by}",
        )


def _refuse(name: str, cap: float, found: Range, stages: int, words: str) -> None:
    if found.high > cap:
        raise UserError(
            f"budget.{name}={cap:g}: {stages} stages may take "
            f"{words.format(found.low, found.high)}; nothing was started"
        )


@dataclass
class _Account:
    """One cap: what is spent for certain, and what the stages under way may take."""

    name: str
    cap: float
    unit: str
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.reserved: dict[str, float] = {}

    def shown(self, amount: float) -> str:
        return self.unit.format(f"{amount:.3g}")


class Meter:
    """Counts what a launch takes, and says of each stage whether it may start.

    A stage is expected to take as much as the most of its like, those of this launch included. One
    that failed counts as long as it ran and, as nobody says what it cost, as expected.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        caps = (
            ("usd", plan.budget.usd, "${}"),
            ("gpu_hours", plan.budget.gpu_hours, "{} GPU-hours"),
        )
        self.accounts = [_Account(name, cap, unit) for name, cap, unit in caps if cap is not None]
        self.store, self.stages = store, plan.stages
        self.experience = Experience(plan.to_run, store)
        self.since: dict[str, float] = {}

    @classmethod
    def of(cls, plan: Plan, store: Store) -> Self | None:
        """The meter of a launch that has a cap."""
        return (
            cls(plan, store)
            if plan.budget.usd is not None or plan.budget.gpu_hours is not None
            else None
        )

    def refusal(self, key: str) -> str | None:
        """Why the stage may not start, ``None`` if it may, now or once others have ended."""
        for account in self.accounts:
            expected = self._expected(account, key)
            if expected is None:
                return f"{NOT_RUN}{account.name}={account.cap:g}: what it will take is unknown"
            if expected > 0 and account.spent + expected > account.cap:
                may = (
                    f"{account.shown(account.spent)} spent, and it may take "
                    f"{account.shown(expected)}"
                )
                return f"{NOT_RUN}{account.name}={account.cap:g}: {may}"
        return None

    def must_wait(self, key: str) -> bool:
        """Whether those under way may leave too little for the stage."""
        return any(
            (expected := self._expected(account, key) or 0.0) > 0
            and account.spent + sum(account.reserved.values()) + expected > account.cap
            for account in self.accounts
        )

    def starts(self, key: str) -> None:
        """The stage is handed out."""
        self.since[key] = time.monotonic()
        for account in self.accounts:
            account.reserved[key] = self._expected(account, key) or 0.0

    def too_many(self, waiting: Sequence[str]) -> list[str]:
        """Which of the ``waiting`` stages, handed in but not begun, have to be taken back for the
        caps to hold; the last ones first.

        What they were expected to take may have grown since: a launch learns from its own stages.
        """
        back = []
        for account in self.accounts:
            account.reserved |= {key: self._expected(account, key) or 0.0 for key in waiting}
        for key in reversed(waiting):
            if all(
                account.spent + sum(account.reserved.values()) <= account.cap
                for account in self.accounts
            ):
                break
            if any(account.reserved.get(key, 0.0) > 0 for account in self.accounts):
                back.append(key)
                self.returns(key)
        return back

    def returns(self, key: str) -> None:
        """The stage came back before it began, or another process is at it."""
        self.since.pop(key, None)
        for account in self.accounts:
            account.reserved.pop(key, None)

    def finished(self, key: str) -> None:
        """The stage ended well: count what it really took."""
        if key not in self.since:
            return
        stage = self.stages[key]
        record = self.store.read(key)
        for account in self.accounts:
            expected = account.reserved.pop(key, 0.0)
            if record is None:
                account.spent += expected
            elif account.name == "usd":
                usd = cost(usages(record.facts))
                account.spent += expected if usd is None else usd
            else:
                seconds = float(record.data["finished"]) - float(record.data["started"])
                account.spent += gpus(stage, str(record.facts.get("device", ""))) * seconds / 3600
        self.experience.learn(stage)
        del self.since[key]

    def failed(self, key: str) -> None:
        """The stage failed."""
        since = self.since.pop(key, None)
        for account in self.accounts:
            expected = account.reserved.pop(key, 0.0)
            if account.name == "gpu_hours" and since is not None:
                expected = (
                    (self.stages[key].resources.gpus or 0) * (time.monotonic() - since) / 3600
                )
            account.spent += expected

    def _expected(self, account: _Account, key: str) -> float | None:
        stage: Stage = self.stages[key]
        found = (
            self.experience.cost(stage).usd
            if account.name == "usd"
            else self.experience.gpu_hours(stage)
        )
        return None if found is None else found.high
