"""Points of change in series whose truth is known, and the history of hand-made records."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.judging import change_points
from mlpbench.reporting.section import ReportData
from mlpbench.reporting.sections import history
from tests.strategies import ENVIRONMENT, blocks, measurement, replicated, results, session

OTHER_STACK = replace(ENVIRONMENT, torch="2.12.0")


def sections(records):
    return history.make(ReportData(results=records, target=0.9)).sections


def series(seed: int, *levels: tuple[int, float], noise: float = 0.01) -> list[float]:
    """Levels of given lengths, in noise with heavy tails."""
    values = np.concatenate([np.full(length, level) for length, level in levels])
    tails = np.random.default_rng(seed).standard_t(3, len(values))
    return (values * np.exp(noise * tails)).tolist()


@st.composite
def any_series(draw: st.DrawFn) -> list[float]:
    levels = draw(st.lists(st.tuples(st.integers(1, 12), st.floats(0.5, 2)), min_size=1, max_size=4))
    return series(draw(st.integers(0, 10**6)), *levels, noise=draw(st.sampled_from([0.002, 0.01, 0.05])))


def at(number: int, milliseconds: list[list[float]], name: str = "", environment=ENVIRONMENT, **changes):
    """What a commit measured on a day of January 2026."""
    return replicated(
        milliseconds,
        run=f"{name}{number}-",
        started_at=f"2026-01-{number + 1:02}T00:00:00+00:00",
        environment=replace(environment, commit=f"c{number}"),
        **changes,
    )


def daily(milliseconds: list[float], name: str = "", **changes) -> list:
    return [record for day, ms in enumerate(milliseconds) for record in at(day, [[ms] * 3], name, **changes)]


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.04])
@pytest.mark.parametrize("length", [5, 10, 30, 100])
def test_noise_is_no_change(noise, length):
    false_alarms = [
        seed for seed in range(100) if change_points.change_points(series(seed, (length, 2.0), noise=noise))
    ]
    assert len(false_alarms) <= 2, false_alarms


@pytest.mark.parametrize("ratio", [0.8, 0.93, 1.08, 1.5])
def test_one_step_is_found_where_it_is(ratio):
    found = [change_points.change_points(series(seed, (20, 1.0), (10, ratio), noise=0.005)) for seed in range(20)]
    assert found.count([20]) >= 19


def test_two_steps_are_found():
    assert change_points.change_points(series(1, (15, 1.0), (12, 1.2), (9, 0.9))) == [15, 27]
    assert change_points.change_points(series(1, (15, 1.0), (2, 1.5), (9, 1.0))) == [15, 17]


@pytest.mark.parametrize("place", [0, 1, 7, 18])
@pytest.mark.parametrize("factor", [0.2, 1.5, 10])
def test_an_outlier_is_no_change(place, factor):
    values = series(2, (20, 1.0))
    values[place] *= factor
    assert change_points.change_points(values) == []


def test_an_outlier_does_not_hide_a_step():
    values = series(2, (20, 1.0), (6, 1.2))
    values[5] *= 3
    assert change_points.change_points(values) == [20]


@pytest.mark.parametrize(("ratio", "expected"), [(1.02, []), (1.15, []), (1.6, [20])])
def test_the_last_point_alone_is_a_change_only_far_beyond_noise(ratio, expected):
    assert change_points.change_points([*series(3, (20, 1.0)), ratio]) == expected


def test_the_last_point_alone_is_no_change_near_the_margin_even_without_noise():
    assert change_points.change_points([1.0] * 20 + [1.05]) == []
    assert change_points.change_points([1.0] * 20 + [1.05] * 2) == [20]


@pytest.mark.parametrize(("ratio", "expected"), [(1.02, []), (0.98, []), (1.04, [50]), (0.96, [50])])
def test_a_step_within_the_margin_is_no_change(ratio, expected):
    values = series(4, (50, 1.0), (50, ratio), noise=0.0005)
    assert change_points.change_points(values) == expected
    assert change_points.change_points(values, margin_ratio=1.01) == [50]


@given(any_series())
def test_neighbouring_levels_differ_by_the_margin_and_have_two_points(values):
    changes = change_points.change_points(values)
    parts = np.split(np.array(values), changes)
    levels = np.log([np.median(part) for part in parts])
    assert all(abs(np.diff(levels)) > math.log(1.03) - 1e-3)  # the median of two is another one on the log scale
    assert all(len(part) >= 2 for part in parts[:-1])


@given(any_series() | st.lists(st.integers(1, 8), max_size=12), st.sampled_from([1e-9, 0.3, 1000, 2**20]))
def test_the_unit_does_not_matter(values, unit):
    assert change_points.change_points([value * unit for value in values]) == change_points.change_points(values)


@given(any_series())
def test_the_direction_of_time_does_not_matter(values):
    forward = change_points.change_points(values)
    backward = change_points.change_points(values[::-1])
    if len(values) - 1 not in forward + backward:  # a last point alone has no mirror image
        assert [len(values) - index for index in reversed(backward)] == forward


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 9.0], [2.0] * 5])
def test_what_cannot_change_does_not(values):
    assert change_points.change_points(values) == []


def test_a_point_is_a_commit_on_a_day():
    dirty = replace(ENVIRONMENT, dirty=True)
    records = [
        at(0, [[1, 2, 3], [4, 4, 4], [9, 9, 9]], control_ms=[5, 6, 8]),
        at(1, [[1, 1, 1]], "x"),
        at(1, [[3, 3, 3]], "y"),
        at(1, [[3, 3, 3]], "dirty", environment=dirty),
        at(2, [[7, 7, 7]], environment=OTHER_STACK),
    ]
    frame = history.frame(results(*records)).sort_values(["started_at", "commit"])
    assert frame["commit"].tolist() == ["c0", "c1", "c1-dirty", "c2"]
    assert frame["torch"].tolist() == ["2.11.0"] * 3 + ["2.12.0"]
    assert frame["median_s"].tolist() == pytest.approx([0.004, 0.002, 0.003, 0.007])
    assert frame["low_s"].tolist() == pytest.approx([0.002, 0.001, 0.003, 0.007])
    assert frame["high_s"].tolist() == pytest.approx([0.009, 0.003, 0.003, 0.007])
    assert frame["num_processes"].tolist() == [3, 2, 1, 1]
    assert frame["control_s"].tolist() == pytest.approx([0.006, math.nan, math.nan, math.nan], nan_ok=True)
    assert set(frame["machine"]) == {ENVIRONMENT.machine}
    assert set(frame["benchmark"]) == {"operations/train_step"}


def test_rows_are_in_order_of_time_whatever_the_order_of_the_files():
    days = [at(day, [[1.0]]) for day in (3, 0, 2, 1)]
    later = at(0, [[1.0]], "later", environment=replace(ENVIRONMENT, torch="2.1"))
    later[0] = replace(later[0], started_at="2026-01-01T12:00:00+00:00")
    frame = history.frame(results(later, *days))
    assert frame["commit"].tolist() == ["c0", "c0", "c1", "c2", "c3"]
    assert frame["torch"].tolist() == ["2.11.0", "2.1", *["2.11.0"] * 3]


def test_a_commit_is_measured_anew_each_day():
    again = [replace(record, started_at="2026-01-09") if hasattr(record, "started_at") else record
             for record in at(0, [[2.0]], "again")]  # fmt: skip
    assert history.frame(results(at(0, [[1.0]]), again))["median_s"].tolist() == pytest.approx([0.001, 0.002])


def test_sides_and_measurements_cut_short_do_not_count():
    cut = [session("cut"), measurement("cut", session="cut", rounds=2), *blocks("cut", [9.0])]
    records = [daily([1.0, 1.0]), at(3, [[9.0]], side="a"), cut]
    assert history.frame(results(*records))["median_s"].tolist() == pytest.approx([0.001, 0.001])


def test_levels_are_the_medians_of_their_points():
    frame = history.frame(results(daily([1.0, 1.01, 1.0, 1.02, 1.5, 1.51, 1.53])))
    assert frame["is_change"].tolist() == [False] * 4 + [True] + [False] * 2
    assert frame["level_s"].tolist() == pytest.approx([0.001005] * 4 + [0.00151] * 3)
    assert frame["change"].dropna().tolist() == pytest.approx([1.51 / 1.005 - 1])


def drifting(environments) -> list:
    """The machine gets slower after four days, the benchmark itself after eight."""
    records = []
    for day, environment in enumerate(environments):
        machine, code = (1.3 if day >= 4 else 1.0), (1.2 if day >= 8 else 1.0)
        wobble = 1 + 0.004 * (day % 3)
        times = [[machine * code * wobble] * 3]
        records += at(day, times, control_ms=[5 * machine], environment=environment)
    return records


def test_a_change_of_the_machine_is_none_of_the_benchmark():
    frame = history.frame(results(drifting([ENVIRONMENT] * 12)))
    assert np.flatnonzero(frame["is_change"]).tolist() == [8]
    assert frame["change"][8] == pytest.approx(0.2, abs=0.01)
    assert frame["level_s"][11] == pytest.approx(1.3e-3 * 1.2, rel=0.01)


def test_a_control_of_another_stack_is_none():
    frame = history.frame(results(drifting([ENVIRONMENT] * 6 + [OTHER_STACK] * 6)))
    assert np.flatnonzero(frame["is_change"]).tolist() == [4, 8]


@pytest.mark.parametrize("records", [[], [session()], at(0, [[1.0], [2.0]]), at(0, [[1.0]]) + at(1, [[1.0]], side="b")])
def test_without_two_points_there_is_no_history(records):
    assert history.frame(results(*records)).empty
    assert sections(results(*records)) == ()


def test_the_section_has_what_changed_first():
    steady = daily([2.0, 2.01, 2.0, 2.02, 2.0, 2.01], "steady", operation="forward")
    (section,) = sections(results(steady, daily([1.0, 1.01, 1.0, 0.8, 0.8, 0.81])))
    first, second = section.frame.to_dict("records")
    assert (first["benchmark"], second["benchmark"]) == ("operations/train_step", "operations/forward")
    assert first["change"] == pytest.approx(-0.2)
    assert (first["changed_on"], first["changed_at"]) == ("2026-01-04", "c3")
    assert first["latest_s"] == pytest.approx(0.00081)
    assert first["level_s"] == pytest.approx(0.0008)
    assert (first["num_changes"], second["num_changes"]) == (1, 0)
    assert math.isnan(second["change"])
    assert section.alt.endswith("operations/train_step -20.0% on 2026-01-04 at c3; 1 without a change.")
    assert "not drawn" not in section.text
    assert len(section.figure.axes) == 2


def test_a_large_gain_comes_before_a_small_loss():
    small = daily([1.0, 1.01, 1.0, 1.1, 1.11, 1.1], "small", operation="forward")
    (section,) = sections(results(small, daily([1.0, 1.01, 1.0, 0.5, 0.51, 0.5])))
    assert section.frame["change"].tolist() == pytest.approx([-0.5, 0.1])


def test_a_change_that_came_with_another_torch_says_so():
    records = [
        at(day, [[1 + 0.5 * (day > 2)]], environment=OTHER_STACK if day > 2 else ENVIRONMENT) for day in range(6)
    ]
    (section,) = sections(results(*records))
    assert section.frame["changed_at"].tolist() == ["c3, torch 2.12.0"]


def test_lines_mark_the_changes_in_the_figure():
    (section,) = sections(results(daily([1.0, 1.01, 1.0, 1.5, 1.51, 1.5])))
    (axes,) = section.figure.axes
    assert [line.get_xdata() for line in axes.lines if line.get_color() == "#d55e00"] == [[3, 3]]
    assert axes.get_yscale() == "log"
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("2026-01-01\nc0", "2026-01-06\nc5")


def test_the_figure_has_at_most_twelve_benchmarks_and_the_text_says_so():
    many = [daily([1.0, 1.0, 1.0], f"n{n}", config=RunConfig(batch_size=n)) for n in range(1, 15)]
    (section,) = sections(results(*many, daily([1.0, 1.0, 2.0, 2.0], "changed")))
    assert len(section.figure.axes) == 12
    assert section.figure.axes[0].get_title(loc="left") == "operations/train_step"
    assert "3 are not drawn" in section.text
    assert len(section.frame) == 15
