"""The learning rate of every step is the closed form's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosweep.stages.loop.schedule import Schedule

lengths = st.integers(1, 400).flatmap(
    lambda total: st.tuples(st.just(total), st.integers(0, total - 1))
)
rates = st.floats(1e-7, 1.0).flatmap(
    lambda peak: st.tuples(st.just(peak), st.floats(0.0, 1.0).map(lambda part: part * peak))
)


@given(lengths, rates)
def test_every_step_has_the_closed_form(length: tuple[int, int], rate: tuple[float, float]) -> None:
    (total, warmup), (peak, floor) = length, rate
    schedule = Schedule(peak, floor, warmup, total)
    for step in range(1, total + 1):
        if step <= warmup:
            expected = peak * step / warmup
        else:
            expected = floor + 0.5 * (peak - floor) * (
                1 + math.cos(math.pi * (step - 1 - warmup) / (total - warmup))
            )
        # 1 + cos loses digits at the end
        assert math.isclose(schedule.lr(step), expected, rel_tol=1e-12, abs_tol=1e-15 * peak)


@given(lengths, rates)
def test_it_climbs_then_falls_and_never_trains_with_nothing(
    length: tuple[int, int], rate: tuple[float, float]
) -> None:
    (total, warmup), (peak, floor) = length, rate
    values = [Schedule(peak, floor, warmup, total).lr(step) for step in range(1, total + 1)]
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert max(values) == pytest.approx(peak)
    assert all(0 < value <= peak * (1 + 1e-12) for value in values)
    assert all(value >= floor * (1 - 1e-12) for value in values[warmup:])


def test_the_points_that_one_knows_by_heart() -> None:
    schedule = Schedule(1.0, 0.1, 4, 12)
    assert [schedule.lr(step) for step in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule.lr(9) == pytest.approx(0.55)
    assert schedule.lr(13) == schedule.lr(1000) == pytest.approx(0.1)
