"""Compute intervals, effects and p values, as pure functions on numbers.

With too few values for the asked confidence, an interval is as wide as the values justify, or unbounded. It is never
too narrow.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Hold an estimate between two bounds."""

    estimate: float
    low: float
    high: float
    coverage: float
    """The share of repetitions in which such bounds contain the true value."""


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median, between two order statistics.

    The values must be independent; their distribution does not matter. A confidence of 95 % needs 6 values or more.
    With fewer, the bounds are the smallest and the largest value, and `coverage` is lower than asked for.

    >>> median_interval([3, 1, 2, 5, 4])
    Interval(estimate=3.0, low=1.0, high=5.0, coverage=0.9375)

    Source: H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    ordered = sorted(map(float, values))
    n = len(ordered)
    coin = scipy_stats.binom(n, 0.5)
    # The k-th smallest and the k-th largest value miss the median if at most k - 1 values lie on one side of it.
    best = 1
    for k in range(2, n // 2 + 1):
        if 1 - 2 * coin.cdf(k - 1) >= confidence:
            best = k
    coverage = float(max(1 - 2 * coin.cdf(best - 1), 0.0))
    return Interval(estimate=float(np.median(ordered)), low=ordered[best - 1], high=ordered[-best], coverage=coverage)


def ratio_interval(baseline: Sequence[float], contender: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return contender over baseline for paired values: the median of the ratios, as in `median_interval`.

    It is a median, because one disturbed round would move a mean. It is computed on the log scale, so that exchanging
    the two sides gives the inverse. With fewer than two pairs the interval is unbounded.

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
    """Return the mean of independent values with its t interval; unbounded with fewer than two values.

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
    """Return a share of trials with Wilson's interval.

    >>> share_interval(3, 3).high
    1.0
    """
    bounds = scipy_stats.binomtest(num_hits, num_trials).proportion_ci(confidence, method="wilson")
    return Interval(estimate=num_hits / num_trials, low=float(bounds.low), high=float(bounds.high), coverage=confidence)


def first_at_least(values: Sequence[float], target: float) -> int | None:
    """Return the index of the first value that reaches the target; None is a miss.

    >>> first_at_least([0.5, 0.9, 0.8], 0.8), first_at_least([0.5], 0.8)
    (1, None)
    """
    return next((index for index, value in enumerate(values) if value >= target), None)


def median_with_misses(values: Sequence[float | None]) -> float:
    """Return the median, where a miss counts as infinitely late; infinite if the middle value is a miss.

    For an even number of values it is the upper of the two middle values, because the lower one would be too
    optimistic.

    >>> median_with_misses([3.0, None, 1.0]), median_with_misses([None, 1.0])
    (3.0, inf)
    """
    ordered = sorted(math.inf if value is None else value for value in values)
    return ordered[len(ordered) // 2]


# --- comparing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """Hold the estimate of a change, on the log scale."""

    log_ratio: float
    error: float
    """The standard error of the estimate."""
    df: int | float
    """The degrees of freedom of that error; below 1 there is no estimate of it."""

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the ratio with its t interval; unbounded if the error could not be estimated."""
        if self.df < 1:
            return Interval(estimate=_exp(self.log_ratio), low=0.0, high=math.inf, coverage=1.0)
        half_width = float(scipy_stats.t.ppf((1 + confidence) / 2, self.df)) * self.error
        return Interval(
            estimate=_exp(self.log_ratio),
            low=_exp(self.log_ratio - half_width),
            high=_exp(self.log_ratio + half_width),
            coverage=confidence,
        )

    def p_beyond(self, margin_ratio: float) -> float:
        """Return the two-sided p value of the hypothesis that the ratio lies between 1/margin and margin.

        It is at most alpha exactly if the whole 1 - alpha interval lies outside of these bounds.
        """
        if self.df < 1:
            return 1.0
        beyond = abs(self.log_ratio) - math.log(margin_ratio)
        if self.error == 0:
            return 0.0 if beyond > 0 else 1.0
        return min(2 * float(scipy_stats.t.sf(beyond / self.error, self.df)), 1.0)

    def detectable(self, margin_ratio: float, alpha: float, power: float = 0.8) -> float:
        """Return the smallest true ratio above 1 that would be found beyond the margin with the probability `power`."""
        if self.df < 1:
            return math.inf
        quantiles = sum(float(scipy_stats.t.ppf(share, self.df)) for share in (1 - alpha / 2, power))
        return _exp(math.log(margin_ratio) + quantiles * self.error)


def paired_effect(differences: Sequence[float], control: Sequence[float] | None = None) -> Effect:
    """Return the mean of the pairs' log ratios; with `control`, their mean at a log ratio of the control of 0.

    The control is a covariate. A machine that is slower for one process of a pair slows control and benchmark together.
    A straight line through the pairs removes that part.

    Source: R. A. Fisher, Statistical Methods for Research Workers, section 49.1 (analysis of covariance).

    >>> round(paired_effect([0.30, 0.10, 0.11], [0.20, 0.0, 0.01]).log_ratio, 6)
    0.1
    """
    values = np.asarray(differences, dtype=float)
    design = np.ones((len(values), 1))
    # A control that never moves explains nothing.
    if control is not None and np.std(control) > 1e-9:
        design = np.column_stack([design, np.asarray(control, dtype=float)])
    df = len(values) - design.shape[1]
    if df < 1:
        return Effect(log_ratio=float(values.mean()), error=math.inf, df=0)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residuals = values - design @ coefficients
    inverse = np.linalg.pinv(design.T @ design)
    error = math.sqrt(float(residuals @ residuals) / df * float(inverse[0, 0]))
    return Effect(log_ratio=float(coefficients[0]), error=error, df=df)


def unpaired_effect(baseline: Sequence[float], contender: Sequence[float]) -> Effect:
    """Return the difference of the means of log times, with Welch's error.

    >>> unpaired_effect([0.0, 0.0], [0.5, 0.5])
    Effect(log_ratio=0.5, error=0.0, df=2)

    Source: B. L. Welch, The generalization of "Student's" problem when several different population variances are
    involved, 1947.
    """
    one, other = np.asarray(baseline, dtype=float), np.asarray(contender, dtype=float)
    difference = float(other.mean() - one.mean())
    if min(len(one), len(other)) < 2:
        return Effect(log_ratio=difference, error=math.inf, df=0)
    shares = [float(values.var(ddof=1)) / len(values) for values in (one, other)]
    largest = max(shares)
    if largest == 0:
        return Effect(log_ratio=difference, error=0.0, df=len(one) + len(other) - 2)
    # Divided by the larger one, because the squares of small numbers may underflow to 0.
    parts = [share / largest for share in shares]
    df = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (one, other), strict=True))
    return Effect(log_ratio=difference, error=math.sqrt(sum(shares)), df=df)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values, adjusted for their family.

    The probability that any hypothesis that is true gets an adjusted value of at most alpha is itself at most alpha.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted
