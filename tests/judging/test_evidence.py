"""Check which records become evidence, and under which names and keys."""

import math

import pytest

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging.evidence import benchmark_name, collect, left_out, sides, times
from mlpbench.judging.verdict import Margins, judge
from tests import strategies
from tests.judging.processes import STEADY, scaled, side, verdict
from tests.strategies import (
    ENVIRONMENT,
    OTHER_ENVIRONMENT,
    changed,
    check,
    measurement,
    memory,
    plan,
    replicated,
    results,
    session,
)

# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "operations/train_step"),
        ({"suite": "epochs", "operation": "epoch"}, "epochs/epoch"),
        ({"config": RunConfig(lr=0.1)}, "operations/train_step lr=0.1"),
        ({"clock": "latency"}, "operations/train_step (latency)"),
        ({"clock": "device", "config": RunConfig(seed=1)}, "operations/train_step seed=1 (device)"),
    ],
)
def test_name_has_the_workload_and_the_clock_unless_default(changes, name):
    assert benchmark_name(measurement(**changes)) == name


def test_every_metric_has_its_own_name_and_key():
    records = [
        *replicated([[1.0, 3.0]]),
        memory(100, session="r0"),
        strategies.trained((0.5, 0.75), session="r0", seed=3),
        check("fresh process", session="r0"),
        check("same process", session="r0", first_difference="step 0 loss"),
    ]
    evidence = {str(name): (name.metric, of_one.processes) for name, of_one in collect(results(*records)).items()}
    values = {name: {key: p.value for key, p in processes.items()} for name, (_, processes) in evidence.items()}
    assert values == {
        "operations/train_step": {"r0": 0.002},
        "memory/train_step (peak_bytes)": {"r0": 100.0},
        "training num_epochs=2 (test_accuracy)": {"seed 3": 0.75},
        "determinism/fresh process (equal_bits)": {"r0": 1.0},
        "determinism/same process (equal_bits)": {"r0": 0.0},
    }


# --- processes --------------------------------------------------------------------------------------------------------


def test_process_has_the_median_of_its_blocks_and_of_its_control():
    (evidence,) = side([[1.0, 4.0, 2.0]], control_ms=[0.5], flags=("busy",)).values()
    (process,) = evidence.processes.values()
    assert (process.value, process.control_s) == (0.002, 0.0005)
    assert dict(process.rounds) == {0: 0.001, 1: 0.004, 2: 0.002}
    assert (process.num_blocks, process.num_flagged) == (3, 3)


def test_control_that_did_not_run_beside_every_block_does_not_count():
    blocks = [*strategies.blocks("m", {0: 1.0}, control_ns=500_000), *strategies.blocks("m", {1: 1.0})]
    (evidence,) = collect(results(session(), measurement(), blocks)).values()
    assert evidence.processes["s"].control_s is None


def test_several_quick_runs_of_one_commit_are_several_processes():
    runs = [r for i, times in enumerate(scaled(1.2)) for r in replicated([times], run=f"q{i}")]
    assert verdict(side(STEADY), collect(results(runs))) == "slower"


def test_only_the_newest_commit_counts():
    old = replicated(scaled(2), run="old", environment=changed(ENVIRONMENT, commit="0ld"))
    new = replicated(STEADY, run="new", started_at="2026-02-01T00:00:00+00:00")
    assert verdict(side(STEADY), collect(results(old, new))) == "same"


def test_measurement_that_was_cut_short_does_not_count():
    cut = replicated([[9.0], [9.0]], run="cut", rounds=3)
    (evidence,) = collect(results(replicated(STEADY), cut)).values()
    assert len(evidence.processes) == 5
    assert evidence.omissions == ("processes that were cut short: 2",)


def test_benchmark_that_was_only_cut_short_has_no_process_and_is_no_older_one():
    (evidence,) = collect(results(replicated([[9.0], [9.0]], run="cut", rounds=3))).values()
    assert (evidence.processes, evidence.is_older) == ({}, False)
    assert evidence.omissions == ("processes that were cut short: 2",)


def test_benchmark_of_an_older_commit_only_is_named_as_such():
    old = [
        replicated(STEADY, run="o", environment=changed(ENVIRONMENT, commit="0ld")),
        replicated(STEADY, run="p", operation="epoch", environment=changed(ENVIRONMENT, commit="0ld")),
    ]
    new = collect(results(*old, replicated(STEADY, run="n", started_at="2026-02-01T00:00:00+00:00")))
    assert {name: (len(e.processes), e.is_older) for (_, name), e in new.items()} == {
        "operations/train_step": (5, False),
        "operations/epoch": (0, True),
    }
    assert {e.omissions for e in new.values()} == {()}


def test_only_the_last_run_of_uncommitted_source_counts():
    dirty = changed(ENVIRONMENT, dirty=True)
    one = replicated(STEADY, run="o", environment=dirty)
    other = replicated(scaled(2), run="p", environment=dirty, started_at="2026-02-01T00:00:00+00:00")
    (evidence,) = collect(results(one, other)).values()
    assert sorted(evidence.processes) == ["p0", "p1", "p2", "p3", "p4"]


def test_run_that_diverged_is_a_worse_run_and_not_an_absent_one():
    def trained(*accuracies):
        return collect(results(session(), *(strategies.trained((a,), seed=s) for s, a in enumerate(accuracies))))

    assert verdict(trained(0.9, 0.91, 0.9), trained(0.0, 0.0, 0.0)) == "worse"
    judgement = judge(trained(0.9, 0.91, 0.9), trained(math.nan, math.nan, math.nan), Margins())
    assert [c.verdict for c in judgement.comparisons] == ["worse"]
    assert [(o.side, o.reason) for o in judgement.omitted] == [
        ("NEW", "runs that diverged, whose accuracy counts as 0: 3")
    ]
    assert verdict(trained(0.9, 0.91, 0.9, 0.9), trained(0.9, 0.91, 0.9, math.inf)) != "same"


def test_another_environment_than_the_newest_does_not_count_and_is_said():
    later = session("later", started_at="2027-01-01T00:00:00+00:00", environment=OTHER_ENVIRONMENT)
    records = results(replicated(STEADY), later)
    (evidence,) = collect(records).values()
    assert (evidence.processes, evidence.is_older) == ({}, True)
    assert left_out(records) == "5 of 6 processes, which differ from the newest in: cpu_model, gpu_model, cuda"


def test_processes_before_and_after_a_restart_are_evidence_together():
    # A restart may change the size of the memory by some pages.
    rebooted = [changed(ENVIRONMENT, memory_bytes=8 * 2**30 - 4096 * i) for i in range(5)]
    runs = [replicated([t], run=f"q{i}", environment=rebooted[i])[:] for i, t in enumerate(STEADY)]
    records = results(*runs)
    (evidence,) = collect(records).values()
    assert len(evidence.processes) == 5
    assert left_out(records) is None


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"num_allowed_cpus": 1, "num_threads": 1}, "num_allowed_cpus, num_threads"),
        ({"transparent_huge_pages": "always"}, "transparent_huge_pages"),
        ({"glibc": None}, "glibc"),
        ({"variables": (("KMP_BLOCKTIME", "0"), ("OMP_NUM_THREADS", "2"))}, "KMP_BLOCKTIME"),
        ({"cpu_family": 26}, "cpu_family"),
        ({"commit": "0ld"}, "source"),
    ],
)
def test_processes_that_can_differ_in_time_are_left_out_and_the_facts_are_named(changes, facts):
    others = replicated(STEADY, run="o", environment=changed(ENVIRONMENT, **changes))
    records = results(others, replicated(STEADY, run="n", started_at="2026-02-01T00:00:00+00:00"))
    (evidence,) = collect(records).values()
    assert set(evidence.processes) == {f"n{i}" for i in range(5)}
    assert left_out(records) == f"5 of 10 processes, which differ from the newest in: {facts}"


def test_runs_of_changed_source_count_together_only_if_their_source_is_equal():
    one, two = (changed(ENVIRONMENT, dirty=True, source_digest=digest) for digest in ("1", "2"))
    runs = [replicated([t], run=f"q{i}", environment=two if i == 0 else one) for i, t in enumerate(STEADY)]
    (evidence,) = collect(
        results(*runs, replicated([[1.0]], run="n", environment=one, started_at="2026-02-01T00:00:00+00:00"))
    ).values()
    assert sorted(evidence.processes) == ["n0", "q10", "q20", "q30", "q40"]


def test_side_whose_changed_source_was_edited_is_refused():
    one, two = (changed(ENVIRONMENT, dirty=True, source_digest=digest) for digest in ("1", "2"))
    edited = replicated([[1.0]] * 4, side="b", environment=two)[-3:]
    records = results(plan(), replicated([[1.0]] * 3, side="b", environment=one), edited)
    with pytest.raises(InputError, match=r"side b was measured in different environments \(source\)"):
        sides(records, records.plans["r"])


def test_older_run_of_unknown_source_is_left_out_and_said():
    dirty = changed(ENVIRONMENT, dirty=True)
    one = replicated(STEADY, run="o", environment=dirty)
    records = results(one, replicated(STEADY, run="p", environment=dirty, started_at="2026-02-01T00:00:00+00:00"))
    assert left_out(records) == "5 of 10 processes, which differ from the newest in: run of unknown source"


def test_run_of_a_seed_that_ran_before_takes_its_place_and_is_counted():
    runs = [strategies.trained((accuracy,), seed=3) for accuracy in (0.5, 0.9)]
    (evidence,) = collect(results(session(), runs)).values()
    assert {key: p.value for key, p in evidence.processes.items()} == {"seed 3": 0.9}
    assert evidence.omissions == ("measurements that the same process or seed has repeated: 1",)


def test_no_records_give_no_evidence():
    assert collect(results()) == {}


# --- the sides of a plan ----------------------------------------------------------------------------------------------


def test_sides_have_the_pairs_under_equal_keys():
    records = results(plan(pairs=2), replicated([[1.0], [2.0]], side="a"), replicated([[3.0], [4.0]], side="b"))
    values = [
        {str(name): {key: p.value for key, p in of_one.processes.items()} for name, of_one in of_side.items()}
        for of_side in sides(records, records.plans["r"])
    ]
    assert values == [
        {"operations/train_step": {"0": 0.001, "1": 0.002}},
        {"operations/train_step": {"0": 0.003, "1": 0.004}},
    ]
    assert collect(records) == {}


def test_pair_without_one_of_its_processes_is_left_out_with_a_remark():
    records = results(plan(pairs=4), replicated([[1.0]] * 4, side="a"), replicated([[1.0]] * 3, side="b"))
    cut = [session("cut", run="r", process=7, side="b"), measurement("cut", session="cut", rounds=2)]
    records = results(list(records.records()), cut)
    judgement = judge(*sides(records, records.plans["r"]), Margins(), is_paired=True)
    assert [(c.num_base, c.num_new) for c in judgement.comparisons] == [(3, 3)]
    assert [(o.side, o.reason) for o in judgement.omitted] == [
        ("BASE", "processes without a partner on the other side: 1"),
        ("NEW", "processes that were cut short: 1"),
    ]


def test_side_whose_environment_changed_is_refused():
    other = replicated([[1.0]] * 4, side="b", environment=changed(ENVIRONMENT, commit="other"))[-3:]
    records = results(plan(), replicated([[1.0]] * 3, side="b"), other)
    with pytest.raises(InputError, match="side b was measured in different environments"):
        sides(records, records.plans["r"])


def test_times_are_of_the_given_sessions_only():
    records = results(replicated([[1.0], [2.0]]))
    ((name, entries),) = times(records, [records.sessions["r1"]]).items()
    assert str(name) == "operations/train_step"
    assert [(s.id, key, process.value) for s, key, process in entries] == [("r1", "r1", 0.002)]
