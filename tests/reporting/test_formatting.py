"""Numbers and tables as people read them."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.reporting.formatting import MISSING, cell, change, column, glossary, seconds, table

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
    ("name", "value", "text"),
    [
        ("median_s", 0.0012, "1.20 ms"),
        ("samples_per_s", 1234567.8, "1,234,568"),
        ("seconds_to_target", 3.5, "3.50 s"),
        ("gain_ratio", 4.6, "4.60×"),
        ("other_ratio", 4.6, "4.60×"),
        ("time_ratio", 1.114, "+11.4 %"),
        ("low_change", -0.05, "-5.0 %"),
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
def test_name_of_a_column_decides_the_unit_of_its_cells(name, value, text):
    result = cell(column(name), value)
    assert result.text == text
    assert result.value == value


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize("name", ["median_s", "time_ratio", "mean_accuracy", "coverage", "first_difference", "loss"])
def test_missing_value_is_a_dash_without_a_value(name, missing):
    result = cell(column(name), missing)
    assert result.text == MISSING == "–"
    assert result.value == ""


def test_table_has_a_cell_for_each_value_and_says_which_columns_are_numbers():
    frame = pd.DataFrame(
        {"machine": ["a", "b"], "median_s": [0.5, math.nan], "num_blocks": [5, 6], "first_difference": [None, "loss"]}
    )
    content = table(frame)
    assert content.headings == ("machine", "median", "blocks", "first difference")
    assert content.is_number == (False, True, True, False)
    assert [[c.text for c in row] for row in content.rows] == [["a", "500 ms", "5", "–"], ["b", "–", "6", "loss"]]


def test_machine_is_left_out_of_a_table_of_one_machine():
    assert table(pd.DataFrame({"machine": ["a", "a"], "seed": [0, 1]})).headings == ("seed",)


def test_units_leave_the_headings_that_their_cells_carry():
    names = ["median_s", "samples_per_s", "low_share", "low_ratio", "other_ratio", "high_accuracy", "mean_accuracy"]
    headings = table(pd.DataFrame([dict.fromkeys(names, 1.0)])).headings
    assert headings == ("median", "samples/s", "low", "low", "other ratio", "high", "mean accuracy")


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("settled", "warm-up stable?"),
        ("coverage", "confidence"),
        ("roof_share", "% of hardware limit"),
        ("flagged_share", "disturbed blocks"),
        ("finds_change", "smallest detectable change"),
        ("control_change", "machine speed change"),
        ("margin_from", "margin set by"),
    ],
)
def test_words_of_the_project_are_the_headings(name, heading):
    assert column(name).heading == heading
    assert column(name).help


def test_glossary_has_each_explanation_once():
    frames = [pd.DataFrame({"settled": [True], "median_s": [1.0]}), pd.DataFrame({"settled": [True], "check": ["a"]})]
    assert list(glossary(map(table, frames))) == ["warm-up stable?", "rerun"]


@pytest.mark.parametrize(
    ("estimate", "texts"), [("time_ratio", ["+100 %", "+50.0 %"]), ("gain_ratio", ["2.00×", "1.50×"])]
)
def test_interval_is_shown_as_its_estimate_is(estimate, texts):
    (row,) = table(pd.DataFrame({estimate: [2.0], "low_ratio": [1.5]})).rows
    assert [content.text for content in row] == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "+0.0 %"),
        (-0.114, "-11.4 %"),
        (1.5, "+150 %"),
        (9.99, "+999 %"),
        (0.9999, "+100 %"),
        (-0.0001, "+0.0 %"),
        (9.999, "11×"),
        (99.0, "100×"),
        (math.inf, "∞"),
    ],
)
def test_changes_are_in_percent_up_to_the_tenfold(value, text):
    assert change(value) == text
