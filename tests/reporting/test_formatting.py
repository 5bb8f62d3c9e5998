"""Numbers and tables as people read them."""

import io
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mlpbench.reporting import terminal
from mlpbench.reporting.formatting import MISSING, cell, seconds, table

UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 µs"),
        (1e-6, "1.00 µs"),
        (0.00089012, "890 µs"),
        (0.0009994, "999 µs"),
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (1.0, "1.00 s"),
        (2.61669, "2.62 s"),
        (106.0, "106 s"),
        (98765.4, "98765 s"),
        (math.inf, "never"),
    ],
)
def test_seconds_come_in_the_unit_that_suits(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.999, "10.0 s"), (0.09996, "100 ms"), (0.9996, "1.00 s"), (0.0009996, "1.00 ms")],
)
def test_seconds_that_round_up_to_a_power_of_ten_keep_three_digits(value, text):
    assert seconds(value) == text


@given(st.floats(min_value=1e-6, max_value=1e5))
def test_seconds_read_back_within_their_three_digits(value):
    number, unit = seconds(value).split()
    assert float(number) * UNITS[unit] == pytest.approx(value, rel=0.00501)
    assert unit == "s" or float(number) < 1000


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("median_s", 0.0012, "1.20 ms"),
        ("samples_per_s", 1234567.8, "1,234,568"),
        ("seconds_to_target", 3.5, "3.50 s"),
        ("time_ratio", 4.6, "4.60×"),
        ("high_ratio", math.inf, "∞"),
        ("mean_accuracy", 0.97854, "0.9785"),
        ("train_loss", 0.03125, "0.0312"),
        ("coverage", 0.9375, "93.8 %"),
        ("low_share", 0.5, "50 %"),
        ("max_abs_difference", 1.49e-8, "1.5e-08"),
        ("median_epochs", 3.0, "3"),
        ("median_epochs", math.inf, "never"),
        ("median_s", math.inf, "never"),
        ("num_steps", 12345, "12,345"),
        ("batch_size", 10_000, "10,000"),
        ("settled", True, "yes"),
        ("settled", False, "no"),
        ("operation", "train_step", "train_step"),
    ],
)
def test_cell_is_shown_by_the_end_of_its_columns_name(column, value, text):
    made = cell(column, value)
    assert made.text == text
    assert made.value == value


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("column", ["median_s", "time_ratio", "mean_accuracy", "coverage", "first_difference", "loss"])
def test_missing_value_is_a_dash_without_a_value(column, missing):
    made = cell(column, missing)
    assert made.text == MISSING == "–"
    assert made.value == ""


def test_table_has_a_cell_for_each_value_and_says_which_columns_are_numbers():
    frame = pd.DataFrame(
        {"machine": ["a", "b"], "median_s": [0.5, math.nan], "num_blocks": [5, 6], "first_difference": [None, "loss"]}
    )
    made = table(frame)
    assert made.columns == ("machine", "median", "blocks", "first difference")
    assert made.is_number == (False, True, True, False)
    assert [[c.text for c in row] for row in made.rows] == [["a", "500 ms", "5", "–"], ["b", "–", "6", "loss"]]


def test_machine_is_left_out_of_a_table_of_one_machine():
    assert table(pd.DataFrame({"machine": ["a", "a"], "seed": [0, 1]})).columns == ("seed",)


def test_units_leave_the_headings_that_their_cells_carry():
    names = ["median_s", "samples_per_s", "low_share", "low_ratio", "time_ratio", "high_accuracy", "mean_accuracy"]
    headings = table(pd.DataFrame([dict.fromkeys(names, 1.0)])).columns
    assert headings == ("median", "samples/s", "low", "low", "time ratio", "high", "mean accuracy")


def test_shown_table_has_every_cell_in_a_narrow_and_in_a_wide_console():
    made = table(pd.DataFrame({"operation": ["forward", "evaluate"], "median_s": [0.001, 2.0]}))
    for width in (30, terminal.PIPE_WIDTH):
        output = io.StringIO()
        terminal.show_table(Console(file=output, width=width, force_terminal=False), "Times", made)
        text = output.getvalue()
        assert text.startswith("Times")
        for row in made.rows:
            assert any(all(c.text in line for c in row) for line in text.splitlines())


def test_console_in_a_pipe_does_not_wrap_a_wide_table(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    terminal.show_table(terminal.console(), "Wide", table(pd.DataFrame({f"c{i}": ["x" * 15] for i in range(12)})))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.count("x" * 15) == 12 for line in lines)
