"""Check the statistics against brute force, written-out formulas and scipy."""

import math
import statistics
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from mlpbench.judging import statistics as stats
from mlpbench.judging.statistics import (
    first_at_least,
    mean_interval,
    median_interval,
    median_with_misses,
    ratio_interval,
    share_interval,
)

values = st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=20)
seconds = st.floats(min_value=1e-9, max_value=1e5)
pairs = st.lists(st.tuples(seconds, seconds), min_size=2, max_size=12)


# --- the median -------------------------------------------------------------------------------------------------------


def brute_force_coverage(n: int, k: int) -> float:
    """Return the share of draws in which at least k values lie on each side of the median."""
    tosses = list(product([False, True], repeat=n))
    return sum(k <= sum(toss) <= n - k for toss in tosses) / len(tosses)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", range(1, 13))
def test_median_interval_covers_as_often_as_brute_force_counts(n, confidence):
    interval = median_interval(range(1, n + 1), confidence)
    # Of the values 1 to n, the k-th smallest is k.
    k = int(interval.low)
    assert interval.high == n + 1 - k
    assert interval.coverage == pytest.approx(brute_force_coverage(n, k))


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", range(1, 13))
def test_median_interval_is_the_narrowest_confident_one_or_the_range(n, confidence):
    interval = median_interval(range(1, n + 1), confidence)
    k = int(interval.low)
    assert k == 1 or interval.coverage >= confidence
    assert 2 * (k + 1) > n or brute_force_coverage(n, k + 1) < confidence


def test_median_interval_of_one_value_is_that_value_without_coverage():
    interval = median_interval([3.0])
    assert (interval.low, interval.estimate, interval.high, interval.coverage) == (3.0, 3.0, 3.0, 0.0)


@given(values)
def test_median_is_the_usual_one_and_lies_in_its_interval(numbers):
    interval = median_interval(numbers)
    assert interval.estimate == statistics.median(numbers)
    assert interval.low <= interval.estimate <= interval.high
    assert {interval.low, interval.high} <= set(numbers)


@given(values.flatmap(lambda numbers: st.tuples(st.just(numbers), st.permutations(numbers))))
def test_median_interval_does_not_depend_on_order(orders):
    first, second = orders
    assert median_interval(first) == median_interval(second)


@given(values, st.integers(-40, 40))
def test_median_interval_scales_exactly_by_powers_of_two(numbers, exponent):
    # Rounded, because a power of two may round a subnormal number.
    numbers = [float(round(value, 3)) for value in numbers]
    one, scaled = median_interval(numbers), median_interval([value * 2.0**exponent for value in numbers])
    assert scaled.estimate == one.estimate * 2.0**exponent
    assert (scaled.low, scaled.high) == (one.low * 2.0**exponent, one.high * 2.0**exponent)
    assert scaled.coverage == one.coverage


# --- ratios and means -------------------------------------------------------------------------------------------------


@given(pairs)
def test_exchanging_baseline_and_contender_gives_the_inverse_ratio(numbers):
    baseline, contender = zip(*numbers, strict=True)
    one, other = ratio_interval(baseline, contender), ratio_interval(contender, baseline)
    assert one.estimate * other.estimate == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)
    assert one.high * other.low == pytest.approx(1)


@given(pairs)
def test_ratio_interval_is_the_median_interval_of_the_log_ratios(numbers):
    baseline, contender = zip(*numbers, strict=True)
    interval = ratio_interval(baseline, contender, confidence=0.9)
    of_logs = median_interval([math.log(c) - math.log(b) for b, c in numbers], 0.9)
    assert math.log(interval.estimate) == pytest.approx(of_logs.estimate, abs=1e-9)
    assert math.log(interval.low) == pytest.approx(of_logs.low, abs=1e-6)
    assert math.log(interval.high) == pytest.approx(of_logs.high, abs=1e-6)
    assert interval.coverage == of_logs.coverage


def test_one_disturbed_round_does_not_move_a_ratio():
    assert ratio_interval([1.0] * 9, [1.1] * 8 + [100.0]).estimate == pytest.approx(1.1)


def test_pairing_removes_a_drift_that_both_share():
    interval = ratio_interval([1.0, 2.0, 4.0, 8.0], [0.5, 1.0, 2.0, 4.0])
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_of_one_pair_is_unbounded():
    interval = ratio_interval([2.0], [1.0])
    assert interval.estimate == pytest.approx(0.5)
    assert (interval.low, interval.high) == (0.0, math.inf)


