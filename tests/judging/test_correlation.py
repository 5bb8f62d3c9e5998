"""Check that correlated pairs are found, and that they give wider intervals instead of false alarms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.errors import InputError
from mlpbench.judging import statistics as stats
from mlpbench.judging.evidence import Evidence, ProcessEvidence
from mlpbench.judging.judgement import Margins
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.judging.verdict import ALPHA, judge, judge_plan, looks
from tests.strategies import plan, replicated, results

NAME = Benchmark(Metric.SECONDS, "ab/train_step")


def sides_of(differences, keys=None):
    """Return two sides whose pairs have these log ratios."""
    keys = keys or [str(pair) for pair in range(len(differences))]

    def side(values):
        processes = {key: ProcessEvidence(value=math.exp(value)) for key, value in zip(keys, values, strict=True)}
        return {NAME: Evidence(environment={}, processes=processes)}

    return side([0.0] * len(differences)), side(differences)


def comparison_of(differences, **options):
    return judge(*sides_of(differences), Margins(), is_paired=True, **options).comparisons[0]


def correlated(draw, r: float, size: int) -> np.ndarray:
    shocks = draw.normal(0, 0.02, size)
    values = shocks.copy()
    for i in range(1, size):
        values[i] = r * values[i - 1] + math.sqrt(1 - r**2) * shocks[i]
    return values


@pytest.mark.parametrize("size", [6, 12, 20])
def test_estimate_of_independent_pairs_is_zero_on_average_and_rarely_significant(size):
    draw = np.random.default_rng(0)
    found = [stats.correlation(draw.normal(0, 1, size).tolist()) for _ in range(2000)]
    assert abs(np.mean([c.estimate for c in found])) < 0.03
    assert 0.07 < np.mean([c.is_significant for c in found]) < 0.13


def test_stronger_correlation_is_found_more_often():
    draw = np.random.default_rng(1)
    shares = [
        np.mean([stats.correlation(correlated(draw, r, 12).tolist()).is_significant for _ in range(300)])
        for r in (0.0, 0.5, 0.8, 0.95)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 0.7


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=30))
def test_correlation_never_narrows_an_interval_and_has_bounds(values):
    found = stats.correlation(values)
    assert 1 <= found.widening <= found.largest_widening < 10
    assert -1 <= found.estimate <= 1
    # The order of time may be read from either end, and the sides may be exchanged.
    for other in (values[::-1], [-value for value in values]):
        assert stats.correlation(other).estimate == pytest.approx(found.estimate, abs=1e-6)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.2, 0.3]])
def test_few_pairs_show_no_correlation(values):
    if values:
        assert stats.correlation(values) is None
    else:
        with pytest.raises(InputError):
            stats.correlation(values)


def test_equal_values_are_not_correlated():
    assert stats.correlation([0.25] * 6) == stats.Correlation(
        estimate=0.0, is_significant=False, widening=1.0, largest_widening=1.0
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    for compute in (
        lambda: stats.correlation([0.1, bad, 0.2, 0.3]),
        lambda: stats.paired_effect([0.1, bad]),
        lambda: stats.paired_effect([0.1, 0.2, 0.3, 0.4], [0.0, bad, 0.1, 0.2]),
        lambda: stats.unpaired_effect([0.1, 0.2], [bad, 0.1]),
        lambda: stats.median_interval([1.0, bad]),
        lambda: stats.ratio_interval([1.0, bad], [1.0, 1.0]),
        lambda: stats.paired_effect([0.1, 0.2]).p_beyond(bad),
    ):
        with pytest.raises(InputError):
            compute()


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_ratio_of_a_time_that_is_not_above_zero_is_refused(bad):
    with pytest.raises(InputError, match="above 0"):
        stats.ratio_interval([1.0, bad], [1.0, 1.0])


INDEPENDENT = [0.021, 0.034, 0.018, 0.036, 0.022, 0.031, 0.019, 0.035]
DRIFTING = [0.018, 0.019, 0.021, 0.022, 0.031, 0.034, 0.035, 0.036]


def test_pairs_that_drift_have_a_wider_interval_and_say_so():
    independent, drifting = comparison_of(INDEPENDENT), comparison_of(DRIFTING)
    assert independent.ratio == pytest.approx(drifting.ratio)
    assert (independent.widening, independent.verdict) == (1.0, "slower")
    assert drifting.widening > 3
    assert drifting.verdict == "inconclusive"
    widths = [math.log(c.high_ratio / c.low_ratio) for c in (independent, drifting)]
    assert widths[1] == pytest.approx(widths[0] * drifting.widening)
    assert independent.pair_correlation < 0
    assert drifting.pair_correlation > 0.5


def test_interval_of_independent_pairs_is_that_of_students_t():
    effect = stats.paired_effect(INDEPENDENT)
    comparison = comparison_of(INDEPENDENT)
    assert (comparison.low_ratio, comparison.high_ratio) == (effect.interval().low, effect.interval().high)


def test_pairs_count_in_the_order_of_their_numbers():
    order = [7, 0, 5, 2, 3, 6, 1, 4]
    sides = sides_of([DRIFTING[i] for i in order], [str(i) for i in order])
    (comparison,) = judge(*sides, Margins(), is_paired=True).comparisons
    assert comparison.pair_correlation == pytest.approx(comparison_of(DRIFTING).pair_correlation)


def test_verdict_before_the_last_pair_must_hold_for_correlated_pairs():
    clear, weak = [0.1, 0.105, 0.11, 0.095, 0.09, 0.1], [0.025, 0.03, 0.04, 0.035, 0.045, 0.03]
    for differences, early in ((clear, "slower"), (weak, "inconclusive")):
        assert comparison_of(differences).verdict == "slower"
        comparison = comparison_of(differences, is_early=True)
        assert comparison.verdict == early
        # The interval is shown as it is; only the verdict waits.
        assert comparison.low_ratio == comparison_of(differences).low_ratio
        assert comparison.early_widening > 1


def test_plan_with_fewer_pairs_than_planned_is_judged_with_caution():
    a, b = [[1.0, 1.0]] * 6, [[1.025], [1.03], [1.04], [1.035], [1.045], [1.03]]
    records = results(replicated(a, side="a"), replicated([[x, x] for (x,) in b], side="b"), plan(pairs=6))
    verdicts = [
        judge_plan(records, replace(records.plans["r"], pairs=pairs), Margins()).comparisons[0].verdict
        for pairs in (6, 12)
    ]
    assert verdicts == ["slower", "inconclusive"]


def test_three_pairs_of_more_give_no_verdict():
    assert comparison_of([0.5, 0.51, 0.49], is_early=True).verdict == "inconclusive"


def false_alarms(r: float, count: int = 200) -> float:
    draw = np.random.default_rng(2)
    alarms = 0
    for _ in range(count):
        values = correlated(draw, r, 12)
        for pairs in looks(12):
            options = {"is_early": pairs < 12, "alpha": ALPHA / len(looks(12))}
            verdict = comparison_of(values[:pairs].tolist(), **options).verdict
            if verdict != "inconclusive":
                break
        alarms += verdict in ("slower", "faster")
    return alarms / count


@pytest.mark.parametrize(("r", "most"), [(0.0, 0.01), (0.5, 0.05), (0.8, 0.1), (0.95, 0.2)])
def test_false_alarms_of_correlated_pairs_are_few(r, most):
    assert false_alarms(r) <= most
