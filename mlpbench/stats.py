"""Statistics as pure functions on numbers.

An interval that cannot be computed at the asked confidence is as wide as it can honestly be, never narrow.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate between two bounds; `coverage` is the share of repetitions in which such bounds hold the truth."""

    estimate: float
    low: float
    high: float
    coverage: float


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The median between two order statistics; no assumption on the distribution but that values are independent.

    With too few values for the confidence (fewer than 6 for 95 %) the bounds are the smallest and largest value, and
    `coverage` says what that is worth.

    >>> median_interval([3, 1, 2, 5, 4])
    Interval(estimate=3.0, low=1.0, high=5.0, coverage=0.9375)

    Source: H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    ordered = sorted(map(float, values))
    n = len(ordered)
    coin = scipy_stats.binom(n, 0.5)
    # Bounds k-th smallest and k-th largest miss the median when at most k - 1 values fall on one side of it.
    best = 1
    for k in range(2, n // 2 + 1):
        if 1 - 2 * coin.cdf(k - 1) >= confidence:
            best = k
    coverage = float(max(1 - 2 * coin.cdf(best - 1), 0.0))
    return Interval(estimate=float(np.median(ordered)), low=ordered[best - 1], high=ordered[-best], coverage=coverage)


def ratio_interval(baseline: Sequence[float], contender: Sequence[float], confidence: float = 0.95) -> Interval:
    """Contender over baseline for values that belong in pairs: the median of the pairs' ratios, as `median_interval`.

    A median, because one round in which something else ran would move a mean. On the log scale, so that exchanging the
    two gives the inverse. Unbounded with fewer than two pairs.

    >>> ratio_interval([2.0, 2.0], [1.0, 1.0]).estimate
    0.5
    """
    logs = np.log(np.asarray(contender, dtype=float)) - np.log(np.asarray(baseline, dtype=float))
    if len(logs) < 2:
        return Interval(estimate=_exp(float(logs[0])), low=0.0, high=math.inf, coverage=1.0)
    interval = median_interval(logs.tolist(), confidence)
    return Interval(
        estimate=_exp(interval.estimate),
        low=_exp(interval.low),
        high=_exp(interval.high),
        coverage=interval.coverage,
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < math.log(sys.float_info.max) else math.inf


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values with a t interval; unbounded with fewer than two.

    >>> mean_interval([1.0])
    Interval(estimate=1.0, low=-inf, high=inf, coverage=1.0)
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(estimate=mean, low=-math.inf, high=math.inf, coverage=1.0)
    half_width = float(scipy_stats.t.ppf((1 + confidence) / 2, len(array) - 1)) * float(
        array.std(ddof=1) / math.sqrt(len(array))
    )
    return Interval(estimate=mean, low=mean - half_width, high=mean + half_width, coverage=confidence)


def share_interval(num_hits: int, num_trials: int, confidence: float = 0.95) -> Interval:
    """A share of trials with Wilson's interval.

    >>> share_interval(3, 3).high
    1.0
    """
    bounds = scipy_stats.binomtest(num_hits, num_trials).proportion_ci(confidence, method="wilson")
    return Interval(estimate=num_hits / num_trials, low=float(bounds.low), high=float(bounds.high), coverage=confidence)


def first_at_least(values: Sequence[float], target: float) -> int | None:
    """Index of the first value that reaches the target; None is a miss.

    >>> first_at_least([0.5, 0.9, 0.8], 0.8), first_at_least([0.5], 0.8)
    (1, None)
    """
    return next((index for index, value in enumerate(values) if value >= target), None)


def median_with_misses(values: Sequence[float | None]) -> float:
    """The median where a miss counts as infinitely late; infinite if the middle is a miss.

    The lower of the two middle values for an even number would flatter; the upper is taken.

    >>> median_with_misses([3.0, None, 1.0]), median_with_misses([None, 1.0])
    (3.0, inf)
    """
    ordered = sorted(math.inf if value is None else value for value in values)
    return ordered[len(ordered) // 2]
