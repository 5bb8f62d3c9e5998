"""Check that verdicts are right on data whose truth is known, do not depend on any order, and never pass empty."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.judging.evidence import collect, sides
from mlpbench.judging.verdict import Margins, judge, judge_plan
from mlpbench.records.kinds import Block
from tests import strategies
from tests.judging.processes import STEADY, scaled, side, verdict
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, changed, check, memory, plan, replicated, results, session

# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.2, "slower"), (1.06, "slower"), (1.0, "same"), (1.01, "same"), (1.03, "inconclusive"), (0.8, "faster")],
)
def test_change_of_known_size_gets_its_verdict(factor, expected):
    assert verdict(side(STEADY), side(scaled(factor))) == expected


def test_ratio_and_its_interval_hold_the_change():
    (comparison,) = judge(side(STEADY), side(scaled(1.2)), Margins()).comparisons
    assert comparison.low_ratio < 1.2 < comparison.high_ratio
    assert comparison.ratio == pytest.approx(1.2, rel=0.01)
    assert comparison.new / comparison.base == pytest.approx(1.2, rel=0.01)
    assert (comparison.num_base, comparison.num_new) == (5, 5)


def test_noise_between_processes_makes_a_change_inconclusive():
    noisy = [[1.0, 1.0, 1.0], [1.3, 1.3, 1.3], [0.9, 0.9, 0.9], [1.1, 1.1, 1.1], [1.25, 1.25, 1.25]]
    (comparison,) = judge(side(noisy), side(scaled(1.1, noisy)), Margins()).comparisons
    assert comparison.verdict == "inconclusive"
    assert comparison.detectable_ratio > 1.2


def test_one_outlying_block_in_each_process_changes_nothing():
    disturbed = [[*times[:2], 50.0] for times in STEADY]
    assert verdict(side(STEADY), side(disturbed)) == "same"


def test_one_process_gets_no_verdict():
    judgement = judge(side(STEADY), side(scaled(3)[:1]), Margins())
    assert judgement.comparisons == ()
    assert judgement.unreplicated == ("operations/train_step",)
    assert judgement.exit_code() == 4


def test_many_benchmarks_need_more_evidence_than_one():
    borderline = [[1.0], [1.06], [0.96], [1.04], [0.98]]

    def both(factor, count):
        records = [replicated(scaled(factor, borderline), run=f"r{i}", config=RunConfig(seed=i)) for i in range(count)]
        return collect(results(*records))

    one = judge(both(1, 1), both(1.12, 1), Margins())
    many = judge(both(1, 30), both(1.12, 30), Margins())
    assert {c.verdict for c in one.comparisons} == {"slower"}
    assert {c.verdict for c in many.comparisons} == {"inconclusive"}


def test_disturbed_blocks_stay_and_are_counted():
    (comparison,) = judge(side(STEADY), side(STEADY, flags=("busy",)), Margins()).comparisons
    assert comparison.flagged_share == 0.5
    assert comparison.verdict == "same"


# --- the control workload ---------------------------------------------------------------------------------------------


def test_machine_speed_change_is_not_reported_as_a_slower_program():
    base = side(STEADY, control_ms=[0.5] * 5)
    (comparison,) = judge(base, side(scaled(1.4), control_ms=[0.68] * 5), Margins()).comparisons
    assert comparison.verdict == "inconclusive"
    assert comparison.margin_from == "control"
    assert comparison.control_ratio == pytest.approx(1.36)


def test_change_far_beyond_the_machine_speed_change_is_found():
    base = side(STEADY, control_ms=[0.5] * 5)
    assert verdict(base, side(scaled(3), control_ms=[0.68] * 5)) == "slower"


def test_machine_speed_change_never_turns_a_change_into_same():
    base = side(STEADY, control_ms=[0.5] * 5)
    assert verdict(base, side(scaled(1.1), control_ms=[0.68] * 5)) == "inconclusive"


def of_plan(a, b, **changes):
    """Return the records of an `ab` run, and the evidence of its sides."""
    records = results(
        plan(pairs=len(a)),
        replicated(a, side="a", control_ms=changes.get("control_a")),
        replicated(b, side="b", control_ms=changes.get("control_b")),
    )
    return records, sides(records, records.plans["r"])


def test_pairs_remove_a_drift_that_both_sides_share():
    drift = [1.0, 1.4, 1.0, 1.45, 0.98, 1.4]
    a = [[d, 1.01 * d] for d in drift]
    _, both = of_plan(a, scaled(1.05, a))
    assert verdict(*both, is_paired=True) == "slower"
    assert verdict(*both) == "inconclusive"


def test_control_removes_a_speed_change_of_one_side_of_a_pair():
    a, b = [[1.0, 1.01]] * 8, scaled(1.05, [[1.0, 1.01]] * 8)
    b[2], b[5] = scaled(1.25, [b[2]])[0], scaled(0.8, [b[5]])[0]
    control_b = [0.5, 0.501, 0.625, 0.499, 0.5, 0.4, 0.5, 0.502]
    _, without = of_plan(a, b)
    records, with_control = of_plan(a, b, control_a=[0.5] * 8, control_b=control_b)
    assert verdict(*without, is_paired=True) == "inconclusive"
    assert verdict(*with_control, is_paired=True) == "slower"
    assert judge_plan(records, records.plans["r"], Margins()).comparisons[0].verdict == "slower"


@pytest.mark.parametrize("label", ["env:GOMP_SPINCOUNT=0", "python=(a path)", "device=cuda", "num_threads=1"])
def test_control_is_not_used_if_a_setting_may_change_it(label):
    a, b = [[1.0, 1.01]] * 6, [[f, 1.01 * f] for f in (1.2, 1.21, 1.19, 1.22, 1.2, 1.18)]
    control_b = [0.5 * f for f in (1.2, 1.21, 1.19, 1.22, 1.2, 1.18)]
    records, _ = of_plan(a, b, control_a=[0.5] * 6, control_b=control_b)
    (comparison,) = judge_plan(records, replace(records.plans["r"], b=(label,)), Margins()).comparisons
    assert comparison.verdict == "slower"


def test_control_is_not_used_if_the_stack_differs():
    a, b = [[1.0, 1.01]] * 6, scaled(1.05, [[1.0, 1.01]] * 6)
    control_a, control_b = [0.5] * 6, [0.525 * x for x in (1, 1.01, 0.99, 1, 1.02, 0.98)]
    _, both = of_plan(a, b, control_a=control_a, control_b=control_b)
    other_torch = {i: replace(s, environment=s.environment | {"torch": "2.15.0"}) for i, s in both[1].items()}
    (comparison,) = judge(both[0], other_torch, Margins(), is_paired=True).comparisons
    assert comparison.ratio == pytest.approx(1.05, abs=0.001)
    assert comparison.verdict == "slower"


# --- independence of the order ----------------------------------------------------------------------------------------


times = st.floats(0.1, 10).map(lambda x: round(x, 3))
processes = st.lists(st.lists(times, min_size=1, max_size=4), min_size=2, max_size=6)
controls = st.none() | st.floats(0.5, 2)
OPPOSITE = {"slower": "faster", "faster": "slower", "same": "same", "inconclusive": "inconclusive"}


@given(processes, processes, controls, st.booleans())
def test_exchanging_base_and_new_gives_the_opposite_verdict(one, other, control, is_paired):
    if is_paired:
        size = min(len(one), len(other))
        _, (base, new) = of_plan(
            one[:size],
            other[:size],
            control_a=control and [control] * size,
            control_b=control and [1 + i / 10 for i in range(size)],
        )
    else:
        base = side(one, control_ms=control and [control] * len(one))
        new = side(other, control_ms=control and [1.0] * len(other))
    (there,) = judge(base, new, Margins(), is_paired=is_paired).comparisons
    (back,) = judge(new, base, Margins(), is_paired=is_paired).comparisons
    assert back.verdict == OPPOSITE[there.verdict]
    assert back.ratio == pytest.approx(1 / there.ratio, rel=1e-9)
    assert back.p_value == pytest.approx(there.p_value, abs=1e-9)
    for bound, inverse in ((back.low_ratio, there.high_ratio), (back.high_ratio, there.low_ratio)):
        assert bound == pytest.approx(1 / inverse if inverse else math.inf, rel=1e-6)


@given(processes, processes, st.randoms())
def test_order_of_rounds_and_processes_changes_nothing(one, other, random):
    def shuffled(times):
        parts = [random.sample(part, len(part)) for part in times]
        return random.sample(parts, len(parts))

    before = judge(side(one), side(other), Margins()).comparisons[0]
    after = judge(side(shuffled(one)), side(shuffled(other)), Margins()).comparisons[0]
    assert after.verdict == before.verdict
    assert after.ratio == pytest.approx(before.ratio, rel=1e-9)
    assert after.p_value == pytest.approx(before.p_value, abs=1e-9)


@given(processes, st.randoms())
def test_order_of_records_in_the_file_changes_nothing(one, random):
    records = [*replicated(one), *replicated(scaled(1.2, one), run="n", config=RunConfig(seed=1))]
    blocks = [r for r in records if isinstance(r, Block)]
    others = [r for r in records if not isinstance(r, Block)]
    shuffled = collect(results(others, random.sample(blocks, len(blocks))))
    assert {i: {k: p.value for k, p in s.processes.items()} for i, s in shuffled.items()} == {
        i: {k: p.value for k, p in s.processes.items()} for i, s in collect(results(records)).items()
    }


# --- margins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        (Margins(), (1.03, "default")),
        (Margins(default_ratio=1.1), (1.1, "option")),
        (Margins(noise_ratio=1.07), (1.07, "noise")),
        (Margins(noise_ratio=1.02), (1.03, "default")),
        (Margins(thresholds={"operations/*": 1.2}, noise_ratio=1.07), (1.2, "threshold")),
        (Margins(thresholds={"*": 1.01, "*/train_step": 1.05, "epochs/*": 1.5}), (1.05, "threshold")),
        (Margins(thresholds={"seconds:*": 1.02}, default_ratio=1.5), (1.02, "threshold")),
        (Margins(thresholds={"peak_bytes:*": 1.02}), (1.03, "default")),
    ],
)
def test_margin_is_the_most_specific_one_and_not_below_the_noise(margins, expected):
    (comparison,) = judge(side(STEADY), side(STEADY), margins).comparisons
    assert (comparison.margin_ratio, comparison.margin_from) == expected


def test_small_margin_finds_a_change_that_a_wide_one_ignores():
    base, new = side(STEADY), side(scaled(1.05))
    assert judge(base, new, Margins(default_ratio=1.02)).exit_code() == 1
    assert judge(base, new, Margins(default_ratio=1.1)).exit_code() == 0


# --- other metrics ----------------------------------------------------------------------------------------------------


def test_more_memory_is_worse():
    base = [session("s"), session("t"), memory(10**9), memory(10**9, session="t")]
    new = [session("s"), session("t"), memory(2 * 10**9), memory(2 * 10**9, session="t")]
    assert verdict(collect(results(base)), collect(results(new))) == "worse"
    assert verdict(collect(results(new)), collect(results(base))) == "better"


def test_less_accuracy_is_worse_seed_by_seed():
    def trained(loss):
        seeds = enumerate([0.91, 0.93, 0.9, 0.92, 0.94])
        return collect(results(session(), *(strategies.trained((0.5, a - loss), seed=s) for s, a in seeds)))

    assert verdict(trained(0), trained(0.1)) == "worse"
    assert verdict(trained(0.1), trained(0)) == "better"
    assert verdict(trained(0), trained(0)) == "same"


def test_bits_that_are_no_longer_equal_fail_the_gate():
    base = collect(results(session(), check("fresh process")))
    new = collect(results(session(), check("fresh process", first_difference="step 0 loss")))
    assert verdict(base, new) == "worse"
    assert judge(base, new, Margins()).exit_code() == 1
    assert judge(new, base, Margins()).exit_code() == 0


# --- benchmarks without a verdict -------------------------------------------------------------------------------------


def test_benchmarks_of_only_one_side_are_named():
    base = results(replicated(STEADY), replicated(STEADY, run="f", operation="forward"))
    new = results(replicated(STEADY), replicated(STEADY, run="b", operation="backward"))
    judgement = judge(collect(base), collect(new), Margins())
    assert judgement.missing == ("operations/forward",)
    assert judgement.new == ("operations/backward",)
    assert judgement.exit_code() == 4
    assert judgement.exit_code(allow_missing=True) == 0


def test_benchmark_with_another_workload_is_named_with_the_change():
    new = side(STEADY, config=RunConfig(lr=0.1))
    judgement = judge(side(STEADY), new, Margins())
    assert judgement.changed == ("operations/train_step → operations/train_step lr=0.1",)
    assert judgement.exit_code() == 4


def test_another_machine_is_not_compared_and_the_field_is_named():
    judgement = judge(side(STEADY), side(STEADY, environment=OTHER_ENVIRONMENT), Margins())
    assert judgement.comparisons == ()
    (line,) = judgement.incomparable
    assert "cpu_model Example CPU → Example GPU host" in line
    assert judgement.exit_code() == 4


def test_another_torch_is_compared_and_named():
    judgement = judge(side(STEADY), side(STEADY, environment=changed(ENVIRONMENT, torch="2.15.0")), Margins())
    assert judgement.different == ("torch 2.11.0 → 2.15.0",)
    assert judgement.exit_code() == 0


@pytest.mark.parametrize(
    ("factor", "fail_on", "code"),
    [
        (1.2, (), 1),
        (0.8, (), 0),
        (0.8, ("faster",), 1),
        (1.03, (), 0),
        (1.03, ("inconclusive",), 3),
        # A regression always fails, whatever else does.
        (1.2, ("inconclusive",), 1),
        (1.2, ("faster",), 1),
    ],
)
def test_exit_code_follows_the_verdicts_that_fail(factor, fail_on, code):
    assert judge(side(STEADY), side(scaled(factor)), Margins()).exit_code(fail_on) == code


def test_times_of_one_process_do_not_pass_beside_equal_bits():
    def quick(factor):
        return collect(results(replicated(scaled(factor)[:1]), check("fresh process", session="r0")))

    judgement = judge(quick(1), quick(3), Margins())
    assert [c.verdict for c in judgement.comparisons] == ["same"]
    assert judgement.exit_code() == 4
