"""Compute intervals, effects and p values, as pure functions on numbers.

With too few values for the asked confidence, an interval is as wide as the values justify, or unbounded. It is never
too narrow. What compares refuses numbers from which nothing follows: nan, infinity, and times that are not above 0.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from mlpbench.errors import InputError

# A test of correlation at this level, on one side, widens every tenth interval of independent pairs.
_CORRELATION_LEVEL = 0.1
# The widening is for an upper bound of the correlation that is too low 3 times out of 10. A safer bound would make
# nearly every such interval useless, and would prevent few false alarms more.
_WIDENING_LEVEL = 0.3
# Twelve pairs cannot tell a stronger correlation from a change that lasts.
_MAX_CORRELATION = 0.95
_MOST_REPLICATES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Hold an estimate between two bounds."""

    estimate: float
    low: float
    high: float
    coverage: float
    """The share of repetitions in which such bounds contain the true value."""


def _finite(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the values as an array.

    Raises:
        InputError: if there is none, or one of them is nan or infinite.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(f"statistics need finite numbers, not {[float(x) for x in array[~np.isfinite(array)]][:3]}")
    return array


def check_ratio(ratio: float, name: str, most: float = sys.float_info.max) -> None:
    """Check a ratio that bounds a change in both directions; `name` says which ratio it is.

    Raises:
        InputError: if it is not a number from 1 to `most`.
    """
    if not 1 <= ratio <= most:
        raise InputError(f"{name} must be a ratio from 1 to {most:g}, for example 1.05 for 5 %, not {ratio}")


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median, between two order statistics.

    The values must be independent; their distribution does not matter. A confidence of 95 % needs 6 values or more.
    With fewer, the bounds are the smallest and the largest value, and `coverage` is lower than asked for.

    >>> median_interval([3, 1, 2, 5, 4])
    Interval(estimate=3.0, low=1.0, high=5.0, coverage=0.9375)

    Source: H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    ordered = sorted(_finite(values).tolist())
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
    for side in (baseline, contender):
        if len(side) == 0 or min(side) <= 0:
            raise InputError("a ratio needs times above 0; measure again")
    logs = np.log(_finite(contender)) - np.log(_finite(baseline))
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

    The mean of a run that diverged is nan, and so are its bounds.

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
class Correlation:
    """Describe how far successive values resemble each other."""

    estimate: float
    """Young's C: 0 for independent values on average, towards 1 for values that hardly change from one to the next."""
    is_significant: bool
    """True if independent values rarely have such an estimate: 1 time out of 10."""
    widening: float
    """The factor for the error of a mean, for an upper bound of the correlation; at least 1."""
    largest_widening: float
    """The same for a bound that is rarely too low: 1 time out of 10."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """Hold the estimate of a change, on the log scale."""

    log_ratio: float
    error: float
    """The standard error of the estimate."""
    df: int | float
    """The degrees of freedom of that error; below 1 there is no estimate of it."""
    correlation: Correlation | None = field(default=None, repr=False)
    """The correlation of successive pairs, which the error does not contain. None: no pairs, or too few."""

    def widened(self, factor: float) -> "Effect":
        """Return the effect with an error that is larger by this factor."""
        return replace(self, error=self.error * factor)

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
        check_ratio(margin_ratio, "a margin")
        if self.df < 1:
            return 1.0
        beyond = abs(self.log_ratio) - math.log(margin_ratio)
        if self.error == 0:
            return 0.0 if beyond > 0 else 1.0
        return min(2 * float(scipy_stats.t.sf(beyond / self.error, self.df)), 1.0)

    def detectable(self, margin_ratio: float, alpha: float, power: float = 0.8) -> float:
        """Return the smallest true ratio above 1 that would be found beyond the margin with the probability `power`."""
        check_ratio(margin_ratio, "a margin")
        if self.df < 1:
            return math.inf
        quantiles = sum(float(scipy_stats.t.ppf(share, self.df)) for share in (1 - alpha / 2, power))
        return _exp(math.log(margin_ratio) + quantiles * self.error)

    def replicates_for(self, ratio: float, replicates: int, margin_ratio: float, alpha: float) -> int | None:
        """Estimate how many replicates would detect a change of this ratio, if their noise stays the same.

        Args:
            ratio: the true change to detect.
            replicates: the number of pairs, or of processes on each side, behind this effect.
            margin_ratio: as in `detectable`.
            alpha: as in `detectable`.

        Returns:
            The number of pairs, or of processes on each side; None if no number is enough or none can be estimated.
        """
        if self.df < 1 or ratio <= margin_ratio:
            return None

        def is_enough(count: int) -> bool:
            share = count / replicates
            grown = replace(self, error=self.error / math.sqrt(share), df=self.df * share)
            return grown.detectable(margin_ratio, alpha) <= ratio

        low, high = replicates, replicates
        while not is_enough(high):
            low, high = high, 2 * high
            if high > _MOST_REPLICATES:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_enough(middle) else (middle, high)
        return high


def correlation(values: Sequence[float]) -> Correlation | None:
    """Return the correlation of successive values; None for fewer than four, from which nothing follows.

    The estimate is Young's C, one minus half of von Neumann's ratio. Its mean for independent values is 0, which that
    of an autocorrelation is not. In a series with the autocorrelation r at distance 1, r^2 at distance 2 and so on,
    the expected C and the true error of the mean are known functions of r. So an upper bound of r is the largest one
    whose expected C lies within the noise of the estimate.

    Source: L. C. Young, On randomness in ordered sequences, 1941; J. von Neumann, Distribution of the ratio of the mean
    square successive difference to the variance, 1941.

    >>> correlation([1.0, -1.0, 1.0, -1.0]).is_significant, correlation([1.0, 1.1, 1.2, 1.4, 1.5, 1.5]).is_significant
    (False, True)
    """
    array = _finite(values)
    n = len(array)
    if n < 4:
        return None
    deviations = array - array.mean()
    # Values that differ by rounding alone show nothing.
    if float(np.abs(deviations).max()) <= 1e-12:
        return Correlation(estimate=0.0, is_significant=False, widening=1.0, largest_widening=1.0)
    estimate = 1 - float(np.sum(np.diff(array) ** 2)) / (2 * float(np.sum(deviations**2)))
    error = math.sqrt((n - 2) / (n**2 - 1))
    strengths = np.linspace(0, _MAX_CORRELATION, 96)
    lags = np.arange(1, n)
    # The mean correlation of all pairs of values, each with itself too.
    mean = (1 + 2 * ((1 - lags / n) * strengths[:, None] ** lags).sum(axis=1)) / n
    expected = 1 - (1 - strengths) * (n - 1) / (n * (1 - mean))

    def widening(level: float) -> float:
        possible = mean[expected <= estimate + error * float(scipy_stats.norm.isf(level))]
        largest = float(possible[-1]) if len(possible) else 1 / n
        # The true variance of a mean over the one that independent values with this spread would have.
        return max(math.sqrt(largest * (n - 1) / (1 - largest)), 1.0)

    return Correlation(
        estimate=estimate,
        is_significant=estimate > error * float(scipy_stats.norm.isf(_CORRELATION_LEVEL)),
        widening=widening(_WIDENING_LEVEL),
        largest_widening=widening(_CORRELATION_LEVEL),
    )


def paired_effect(differences: Sequence[float], control: Sequence[float] | None = None) -> Effect:
    """Return the mean of the pairs' log ratios; with `control`, their mean at a log ratio of the control of 0.

    The control is a covariate. A machine that is slower for one process of a pair slows control and benchmark together.
    A straight line through the pairs removes that part. The error is that of independent pairs; `correlation` tells how
    far they are, if the differences are in the order of time.

    Source: R. A. Fisher, Statistical Methods for Research Workers, section 49.1 (analysis of covariance).

    >>> round(paired_effect([0.30, 0.10, 0.11], [0.20, 0.0, 0.01]).log_ratio, 6)
    0.1
    """
    values = _finite(differences)
    design = np.ones((len(values), 1))
    # A control that never moves explains nothing.
    if control is not None and np.std(_finite(control)) > 1e-9:
        design = np.column_stack([design, _finite(control)])
    df = len(values) - design.shape[1]
    if df < 1:
        return Effect(log_ratio=float(values.mean()), error=math.inf, df=0)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residuals = values - design @ coefficients
    inverse = np.linalg.pinv(design.T @ design)
    error = math.sqrt(float(residuals @ residuals) / df * float(inverse[0, 0]))
    return Effect(log_ratio=float(coefficients[0]), error=error, df=df, correlation=correlation(residuals.tolist()))


def unpaired_effect(baseline: Sequence[float], contender: Sequence[float]) -> Effect:
    """Return the difference of the means of log times, with Welch's error.

    >>> unpaired_effect([0.0, 0.0], [0.5, 0.5])
    Effect(log_ratio=0.5, error=0.0, df=2)

    Source: B. L. Welch, The generalization of "Student's" problem when several different population variances are
    involved, 1947.
    """
    one, other = _finite(baseline), _finite(contender)
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