def test_ratio_too_large_for_a_float_is_infinite():
    assert ratio_interval([1e-300, 1e-300], [1.0, 1e300]).high == math.inf


@pytest.mark.parametrize("confidence", [0.5, 0.95])
@given(st.lists(st.integers(-(10**6), 10**6).map(lambda eighths: eighths / 8), min_size=2, max_size=12, unique=True))
def test_mean_interval_is_scipys_t_interval(confidence, numbers):
    interval = mean_interval(numbers, confidence)
    mean, standard_error = statistics.fmean(numbers), scipy_stats.sem(numbers)
    bounds = scipy_stats.t.interval(confidence, len(numbers) - 1, loc=mean, scale=standard_error)
    assert interval.estimate == pytest.approx(mean)
    assert (interval.low, interval.high) == pytest.approx(bounds)
    assert interval.coverage == confidence


def test_mean_of_one_value_is_unbounded():
    interval = mean_interval([0.5])
    assert (interval.low, interval.estimate, interval.high) == (-math.inf, 0.5, math.inf)


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("hits", "trials"), [(h, n) for n in (1, 2, 3, 5, 20) for h in range(n + 1)])
def test_share_interval_is_wilsons_formula(hits, trials, confidence):
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half_width = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    interval = share_interval(hits, trials, confidence)
    assert interval.estimate == share
    assert interval.low == pytest.approx(max(0, centre - half_width), abs=1e-12)
    assert interval.high == pytest.approx(min(1, centre + half_width), abs=1e-12)


@pytest.mark.parametrize("trials", [1, 3, 10])
def test_share_interval_narrows_with_more_trials(trials):
    widths = []
    for factor in (1, 4, 16):
        interval = share_interval(trials * factor, trials * factor)
        assert 0 <= interval.low < interval.high <= 1
        widths.append(interval.high - interval.low)
    assert all(one > next_one for one, next_one in pairwise(widths))


# --- targets ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), max_size=10), st.floats(0, 1))
def test_first_at_least_is_the_first_value_and_a_miss_is_none(curve, target):
    index = first_at_least(curve, target)
    if index is None:
        assert all(value < target for value in curve)
    else:
        assert curve[index] >= target
        assert all(value < target for value in curve[:index])


def test_value_equal_to_the_target_reaches_it():
    assert first_at_least([0.8, 0.9, 0.9], 0.9) == 1


def test_nan_never_reaches_a_target():
    assert first_at_least([math.nan, 0.95], 0.9) == 1
    assert first_at_least([math.nan], 0.0) is None


arrivals = st.lists(st.none() | st.floats(min_value=0, max_value=1e6), min_size=1, max_size=12)


@given(arrivals)
def test_median_with_misses_is_the_high_median(numbers):
    late = [math.inf if value is None else value for value in numbers]
    assert median_with_misses(numbers) == statistics.median_high(late)


@given(arrivals)
def test_more_than_half_arrive_by_a_finite_median(numbers):
    median = median_with_misses(numbers)
    arrived = sum(value is not None and value <= median for value in numbers)
    assert arrived > len(numbers) / 2 or median == math.inf
    assert (median == math.inf) == (numbers.count(None) >= len(numbers) / 2)


@given(arrivals)
def test_another_miss_never_makes_the_median_earlier(numbers):
    assert median_with_misses([*numbers, None]) >= median_with_misses(numbers)


# --- comparing --------------------------------------------------------------------------------------------------------

logs = st.floats(-3, 3).map(lambda x: round(x, 6))
several_logs = st.lists(logs, min_size=2, max_size=12)


@given(several_logs, several_logs)
def test_unpaired_effect_is_welchs_test(one, other):
    effect = stats.unpaired_effect(one, other)
    assume(np.std(one) > 1e-5 and np.std(other) > 1e-5)
    expected = scipy_stats.ttest_ind(other, one, equal_var=False)
    assert effect.log_ratio / effect.error == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert effect.p_beyond(1.0) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    bounds = expected.confidence_interval(0.9)
    interval = effect.interval(0.9)
    assert [math.log(interval.low), math.log(interval.high)] == pytest.approx([bounds.low, bounds.high], abs=1e-6)


