"""Find the points at which the level of a series of times changes."""

import math
from collections.abc import Sequence

import numpy as np

# Chosen on series of 4 to 100 points without a change. At most about 1 in 100 of them gets a false change, in normal
# noise and in Student's noise with 3 degrees of freedom.
_STRENGTH, _FEW_POINTS = 3.0, 4.0


def change_points(values: Sequence[float], margin_ratio: float = 1.03) -> list[int]:
    """Return the indices at which a new segment begins.

    The fit is piecewise constant on the log scale. It minimises the absolute deviations plus a penalty for each change.

    The penalty is 3 ln(n) times the noise, but at least ln(margin). The noise is the median absolute successive
    difference, because a change hardly moves it. Divided by 0.954 it is the standard deviation of normal noise. It is
    multiplied by 1 + 4/n, because few points may agree by chance. Neighbouring segments whose levels lie within the
    margin are joined, the closest first.

    A segment has at least two points, so that an outlier is not a change. The last point is an exception: otherwise
    its change would be reported only with the next point. Alone it is a segment at twice the penalty, that is,
    6 ln(n) times the noise away. Apart from that point, and from exact ties, the result is the same when the series is
    reversed.

    Cost: O(n^2) time and n^2 bytes.
    Source: F. Friedrich, A. Kempe, V. Liebscher and G. Winkler, Complexity Penalized M-Estimation: Fast Computation,
    2008; M. Storath, A. Weinmann and M. Unser, Jump-Penalized Least Absolute Values Estimation of Scalar or
    Circle-Valued Signals, 2017. The functional (L1 Potts) is that of airspeed velocity's step detection.

    Args:
        values: the series, all positive, in the order of time.
        margin_ratio: the smallest change that matters.

    >>> change_points([1.0, 1.01, 1.0, 1.02, 1.5, 1.51, 1.5])
    [4]
    """
    n = len(values)
    # Fewer than three points cannot tell noise from a change.
    if n < 3:
        return []
    ratios = np.asarray(values, dtype=float) / np.median(values)
    # Rounded, so that the same times in another unit give the same numbers.
    logs = np.round(np.log(ratios), 9)
    noise = float(np.median(np.abs(np.diff(logs)))) / 0.954 * (1 + _FEW_POINTS / n)
    penalty = max(_STRENGTH * math.log(n) * noise, math.log(margin_ratio))
    changes = _fit(logs, penalty)
    while changes:
        steps = np.abs(np.diff([np.median(part) for part in np.split(logs, changes)]))
        if steps.min() >= math.log(margin_ratio):
            break
        del changes[int(steps.argmin())]
    return changes


def _fit(logs: np.ndarray, penalty: float) -> list[int]:
    """Return the changes of the best fit.

    Only the values themselves are tried as levels, because the median of a segment can be chosen to be one of them.
    """
    n, levels = len(logs), np.unique(logs)
    # The cost of the best fit of the first t points, for each level on which it can end.
    cost = np.full(len(levels), math.inf)
    # True where the last segment of that fit began two points before t.
    begins = np.zeros((n + 1, len(levels)), dtype=bool)
    # The least cost of the first t points, and the index of its last level.
    best, last = [-penalty, math.inf], [-1, -1]
    for t in range(2, n + 1):
        distance = np.abs(logs[t - 1] - levels)
        stay = cost + distance
        begin = best[t - 2] + penalty + np.abs(logs[t - 2] - levels) + distance
        begins[t] = begin < stay
        cost = np.minimum(begin, stay)
        last.append(int(cost.argmin()))
        best.append(float(cost[last[t]]))
    t = n - 1 if best[n - 1] + 2 * penalty < best[n] else n
    changes = [t] if t < n else []
    while t > 0:
        level = last[t]
        while not begins[t, level]:
            t -= 1
        t -= 2
        changes += [t] if t > 0 else []
    return changes[::-1]
