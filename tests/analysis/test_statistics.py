"""The statistics of effects: against closed forms, against other implementations, and against
sweeps whose truth is known.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from benchmarks.calibration import PROCESSES, Normal, calibrate, power

from mosweep.analysis.power import minimum_effect, seeds_needed
from mosweep.analysis.statistics import Comparison, Components, Scores, compare, paired
from mosweep.analysis.verdicts import heterogeneity, holm, verdict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas as pd
    import statsmodels.api as sm
    import statsmodels.formula.api as smf
    from scipy import stats
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.power import TTestIndPower


def side(*rows: list[float], **options: Any) -> Scores:
    return Scores(np.array(rows, dtype=float), **options)


def found(estimate: float, se: float, df: float, **options: Any) -> Comparison:
    given: dict[str, Any] = {
        "runs": (3, 3),
        "items": 50,
        "clusters": 50,
        "paired": True,
        "replicated": True,
        **options,
    }
    return Comparison(estimate, (0.0, estimate), se, df, Components(None, None, None), **given)


# -- against closed forms and other implementations ------------------------------------------------


def test_where_items_do_not_matter_it_is_welchs_test_of_the_runs() -> None:
    rng = np.random.default_rng(1)
    low, high = rng.normal(0, 1, 4), rng.normal(1, 3, 6)
    easy = rng.normal(size=30)
    one = compare([(Scores(low[:, None] + easy), Scores(high[:, None] + easy))])
    other = stats.ttest_ind(high, low, equal_var=False)
    assert one.estimate == pytest.approx(high.mean() - low.mean())
    assert (one.df, one.p) == pytest.approx((other.df, other.pvalue))
    interval = other.confidence_interval(0.9)
    assert one.interval(0.9) == pytest.approx((interval.low, interval.high))
    assert one.components.rest == pytest.approx(0, abs=1e-9)


def test_with_one_run_a_side_it_is_the_paired_test_over_items() -> None:
    rng = np.random.default_rng(2)
    low, high = rng.normal(size=(2, 1, 40))
    one = compare([(Scores(low), Scores(high))])
    other = stats.ttest_rel(high[0], low[0])
    assert (one.df, one.p) == pytest.approx((39, other.pvalue))
    assert not one.replicated


def test_runs_that_both_sides_share_are_paired() -> None:
    """Two evaluations of the same fine-tunes: the fine-tune drops out."""
    rng = np.random.default_rng(3)
    low = rng.normal(0, 5, 5)
    high = low + 0.3 + rng.normal(0, 0.1, 5)
    runs = np.arange(5)
    one = compare(
        [
            (
                Scores(low[:, None] + np.zeros(20), runs=runs),
                Scores(high[:, None] + np.zeros(20), runs=runs),
            )
        ]
    )
    other = stats.ttest_rel(high, low)
    assert (one.df, one.p) == pytest.approx((4, other.pvalue))


def test_blocks_that_share_runs_are_not_twice_the_evidence() -> None:
    rng = np.random.default_rng(4)
    low, high = (rng.normal(size=(3, 1)) + np.zeros(20) for _ in range(2))
    once = compare([(Scores(low), Scores(high))])
    again = [(Scores(low, runs=np.arange(3)), Scores(high, runs=np.arange(3, 6)))] * 2
    twice = compare(again)
    assert (twice.se, twice.df) == pytest.approx((once.se, once.df))
    apart = compare([(Scores(low), Scores(high))] * 2)
    assert apart.se == pytest.approx(once.se / math.sqrt(2))


def test_against_restricted_maximum_likelihood() -> None:
    """In balanced data whose variance components are positive, V is what REML says of runs, items
    and items x levels.
    """
    rng = np.random.default_rng(0)
    runs, items = 4, 12
    easy = rng.normal(size=items)
    sides = [
        easy
        + 0.5 * rng.normal(size=(runs, 1))
        + 0.6 * rng.normal(size=items)
        + 0.5 * rng.normal(size=(runs, items))
        for _ in range(2)
    ]
    one = compare([(Scores(sides[0]), Scores(sides[1]))])
    assert min(one.components.runs or 0, one.components.items or 0) > 0
    rows = [
        {
            "y": sides[level][run, item],
            "level": level,
            "run": f"{level} {run}",
            "item": item,
            "moved": f"{level} {item}",
            "all": 1,
        }
        for level in range(2)
        for run in range(runs)
        for item in range(items)
    ]
    parts = {"run": "0 + C(run)", "item": "0 + C(item)", "moved": "0 + C(moved)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = smf.mixedlm("y ~ level", pd.DataFrame(rows), groups="all", vc_formula=parts).fit(
            reml=True
        )
    assert one.estimate == pytest.approx(fitted.params["level"])
    assert one.se == pytest.approx(fitted.bse["level"], rel=1e-3)


def test_against_a_regression_with_cluster_robust_errors() -> None:
    rng = np.random.default_rng(5)
    texts = rng.integers(0, 12, 60)
    low, high = rng.normal(size=(2, 1, 60)) + 0.8 * rng.normal(size=(2, 1, 12))[:, :, texts]
    one = compare([(Scores(low, clusters=texts), Scores(high, clusters=texts))])
    robust = sm.OLS((high - low)[0], np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": texts}
    )
    assert one.se == pytest.approx(robust.bse[0])
    assert (one.items, one.clusters) == (60, 12)
    assert 8 < one.df < 11


def test_blocks_weigh_the_same_and_items_they_share_are_the_same_items() -> None:
    rng = np.random.default_rng(6)
    moved = rng.normal(size=30)
    pairs = [
        (side(*np.zeros((3, 30))), Scores(np.tile(moved, (3, 1)) + shift)) for shift in (0.0, 1.0)
    ]
    both = compare(pairs)
    assert both.estimate == pytest.approx(moved.mean() + 0.5)
    assert both.se == pytest.approx(moved.std(ddof=1) / math.sqrt(30))
    assert [block.estimate for block in both.blocks] == pytest.approx(
        [moved.mean(), moved.mean() + 1]
    )
    others = np.arange(30, 60)
    low, high = (Scores(one.values, items=others) for one in pairs[1])
    apart = compare([pairs[0], (low, high)])
    assert apart.items == 60
    assert apart.se == pytest.approx(both.se / math.sqrt(2))


def test_components_are_those_that_went_in() -> None:
    rng = np.random.default_rng(7)
    blocks = Normal(
        seeds=((60, 60),), items=(300,), runs_sd=(0.3, 0.3), items_sd=0.5, rest_sd=0.8
    ).draw(rng, 0.1)
    spread = compare(blocks).components
    assert (spread.runs, spread.items, spread.rest) == pytest.approx((0.3, 0.5, 0.8), rel=0.15)


# -- what is missing, and what does not vary -------------------------------------------------------


def test_pairing_takes_the_items_that_every_run_scored() -> None:
    nan = math.nan
    low, high = paired(side([1, 2, nan, 4], [1, 2, 3, 4], [nan] * 4), side([5, nan, 7, 8]))
    assert low.values.tolist() == [[1, 4], [1, 4]]
    assert high.values.tolist() == [[5, 8]]
    one = compare([(side([1, 2, nan, 4], [1, 2, 3, 4]), side([5, nan, 7, 8], [5, 6, 7, 8]))])
    assert (one.estimate, one.items, one.paired) == (4, 2, True)


def test_pairing_goes_by_label() -> None:
    low, high = paired(
        side([1, 2, 3], items=np.array([7, 5, 6])), side([10, 20], items=np.array([6, 7]))
    )
    assert sorted(zip(low.values[0], high.values[0], strict=True)) == [(1, 20), (3, 10)]


def test_without_a_common_item_samples_are_independent() -> None:
    rng = np.random.default_rng(8)
    low, high = rng.normal(size=(1, 25)), rng.normal(1, 2, size=(1, 35))
    one = compare([(Scores(low, items=np.arange(25)), Scores(high, items=np.arange(25, 60)))])
    other = stats.ttest_ind(high[0], low[0], equal_var=False)
    assert not one.paired
    assert (one.p, one.df) == pytest.approx((other.pvalue, other.df))


@pytest.mark.parametrize(
    "blocks", [[], [(side([1.0]), side([math.nan]))], [(Scores(np.empty((0, 3))), side([1, 2, 3]))]]
)
def test_nothing_to_compare(blocks: list[tuple[Scores, Scores]]) -> None:
    with pytest.raises(ValueError, match="every block"):
        compare(blocks)


def test_all_right_answers_leave_something_open() -> None:
    """n right answers out of n: the chance of a wrong one may still be about 3/n."""
    for n in (20, 200):
        one = compare([(Scores(np.ones((3, n))), Scores(np.ones((3, n))))])
        low, high = one.interval()
        assert one.estimate == 0
        assert low == pytest.approx(-high)
        assert 2.5 / n < high < 3.2 / n
        assert one.p == 1
    sure = compare([(Scores(np.zeros((3, 200))), Scores(np.ones((3, 200))))])
    assert sure.interval()[0] > 0.98
    assert sure.p < 1e-6


def test_the_floor_is_for_right_and_wrong_alone() -> None:
    rng = np.random.default_rng(9)
    one = compare(
        [(Scores(rng.normal(0.5, 1e-3, (3, 50))), Scores(rng.normal(0.5, 1e-3, (3, 50))))]
    )
    assert one.se < 1e-3


def test_where_nothing_varies_there_is_no_certainty() -> None:
    one = compare([(Scores(np.full((3, 40), 0.7)), Scores(np.full((3, 40), 0.9)))])
    assert (one.se, math.isnan(one.p), math.isnan(one.interval()[0])) == (0, True, True)
    assert verdict(one, p_holm=one.p) == "not decisive: nothing varies"
    assert math.isnan(one.p_equivalence(0.5)) and math.isnan(one.minimum_effect())


def test_the_variance_is_never_below_that_of_its_parts() -> None:
    rng = np.random.default_rng(10)
    for _ in range(200):
        low, high = rng.normal(size=(2, 2, 5))
        one = compare([(Scores(low), Scores(high))])
        difference = (high - low).mean(axis=0)
        assert one.se >= 0.999 * difference.std(ddof=1) / math.sqrt(5)
        assert 0.9 < one.df < 20


def test_one_seed_is_capped() -> None:
    rng = np.random.default_rng(11)
    one = compare([(Scores(rng.normal(size=(1, 50))), Scores(rng.normal(5, 1, size=(1, 50))))])
    assert verdict(one, p_holm=one.p) == "not decisive: one seed"
    assert verdict(one, p_holm=one.p, one_seed=True) == "increase"
    assert (one.components.runs, one.components.rest) == (None, None)


def test_a_control_needs_no_seeds() -> None:
    rng = np.random.default_rng(12)
    easy = rng.normal(size=50)
    tuned = easy + 1 + 0.1 * rng.normal(size=(3, 1)) + 0.1 * rng.normal(size=(3, 50))
    one = compare(
        [(Scores(easy[None] + 0.1 * rng.normal(size=(1, 50)), fixed=True), Scores(tuned))]
    )
    assert (one.replicated, one.runs) == (True, (1, 3))
    assert verdict(one, p_holm=one.p) == "increase"
    assert one.se == pytest.approx(tuned.mean(axis=1).std(ddof=1) / math.sqrt(3), rel=0.1)


def test_a_run_alone_is_taken_to_vary_like_the_others() -> None:
    rng = np.random.default_rng(13)
    values = rng.normal(size=(4, 4, 1)) + np.zeros(20)
    blocks = [(Scores(values[0]), Scores(values[1])), (Scores(values[2]), Scores(values[3][:1]))]
    one = compare(blocks)
    variances = values[:3, :, 0].var(axis=1, ddof=1)
    assert one.se**2 == pytest.approx((variances.sum() / 4 + variances.mean()) / 4)
    assert 3 <= one.df < 9
    assert not one.blocks[0].blocks and one.blocks[1].replicated


def test_one_item_is_capped() -> None:
    one = compare([(side([1.0], [1.1], [1.2]), side([5.0], [5.1], [5.2]))])
    assert verdict(one, p_holm=one.p) == "not decisive: one item"


# -- families, verdicts, heterogeneity -------------------------------------------------------------


def test_holm() -> None:
    nan = math.nan
    adjusted = holm([0.01, nan, 0.04, 0.03, 0.005])
    assert adjusted[0] == pytest.approx(0.03) and adjusted[2:] == pytest.approx([0.06, 0.06, 0.02])
    assert math.isnan(adjusted[1])
    assert holm([]) == [] and math.isnan(holm([nan])[0])
    p_values = np.random.default_rng(15).random(30) ** 4
    assert holm(list(p_values)) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_equivalence_is_the_90_percent_interval_within_delta() -> None:
    one = found(0.01, 0.01, 20)
    low, high = one.interval(0.9)
    for delta in (0.02, high - 1e-6, high + 1e-6, 0.05):
        assert (one.p_equivalence(delta) < 0.05) == (max(high, -low) < delta)


@pytest.mark.parametrize(
    ("one", "p", "p_equivalence", "delta", "said"),
    [
        (found(0.1, 0.01, 20), 0.001, math.nan, None, "increase"),
        (found(-0.1, 0.01, 20), 0.001, math.nan, None, "decrease"),
        (found(0.1, 0.01, 20), 0.06, math.nan, None, "not decisive"),
        (found(0.001, 0.01, 20), 0.9, 0.04, 0.02, "equivalent within 0.02"),
        (found(0.001, 0.01, 20), 0.9, 0.06, 0.02, "not decisive"),
        (found(0.01, 0.001, 20), 0.001, 0.001, 0.02, "increase"),
        (found(0.1, 0.01, 20, replicated=False), 0.001, 0.001, 0.02, "not decisive: one seed"),
    ],
)
def test_verdicts(
    one: Comparison, p: float, p_equivalence: float, delta: float | None, said: str
) -> None:
    assert verdict(one, p_holm=p, p_equivalence=p_equivalence, delta=delta) == said


def test_two_blocks_differ_as_welch_says() -> None:
    one, other = found(0.1, 0.03, 4), found(0.4, 0.08, 6)
    df = (0.03**2 + 0.08**2) ** 2 / (0.03**4 / 4 + 0.08**4 / 6)
    p = 2 * stats.t.sf(0.3 / math.hypot(0.03, 0.08), df)
    assert heterogeneity([one, other]) == pytest.approx(p)
    assert math.isnan(heterogeneity([one])) and math.isnan(
        heterogeneity([one, found(0.1, 0.0, math.nan)])
    )


def test_blocks_that_do_not_differ_are_rarely_said_to() -> None:
    rng = np.random.default_rng(14)
    process = Normal(seeds=((4, 4),) * 3)
    p_values = [heterogeneity(compare(process.draw(rng, 0.05)).blocks) for _ in range(400)]
    assert np.mean(np.array(p_values) < 0.05) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


# -- before a launch -------------------------------------------------------------------------------


def test_minimum_effect_of_many_runs_is_that_of_a_t_test() -> None:
    for runs in (8, 20):
        exact = TTestIndPower().solve_power(nobs1=runs, alpha=0.05, power=0.8)
        ours = minimum_effect(Components(0.3, None, None), runs=runs, items=100)
        assert ours == pytest.approx(0.3 * exact, rel=0.02)


def test_minimum_effect_falls_with_everything() -> None:
    spread = Components(0.02, 0.1, 0.2)
    least = minimum_effect(spread, runs=3, items=50)
    changes: list[dict[str, Any]] = [
        {"runs": 4},
        {"items": 60},
        {"blocks": 2},
        {"alpha": 0.1},
        {"power": 0.7},
    ]
    for change in changes:
        assert minimum_effect(spread, **{"runs": 3, "items": 50, **change}) < least


@pytest.mark.parametrize(("seeds", "items", "blocks"), [(4, 60, 1), (5, 100, 2)])
def test_effects_of_that_size_are_found_four_times_in_five(
    seeds: int, items: int, blocks: int
) -> None:
    assert power(seeds, items, blocks, sweeps=600) == pytest.approx(0.8, abs=0.05)


def test_seeds_needed() -> None:
    spread = Components(0.05, 0.1, 0.1)
    n = seeds_needed(0.06, spread, items=200)
    assert n is not None
    assert (
        minimum_effect(spread, runs=n, items=200)
        <= 0.06
        < minimum_effect(spread, runs=n - 1, items=200)
    )
    assert seeds_needed(0.01, spread, items=20, most=50) is None


@pytest.mark.parametrize(
    "few",
    [{"runs": 1, "items": 50}, {"runs": 3, "items": 1}, {"runs": 3, "items": 50, "blocks": 0}],
)
def test_too_few_to_say(few: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least two runs"):
        minimum_effect(Components(1, 1, 1), **few)


# -- the proof -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    """93 to 97 % by ``benchmarks/calibration.py``; here, of few sweeps, within twice the standard
    error of that.
    """
    sweeps = 500
    found = calibrate(PROCESSES[name], sweeps)
    error = 2 * math.sqrt(0.05 * 0.95 / sweeps)
    assert 0.93 - error / 2 < found.coverage < 0.97 + error / 2
    assert found.false_positives < 0.05 + error
