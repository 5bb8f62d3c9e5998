"""Statistics against brute force, written-out formulas and scipy."""

import math
import statistics
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from mlpbench.stats import (
    first_at_least,
    mean_interval,
    median_interval,
    median_with_misses,
    ratio_interval,
    share_interval,
)

values = st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1, max_size=20)
times = st.floats(min_value=1e-9, max_value=1e5)  # seconds
pairs = st.lists(st.tuples(times, times), min_size=2, max_size=12)


# --- the median -------------------------------------------------------------------------------------------------------


def brute_force_coverage(n: int, k: int) -> float:
    """Each value falls below or above the median by the toss of a coin: how often k or more fall on either side."""
    tosses = list(product([False, True], repeat=n))
    return sum(k <= sum(toss) <= n - k for toss in tosses) / len(tosses)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", range(1, 13))
def test_median_interval_covers_as_often_as_brute_force_counts(n, confidence):
    interval = median_interval(range(1, n + 1), confidence)
    k = int(interval.low)  # of the values 1 to n, the k-th smallest is k
    assert interval.high == n + 1 - k
    assert interval.coverage == pytest.approx(brute_force_coverage(n, k))


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", range(1, 13))
def test_median_interval_is_the_narrowest_that_is_confident_or_the_whole_range(n, confidence):
    interval = median_interval(range(1, n + 1), confidence)
    k = int(interval.low)
    assert k == 1 or interval.coverage >= confidence
    assert 2 * (k + 1) > n or brute_force_coverage(n, k + 1) < confidence


def test_median_interval_of_one_value_is_that_value_without_coverage():
    interval = median_interval([3.0])
    assert (interval.low, interval.estimate, interval.high, interval.coverage) == (3.0, 3.0, 3.0, 0.0)


@given(values)
def test_median_is_the_textbooks_and_lies_in_its_interval(sample):
    interval = median_interval(sample)
    assert interval.estimate == statistics.median(sample)
    assert interval.low <= interval.estimate <= interval.high
    assert {interval.low, interval.high} <= set(sample)


@given(values.flatmap(lambda sample: st.tuples(st.just(sample), st.permutations(sample))))
def test_median_interval_does_not_depend_on_order(orders):
    first, second = orders
    assert median_interval(first) == median_interval(second)


@given(values, st.integers(-40, 40))
def test_median_interval_scales_exactly_by_powers_of_two(sample, exponent):
    sample = [float(round(value, 3)) for value in sample]  # no subnormals, which a power of two may round
    one, scaled = median_interval(sample), median_interval([value * 2.0**exponent for value in sample])
    assert scaled.estimate == one.estimate * 2.0**exponent
    assert (scaled.low, scaled.high) == (one.low * 2.0**exponent, one.high * 2.0**exponent)
    assert scaled.coverage == one.coverage


# --- ratios and means -------------------------------------------------------------------------------------------------


@given(pairs)
def test_exchanging_baseline_and_contender_gives_the_inverse_ratio(sample):
    baseline, contender = zip(*sample, strict=True)
    one, other = ratio_interval(baseline, contender), ratio_interval(contender, baseline)
    assert one.estimate * other.estimate == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)
    assert one.high * other.low == pytest.approx(1)


@given(pairs)
def test_ratio_interval_is_the_median_interval_of_the_log_ratios(sample):
    baseline, contender = zip(*sample, strict=True)
    interval = ratio_interval(baseline, contender, confidence=0.9)
    of_logs = median_interval([math.log(c) - math.log(b) for b, c in sample], 0.9)
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
def test_mean_interval_is_scipys_t_interval(confidence, sample):
    interval = mean_interval(sample, confidence)
    mean, standard_error = statistics.fmean(sample), scipy_stats.sem(sample)
    bounds = scipy_stats.t.interval(confidence, len(sample) - 1, loc=mean, scale=standard_error)
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
def test_share_interval_narrows_as_trials_are_repeated_and_stays_in_its_range(trials):
    widths = []
    for factor in (1, 4, 16):
        interval = share_interval(trials * factor, trials * factor)
        assert 0 <= interval.low < interval.high <= 1
        widths.append(interval.high - interval.low)
    assert all(one > next_one for one, next_one in pairwise(widths))


# --- targets ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), max_size=10), st.floats(0, 1))
def test_first_at_least_is_the_first_and_none_is_a_miss(curve, target):
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
def test_median_with_misses_is_the_high_median_with_misses_infinitely_late(sample):
    late = [math.inf if value is None else value for value in sample]
    assert median_with_misses(sample) == statistics.median_high(late)


@given(arrivals)
def test_more_than_half_arrive_by_a_finite_median(sample):
    median = median_with_misses(sample)
    arrived = sum(value is not None and value <= median for value in sample)
    assert arrived > len(sample) / 2 or median == math.inf
    assert (median == math.inf) == (sample.count(None) >= len(sample) / 2)


@given(arrivals)
def test_a_further_miss_never_makes_the_median_earlier(sample):
    assert median_with_misses([*sample, None]) >= median_with_misses(sample)