@given(several_logs)
def test_paired_effect_without_control_is_the_t_test_of_one_sample(differences):
    assume(np.std(differences) > 1e-5)
    effect = stats.paired_effect(differences)
    expected = scipy_stats.ttest_1samp(differences, 0)
    assert effect.log_ratio / effect.error == pytest.approx(expected.statistic, rel=1e-6, abs=1e-9)
    assert effect.p_beyond(1.0) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@given(st.lists(st.tuples(logs, logs), min_size=4, max_size=12))
def test_paired_effect_with_control_is_the_intercept_of_a_regression(pairs):
    differences, control = map(list, zip(*pairs, strict=True))
    assume(np.std(control) > 1e-3)
    effect = stats.paired_effect(differences, control)
    with np.errstate(all="ignore"):
        line = scipy_stats.linregress(control, differences)
    assume(math.isfinite(line.intercept_stderr))
    assert effect.log_ratio == pytest.approx(line.intercept, abs=1e-7)
    assert effect.error == pytest.approx(line.intercept_stderr, abs=1e-6)


def test_control_removes_the_part_that_it_explains():
    shifts = [0.0, 0.25, -0.01, -0.22, 0.02, 0.0]
    noise = [0.001, -0.002, 0.0, 0.001, 0.002, -0.001]
    differences = [0.05 + 1.2 * shift + error for shift, error in zip(shifts, noise, strict=True)]
    without, with_control = stats.paired_effect(differences), stats.paired_effect(differences, shifts)
    assert without.error > 0.04
    assert with_control.error < 0.002
    assert with_control.log_ratio == pytest.approx(0.05, abs=0.003)


@given(several_logs, several_logs, st.floats(1, 1.5), st.floats(0.001, 0.5))
def test_p_value_says_whether_the_interval_lies_beyond_the_margin(one, other, margin, alpha):
    effect = stats.unpaired_effect(one, other)
    interval = effect.interval(1 - alpha)
    assume(abs(effect.p_beyond(margin) - alpha) > 1e-9)
    is_beyond = interval.low > margin or interval.high < 1 / margin
    assert (effect.p_beyond(margin) < alpha) == is_beyond


@given(several_logs, several_logs, st.floats(1, 1.5))
def test_exchanging_sides_inverts_the_interval_and_not_the_p_value(one, other, margin):
    there, back = stats.unpaired_effect(one, other), stats.unpaired_effect(other, one)
    assert there.log_ratio == -back.log_ratio
    assert there.p_beyond(margin) == pytest.approx(back.p_beyond(margin), abs=1e-12)
    assert there.interval().low == pytest.approx(1 / back.interval().high, rel=1e-9)


@pytest.mark.parametrize("effect", [stats.unpaired_effect([1.0], [2.0, 2.1]), stats.paired_effect([0.5])])
def test_one_process_has_no_interval_and_no_verdict(effect):
    assert (effect.interval().low, effect.interval().high) == (0.0, math.inf)
    assert effect.p_beyond(1.0) == 1.0
    assert effect.detectable(1.0, 0.05) == math.inf


def test_processes_with_equal_bits_have_an_interval_of_no_width():
    effect = stats.unpaired_effect([1.0, 1.0], [1.1, 1.1])
    assert effect.interval().low == effect.interval().high == pytest.approx(math.exp(0.1))
    assert effect.p_beyond(1.03) == 0.0
    assert effect.p_beyond(1.2) == 1.0


def test_smallest_detectable_change_is_found_four_times_out_of_five():
    draws = np.random.default_rng(0).normal(0, 0.01, (4000, 2, 5))
    margin, alpha = 1.03, 0.05
    ratio = np.median([stats.unpaired_effect(*draw).detectable(margin, alpha) for draw in draws[:200]])
    is_found = [stats.unpaired_effect(d[0], d[1] + math.log(ratio)).p_beyond(margin) <= alpha for d in draws]
    assert 0.7 < np.mean(is_found) < 0.92


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_no_correction_and_bonferronis(p_values):
    adjusted = stats.holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, raw * len(p_values) + 1e-12)
    assert min(adjusted) == min(1.0, min(p_values) * len(p_values))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20, unique=True))
def test_holm_keeps_the_order_of_the_p_values(p_values):
    adjusted = dict(zip(p_values, stats.holm(p_values), strict=True))
    assert [adjusted[p] for p in sorted(p_values)] == sorted(adjusted.values())
