"""Check that a judgement names every benchmark once, and that its exit code never passes what was not measured."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging.evidence import Evidence, ProcessEvidence, collect
from mlpbench.judging.judgement import Margins
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.judging.verdict import judge, judge_plan
from mlpbench.records.kinds import Ending
from tests.judging.processes import STEADY, scaled, side
from tests.strategies import plan, replicated, results, session, skip

# --- every benchmark once ---------------------------------------------------------------------------------------------

LISTS = ("new", "missing", "changed", "incomparable", "unreplicated", "older")
any_value = st.floats() | st.floats(0.001, 1) | st.sampled_from([0.0, 1.0])
processes = st.builds(
    ProcessEvidence,
    value=any_value,
    control_s=st.none() | any_value,
    rounds=st.dictionaries(st.integers(0, 3), any_value, max_size=3),
)
evidences = st.builds(
    Evidence,
    environment=st.fixed_dictionaries({"cpu_model": st.sampled_from(["x", "y"])}),
    processes=st.dictionaries(st.sampled_from("0123"), processes, max_size=4),
    omissions=st.lists(st.sampled_from(["cut short: 1", "older: 2"]), max_size=2, unique=True).map(tuple),
    is_older=st.sampled_from([False, False, True]),
)
benchmarks = st.builds(
    Benchmark, st.sampled_from(list(Metric)), st.sampled_from(["s/a", "s/b", "s/b lr=1", "t/a", "t/a lr=1"])
)
any_side = st.dictionaries(benchmarks, evidences, max_size=6)


def named(judgement) -> list[str]:
    """Return the benchmarks of every list; a changed one has two names."""
    names = [f"{c.benchmark} ({c.metric})" if c.metric != "seconds" else c.benchmark for c in judgement.comparisons]
    names += [omission.benchmark for omission in judgement.unjudged]
    for name in LISTS:
        entries = getattr(judgement, name)
        if name == "changed":
            names += [part for entry in entries for part in entry.split(" → ")]
        elif name == "incomparable":
            names += [entry.partition(": cpu_model")[0] for entry in entries]
        else:
            names += entries
    return names


@given(any_side, any_side, st.booleans(), st.booleans())
def test_every_benchmark_of_a_side_is_in_exactly_one_list(base, new, is_paired, is_early):
    judgement = judge(base, new, Margins(), is_paired=is_paired, is_early=is_early)
    assert sorted(named(judgement)) == sorted({str(i) for i in (*base, *new)})


@given(any_side, any_side, st.booleans())
def test_no_value_gives_a_verdict_without_a_finite_ratio(base, new, is_paired):
    for c in judge(base, new, Margins(), is_paired=is_paired).comparisons:
        if c.metric is not Metric.EQUAL_BITS:
            assert c.ratio > 0
            assert 0 <= c.low_ratio <= c.ratio * (1 + 1e-9)
            assert 0 <= c.p_value <= 1


@given(any_side, any_side)
def test_nothing_passes_in_which_a_benchmark_of_both_sides_has_no_verdict(base, new):
    judgement = judge(base, new, Margins())
    both = {i for i in base if i in new and not base[i].is_older and not new[i].is_older}
    judged = {Benchmark(c.metric, c.benchmark) for c in judgement.comparisons}
    if judgement.exit_code() == 0:
        assert both <= judged
        assert judged


def test_value_that_nothing_can_have_measured_is_left_out_with_a_remark():
    base, new = side(STEADY), side(STEADY)
    for i, evidence in new.items():
        broken = {**evidence.processes, "bad": replace(evidence.processes["r0"], value=math.nan)}
        new = {i: replace(evidence, processes=broken)}
    judgement = judge(base, new, Margins())
    assert [(c.verdict, c.num_new) for c in judgement.comparisons] == [("same", 5)]
    assert [(o.benchmark, o.side, o.reason) for o in judgement.omitted] == [
        ("operations/train_step", "NEW", "processes whose value is not a possible time: 1")
    ]


def test_benchmark_that_is_cut_short_on_one_side_is_not_judged_and_does_not_pass():
    cut = collect(results(replicated([[9.0], [9.0]], rounds=3)))
    judgement = judge(side(STEADY), cut, Margins())
    assert [(o.benchmark, o.side, o.reason) for o in judgement.unjudged] == [
        ("operations/train_step", "NEW", "processes that were cut short: 2")
    ]
    assert judgement.exit_code() == 4
    both = judge(cut, cut, Margins())
    assert both.unjudged[0].reason == "BASE: processes that were cut short: 2; NEW: processes that were cut short: 2"
    assert both.exit_code() == 4


def test_benchmark_of_an_older_commit_is_named_and_does_not_fail():
    old = {Benchmark(Metric.SECONDS, "operations/old"): Evidence(environment={}, processes={}, is_older=True)}
    judgement = judge(side(STEADY) | old, side(STEADY), Margins())
    assert judgement.older == ("operations/old",)
    assert judgement.exit_code() == 0
    # A benchmark that NEW has measured only at an older commit is missing there.
    assert judge(side(STEADY), dict.fromkeys(side(STEADY), next(iter(old.values()))), Margins()).exit_code() == 4


def test_operation_of_a_plan_that_nobody_measured_is_not_judged():
    records = results(
        replace(plan(pairs=4), operations=("train_step", "epoch", "forward")),
        replicated([[1.0, 1.01]] * 4, side="a"),
        replicated([[1.0, 1.01]] * 4, side="b"),
        skip("too little memory", operation="epoch", session="ra0"),
    )
    judgement = judge_plan(records, records.plans["r"], Margins())
    assert {o.benchmark: o.reason for o in judgement.unjudged} == {
        "ab/epoch": "too little memory",
        "ab/forward": "planned, but not measured",
    }
    assert judgement.exit_code() == 4
    assert judgement.exit_code(allow_missing=True) == 0


# --- margins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [math.nan, math.inf, -math.inf, 0.0, 0.99, -1.0, 1e308])
@pytest.mark.parametrize("field", ["default_ratio", "noise_ratio", "must_find_ratio", "thresholds"])
def test_margin_that_is_none_is_refused(field, ratio):
    value = {"*": ratio} if field == "thresholds" else ratio
    with pytest.raises(InputError, match="must be a ratio from 1 to 1000"):
        Margins(**{field: value})


@pytest.mark.parametrize("ratio", [math.nan, 0.0, 1e308])
def test_plan_with_an_impossible_margin_gives_no_verdict(ratio):
    records = results(
        replace(plan(pairs=4), margin_ratio=ratio),
        replicated([[1.0, 1.01]] * 4, side="a"),
        replicated([[2.0, 2.01]] * 4, side="b"),
    )
    with pytest.raises(InputError, match="must be a ratio"):
        judge_plan(records, records.plans["r"], Margins(default_ratio=records.plans["r"].margin_ratio))


# --- what must be found -----------------------------------------------------------------------------------------------

NOISY = [[1.0], [1.3], [0.9], [1.1], [1.25]]


@pytest.mark.parametrize(
    ("base", "new", "must_find_ratio", "code"),
    [
        (STEADY, STEADY, None, 0),
        (STEADY, STEADY, 1.05, 0),
        # The margin of 3 % alone is larger.
        (STEADY, STEADY, 1.02, 3),
        (NOISY, NOISY, None, 0),
        (NOISY, NOISY, 1.05, 3),
        (NOISY, NOISY, 100.0, 0),
        # A change that was found was not missed, and a regression comes first.
        (STEADY, scaled(0.5), 1.02, 0),
        (STEADY, scaled(2), 1.02, 1),
    ],
)
def test_gate_that_could_have_missed_a_change_does_not_pass(base, new, must_find_ratio, code):
    judgement = judge(side(base), side(new), Margins(must_find_ratio=must_find_ratio))
    assert judgement.exit_code() == code


def test_missing_benchmark_comes_before_a_change_that_could_be_missed():
    base = collect(results(replicated(NOISY), replicated(STEADY, run="f", config=RunConfig(lr=1))))
    judgement = judge(base, side(NOISY), Margins(must_find_ratio=1.05))
    assert judgement.exit_code() == 4
    assert judgement.exit_code(allow_missing=True) == 3


def test_estimated_number_of_processes_is_enough_and_not_far_too_many():
    (comparison,) = judge(side(NOISY), side(NOISY), Margins(must_find_ratio=1.2)).comparisons
    assert comparison.is_blind
    assert comparison.num_needed > 5
    spread = [[value] for (value,) in NOISY for _ in range(comparison.num_needed // 5 + 1)]
    (enough,) = judge(side(spread), side(spread), Margins(must_find_ratio=1.2)).comparisons
    assert not enough.is_blind
    few = spread[: comparison.num_needed // 2]
    assert judge(side(few), side(few), Margins(must_find_ratio=1.2)).comparisons[0].is_blind


def test_no_number_of_processes_finds_less_than_the_margin():
    (comparison,) = judge(side(NOISY), side(NOISY), Margins(default_ratio=1.1, must_find_ratio=1.05)).comparisons
    assert comparison.is_blind
    assert comparison.num_needed is None


def test_time_limit_that_ended_a_plan_is_named():
    records = results(
        plan(pairs=8),
        replicated([[1.0, 1.01]] * 4, side="a"),
        replicated([[1.0, 1.01]] * 4, side="b"),
        Ending(plan="r", reason="time limit of 60 s, after 4 pairs"),
        session("later"),
    )
    assert judge_plan(records, records.plans["r"], Margins()).stopped == "time limit of 60 s, after 4 pairs"
