"""The budget of a launch.

A launch that may exceed its budget is refused. One that needs more than estimated is stopped in
time: no stage starts that may exceed a cap. Running stages continue, and jobs that wait in Slurm
are withdrawn. A cap counts only the stages of its own launch.
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

#: The beginning of a stage's error if a cap kept it from starting.
NOT_RUN = "not run: budget."


def check_budget(plan: Plan, store: Store) -> None:
    """Raise ``UserError`` if the plan may exceed its budget, or if its needs are unknown."""
    budget = plan.budget
    if not plan.to_run or (budget.gpu_hours is None and budget.usd is None):
        return
    needs = estimate(plan, store)
    if budget.gpu_hours is not None:
        if needs.gpu_hours is None:
            raise UserError(
                f"budget.gpu_hours={budget.gpu_hours:g}: the GPU-hours of "
                f"{', '.join(needs.unknown)} are unknown, because no similar stage has run yet; "
                "run one such trial first, or launch without a budget"
            )
        _refuse(
            "gpu_hours",
            budget.gpu_hours,
            needs.gpu_hours,
            len(plan.to_run),
            "{:.3g} to {:.3g} GPU-hours, as similar stages took",
        )
    if budget.usd is not None:
        if needs.usd_unknown:
            raise UserError(
                f"budget.usd={budget.usd:g}: the cost is unknown: "
                f"{'; '.join(needs.usd_unknown)}; "
                "run one such trial first (or add the price to your own recipes/prices.yaml), or "
                "launch without a budget"
            )
        basis = "by the length of the data" if needs.usd_about else "as similar stages took"
        _refuse(
            "usd",
            budget.usd,
            needs.usd or Range(),
            len(plan.to_run),
            f"${{:,.2f}} to ${{:,.2f}} {basis}",
        )


def _refuse(name: str, cap: float, needed: Range, stages: int, template: str) -> None:
    """Raise ``UserError`` if more than ``cap`` may be needed."""
    if needed.high > cap:
        raise UserError(
            f"budget.{name}={cap:g}: {stages} stages may take "
            f"{template.format(needed.low, needed.high)}; nothing was started"
        )


@dataclass
class _Account:
    """One cap, with the amount already spent and the amounts that running stages may take."""

    name: str
    cap: float
    unit: str
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.reserved: dict[str, float] = {}

    def shown(self, amount: float) -> str:
        return self.unit.format(f"{amount:.3g}")


class Meter:
    """Counts the usage of a launch, and decides whether a stage may start.

    A stage is expected to take the most that any similar stage has taken, including those of this
    launch. A failed stage counts with the time it ran. Its cost is not known, so it counts with the
    expected cost.
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
        """The meter of a launch, or ``None`` if it has no cap."""
        return (
            cls(plan, store)
            if plan.budget.usd is not None or plan.budget.gpu_hours is not None
            else None
        )

    def refusal(self, key: str) -> str | None:
        """Why the stage may not start. ``None`` if it may, now or after others have ended."""
        for account in self.accounts:
            expected = self._expected(account, key)
            if expected is None:
                return f"{NOT_RUN}{account.name}={account.cap:g}: its cost is unknown"
            if expected > 0 and account.spent + expected > account.cap:
                reason = (
                    f"{account.shown(account.spent)} spent, and it may take "
                    f"{account.shown(expected)}"
                )
                return f"{NOT_RUN}{account.name}={account.cap:g}: {reason}"
        return None

    def must_wait(self, key: str) -> bool:
        """Whether the running stages may leave too little for this one."""
        return any(
            (expected := self._expected(account, key) or 0.0) > 0
            and account.spent + sum(account.reserved.values()) + expected > account.cap
            for account in self.accounts
        )

    def starts(self, key: str) -> None:
        """Reserve the expected amounts of a stage that starts."""
        self.since[key] = time.monotonic()
        for account in self.accounts:
            account.reserved[key] = self._expected(account, key) or 0.0

    def too_many(self, waiting: Sequence[str]) -> list[str]:
        """The ``waiting`` stages that must be withdrawn for the caps to hold, the last ones first.

        They are submitted but have not started. Their expected amounts may have grown since,
        because a launch learns from its own stages.
        """
        withdrawn = []
        for account in self.accounts:
            account.reserved |= {key: self._expected(account, key) or 0.0 for key in waiting}
        for key in reversed(waiting):
            if all(
                account.spent + sum(account.reserved.values()) <= account.cap
                for account in self.accounts
            ):
                break
            if any(account.reserved.get(key, 0.0) > 0 for account in self.accounts):
                withdrawn.append(key)
                self.returns(key)
        return withdrawn

    def returns(self, key: str) -> None:
        """Release the reservation of a stage that did not start, or that another process runs."""
        self.since.pop(key, None)
        for account in self.accounts:
            account.reserved.pop(key, None)

    def finished(self, key: str) -> None:
        """Count the actual amounts of a successful stage."""
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
        """Count a failed stage."""
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
        needed = (
            self.experience.cost(stage).usd
            if account.name == "usd"
            else self.experience.gpu_hours(stage)
        )
        return None if needed is None else needed.high
