"""Test the history of hand-made records."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlpbench.config import RunConfig
from mlpbench.reporting.figures import canvas
from mlpbench.reporting.section import ReportData
from mlpbench.reporting.sections import history
from tests.strategies import ENVIRONMENT, blocks, changed, measurement, replicated, results, session

OTHER_STACK = changed(ENVIRONMENT, torch="2.12.0")


def sections(records):
    return history.make(ReportData(results=records, target=0.9)).sections


def at(number: int, milliseconds: list[list[float]], name: str = "", environment=ENVIRONMENT, **changes):
    """Return the records of a commit on a day of January 2026: a list of blocks for each process."""
    return replicated(
        milliseconds,
        run=f"{name}{number}-",
        started_at=f"2026-01-{number + 1:02}T00:00:00+00:00",
        environment=changed(environment, commit=f"c{number}"),
        **changes,
    )


def daily(milliseconds: list[float], name: str = "", **changes) -> list:
    return [record for day, ms in enumerate(milliseconds) for record in at(day, [[ms] * 3], name, **changes)]


def test_point_is_a_commit_on_a_day():
    dirty = changed(ENVIRONMENT, dirty=True)
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


def test_runs_of_changed_source_are_points_of_their_own_unless_the_source_is_known_to_be_equal():
    digests = {"a": "1", "b": "1", "c": "2", "d": None, "e": None}
    environments = {name: changed(ENVIRONMENT, dirty=True, source_digest=digest) for name, digest in digests.items()}
    runs = [at(1, [[1, 1, 1]], name, environment=environment) for name, environment in environments.items()]
    frame = history.frame(results(*runs))
    assert set(frame["commit"]) == {"c1-dirty"}
    assert sorted(frame["num_processes"]) == [1, 1, 1, 2]


def test_rows_are_in_order_of_time():
    days = [at(day, [[1.0]]) for day in (3, 0, 2, 1)]
    later = at(0, [[1.0]], "later", environment=changed(ENVIRONMENT, torch="2.1"))
    later[0] = replace(later[0], started_at="2026-01-01T12:00:00+00:00")
    frame = history.frame(results(later, *days))
    assert frame["commit"].tolist() == ["c0", "c0", "c1", "c2", "c3"]
    assert frame["torch"].tolist() == ["2.11.0", "2.1", *["2.11.0"] * 3]


def test_commit_has_a_point_for_each_day():
    again = [replace(record, started_at="2026-01-09") if hasattr(record, "started_at") else record
             for record in at(0, [[2.0]], "again")]  # fmt: skip
    assert history.frame(results(at(0, [[1.0]]), again))["median_s"].tolist() == pytest.approx([0.001, 0.002])


def test_sides_and_incomplete_measurements_are_left_out():
    cut = [session("cut"), measurement("cut", session="cut", rounds=2), *blocks("cut", [9.0])]
    records = [daily([1.0, 1.0]), at(3, [[9.0]], side="a"), cut]
    assert history.frame(results(*records))["median_s"].tolist() == pytest.approx([0.001, 0.001])


def test_segment_has_the_median_of_its_points():
    frame = history.frame(results(daily([1.0, 1.01, 1.0, 1.02, 1.5, 1.51, 1.53])))
    assert frame["is_change"].tolist() == [False] * 4 + [True] + [False] * 2
    assert frame["level_s"].tolist() == pytest.approx([0.001005] * 4 + [0.00151] * 3)
    assert frame["change"].dropna().tolist() == pytest.approx([1.51 / 1.005 - 1])


def drifting(environments) -> list:
    """Return records of a machine that gets slower after four days, and a benchmark that does after eight."""
    records = []
    for day, environment in enumerate(environments):
        machine, code = (1.3 if day >= 4 else 1.0), (1.2 if day >= 8 else 1.0)
        wobble = 1 + 0.004 * (day % 3)
        times = [[machine * code * wobble] * 3]
        records += at(day, times, control_ms=[5 * machine], environment=environment)
    return records


def test_change_of_the_machine_is_not_a_change_of_the_benchmark():
    frame = history.frame(results(drifting([ENVIRONMENT] * 12)))
    assert np.flatnonzero(frame["is_change"]).tolist() == [8]
    assert frame["change"][8] == pytest.approx(0.2, abs=0.01)
    assert frame["level_s"][11] == pytest.approx(1.3e-3 * 1.2, rel=0.01)


@pytest.mark.parametrize("upgrade", [6, 10, 11])
def test_control_is_used_within_each_stack(upgrade):
    stacks = [ENVIRONMENT] * upgrade + [OTHER_STACK] * (12 - upgrade)
    frame = history.frame(results(drifting(stacks)))
    assert np.flatnonzero(frame["is_change"]).tolist() == [8]


def test_two_modes_of_the_machine_and_another_stack_are_no_change():
    draw = np.random.default_rng(0)
    for _ in range(20):
        modes = np.where(draw.random(20) < 0.5, 1.7, 1.0)
        noise = np.exp(draw.normal(0, 0.01, 20))
        upgrade = int(draw.integers(15, 20))
        records = [
            record
            for day in range(20)
            for record in at(
                day,
                [[modes[day] * noise[day]] * 3],
                control_ms=[5 * modes[day]],
                environment=OTHER_STACK if day >= upgrade else ENVIRONMENT,
            )
        ]
        assert not history.frame(results(*records))["is_change"].any()


@pytest.mark.parametrize(("control", "num_changes"), [(1.0, 1), (1.3, 0)])
def test_change_by_another_stack_counts_unless_the_control_moves_too(control, num_changes):
    records = [
        record
        for day in range(12)
        for record in at(
            day,
            [[(1.3 if day >= 6 else 1.0) * (1 + 0.004 * (day % 3))] * 3],
            control_ms=[5 * (control if day >= 6 else 1.0)],
            environment=OTHER_STACK if day >= 6 else ENVIRONMENT,
        )
    ]
    assert history.frame(results(*records))["is_change"].sum() == num_changes


def test_stack_that_comes_back_has_its_old_level():
    stacks = [OTHER_STACK if day in (4, 5, 9) else ENVIRONMENT for day in range(12)]
    records = [
        record
        for day, stack in enumerate(stacks)
        for record in at(
            day,
            [[(1.2 if stack is OTHER_STACK else 1.0) * (1 + 0.004 * (day % 3))] * 3],
            control_ms=[5.0],
            environment=stack,
        )
    ]
    assert np.flatnonzero(history.frame(results(*records))["is_change"]).tolist() == [4, 6]


def test_day_of_a_point_is_that_of_utc():
    zones = ["2026-01-01T23:00:00-05:00", "2026-01-02T06:00:00+00:00", "2026-01-03T01:00:00+05:00"]
    records = [
        record for n, zone in enumerate(zones) for record in replicated([[1.0 + n] * 3], run=str(n), started_at=zone)
    ]
    frame = history.frame(results(records, at(0, [[9.0]], "first")))
    assert frame["median_s"].tolist() == pytest.approx([0.009, 0.002])
    assert frame["started_at"].str[:10].tolist() == ["2026-01-01", "2026-01-02"]


@pytest.mark.parametrize("records", [[], [session()], at(0, [[1.0], [2.0]]), at(0, [[1.0]]) + at(1, [[1.0]], side="b")])
def test_without_two_points_there_is_no_history(records):
    assert history.frame(results(*records)).empty
    assert sections(results(*records)) == ()


def test_section_begins_with_the_largest_change():
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
    assert section.alt.endswith("operations/train_step -20.0 % on 2026-01-04 at c3; 1 without a change.")
    assert "The figure shows the" not in section.text
    assert len(section.figure.axes) == 2


def test_large_gain_comes_before_a_small_loss():
    small = daily([1.0, 1.01, 1.0, 1.1, 1.11, 1.1], "small", operation="forward")
    (section,) = sections(results(small, daily([1.0, 1.01, 1.0, 0.5, 0.51, 0.5])))
    assert section.frame["change"].tolist() == pytest.approx([-0.5, 0.1])


def test_change_together_with_another_torch_names_it():
    records = [
        at(day, [[1 + 0.5 * (day > 2)]], environment=OTHER_STACK if day > 2 else ENVIRONMENT) for day in range(6)
    ]
    (section,) = sections(results(*records))
    assert section.frame["changed_at"].tolist() == ["c3, torch 2.12.0"]


def test_lines_mark_the_changes_in_the_figure():
    (section,) = sections(results(daily([1.0, 1.01, 1.0, 1.5, 1.51, 1.5])))
    (axes,) = section.figure.axes
    assert [line.get_xdata() for line in axes.lines if line.get_color() == canvas.BAD] == [[3, 3]]
    assert axes.get_yscale() == "log"
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("2026-01-01\nc0", "2026-01-06\nc5")


def test_figure_has_at_most_twelve_benchmarks():
    many = [daily([1.0, 1.0, 1.0], f"n{n}", config=RunConfig(batch_size=n)) for n in range(1, 15)]
    (section,) = sections(results(*many, daily([1.0, 1.0, 2.0, 2.0], "changed")))
    assert len(section.figure.axes) == 12
    assert section.figure.axes[0].get_title(loc="left") == "operations/train_step"
    assert "The figure shows the 12 benchmarks that changed most, without 3 others." in section.text
    assert len(section.frame) == 15
