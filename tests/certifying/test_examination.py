"""Check that readings are compared correctly, and that only exact operations count as defects."""

import pytest

from mlpbench.certifying.examination import UNAVAILABLE, Reading, defects, differing, effect, first_stage
from mlpbench.certifying.probes import PROBES, STAGES
from tests.certifying.readings import EQUAL, READINGS, SETTING, examination, reading, table


def test_differing_compares_only_common_readings():
    one = {"a": "1", "b": "2", "c": "3", "d": UNAVAILABLE, "e": "5"}
    assert differing(one, {"a": "1", "b": "x", "c": UNAVAILABLE, "d": "4"}) == ["b"]


@pytest.mark.parametrize(
    ("readings", "stage"),
    [
        ([], None),
        (["exp float32", "elu of a batch float64"], None),
        (["SGD float32"], "the optimizer's step"),
        (["SGD float32", "tanh backward of a batch float32", "linear float32"], "a linear layer"),
        (["randperm"], "the order of the samples"),
        (["cross_entropy float32", "Linear's initial parameters float32"], "the initial parameters"),
    ],
)
def test_first_stage_is_the_earliest_of_a_default_run(readings, stage):
    assert {name for names in STAGES.values() for name in names} <= PROBES.keys()
    assert first_stage(readings) == stage


def test_setting_is_compared_with_this_machine_and_the_reference_table():
    reference = table(by_setting={SETTING: {"exp float32": "x", "sin float32": "x"}})
    before = reading(["mm float32", "exp float32"], ["sum float32", "linear float32"])
    after = Reading(
        one_thread=EQUAL | {"exp float32": "x", "mm float32": "y"},
        several_threads=EQUAL | {"exp float32": "x", "mm float32": "y", "sum float32": "z", "var float32": "z"},
    )
    change = effect(SETTING, reference, before, after)
    assert change.now_independent == ["linear float32"]
    assert change.now_dependent == ["var float32"]
    assert change.now_equal == ["exp float32"]
    assert change.now_different == ["sin float32"]
    assert (change.stage_before, change.stage) == ("a linear layer", None)
    assert change.wrong == []


def test_setting_that_the_reference_table_lacks_is_not_compared_with_it():
    change = effect(SETTING, table(), reading(["mm float32"]), reading(["exp float32"]))
    assert (change.now_equal, change.now_different) == ([], [])


def test_only_exact_operations_and_known_answers_are_defects():
    everything = [name for name, probe in READINGS.items() if probe.kind != "exact"]
    assert defects(examination(reading(everything, everything))) == []
    assert defects(examination(reading(), answers=(True, False, True))) == ["known answer of functions"]
    assert defects(examination(reading(["mul/pow(2) float32", "exp float32"]))) == ["mul/pow(2) float32"]
    assert defects(examination(reading([], ["mm of gridded numbers"]))) == ["mm of gridded numbers"]
    assert defects(examination(reading(), {SETTING: reading(["div/reciprocal float64"])})) == ["div/reciprocal float64"]
