"""Check the change points of series whose true changes are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.judging.change_points import change_points


def series(seed: int, *levels: tuple[int, float], noise: float = 0.01) -> list[float]:
    """Return levels of given lengths, in noise with heavy tails."""
    values = np.concatenate([np.full(length, level) for length, level in levels])
    tails = np.random.default_rng(seed).standard_t(3, len(values))
    return (values * np.exp(noise * tails)).tolist()


@st.composite
def any_series(draw: st.DrawFn) -> list[float]:
    levels = draw(st.lists(st.tuples(st.integers(1, 12), st.floats(0.5, 2)), min_size=1, max_size=4))
    return series(draw(st.integers(0, 10**6)), *levels, noise=draw(st.sampled_from([0.002, 0.01, 0.05])))


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.04])
@pytest.mark.parametrize("length", [5, 10, 30, 100])
def test_noise_is_no_change(noise, length):
    false_alarms = [seed for seed in range(100) if change_points(series(seed, (length, 2.0), noise=noise))]
    assert len(false_alarms) <= 2, false_alarms


@pytest.mark.parametrize("ratio", [0.8, 0.93, 1.08, 1.5])
def test_one_step_is_found_at_its_place(ratio):
    changes = [change_points(series(seed, (20, 1.0), (10, ratio), noise=0.005)) for seed in range(20)]
    assert changes.count([20]) >= 19


def test_two_steps_are_found():
    assert change_points(series(1, (15, 1.0), (12, 1.2), (9, 0.9))) == [15, 27]
    assert change_points(series(1, (15, 1.0), (2, 1.5), (9, 1.0))) == [15, 17]


@pytest.mark.parametrize("place", [0, 1, 7, 18])
@pytest.mark.parametrize("factor", [0.2, 1.5, 10])
def test_outlier_is_no_change(place, factor):
    values = series(2, (20, 1.0))
    values[place] *= factor
    assert change_points(values) == []


def test_outlier_does_not_hide_a_step():
    values = series(2, (20, 1.0), (6, 1.2))
    values[5] *= 3
    assert change_points(values) == [20]


@pytest.mark.parametrize(("ratio", "expected"), [(1.02, []), (1.15, []), (1.6, [20])])
def test_last_point_alone_is_a_change_only_far_beyond_noise(ratio, expected):
    assert change_points([*series(3, (20, 1.0)), ratio]) == expected


def test_last_point_alone_is_no_change_near_the_margin():
    assert change_points([1.0] * 20 + [1.05]) == []
    assert change_points([1.0] * 20 + [1.05] * 2) == [20]


@pytest.mark.parametrize(("ratio", "expected"), [(1.02, []), (0.98, []), (1.04, [50]), (0.96, [50])])
def test_step_within_the_margin_is_no_change(ratio, expected):
    values = series(4, (50, 1.0), (50, ratio), noise=0.0005)
    assert change_points(values) == expected
    assert change_points(values, margin_ratio=1.01) == [50]


@given(any_series())
def test_segments_differ_by_the_margin_and_have_two_points(values):
    changes = change_points(values)
    parts = np.split(np.array(values), changes)
    levels = np.log([np.median(part) for part in parts])
    # The median of two values is another one on the log scale, therefore the tolerance.
    assert all(abs(np.diff(levels)) > math.log(1.03) - 1e-3)
    assert all(len(part) >= 2 for part in parts[:-1])


@given(any_series() | st.lists(st.integers(1, 8), max_size=12), st.sampled_from([1e-9, 0.3, 1000, 2**20]))
def test_unit_does_not_matter(values, unit):
    assert change_points([value * unit for value in values]) == change_points(values)


@given(any_series())
def test_direction_of_time_does_not_matter(values):
    forward = change_points(values)
    backward = change_points(values[::-1])
    # A last point alone has no mirror image.
    if len(values) - 1 not in forward + backward:
        assert [len(values) - index for index in reversed(backward)] == forward


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 9.0], [2.0] * 5])
def test_series_that_cannot_change_has_no_changes(values):
    assert change_points(values) == []
