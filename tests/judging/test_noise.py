"""Check the noise floor: disjoint comparisons of one machine with itself."""

import pytest

from mlpbench.errors import InputError
from mlpbench.judging import noise
from mlpbench.judging.evidence import ProcessEvidence
from mlpbench.judging.metrics import Benchmark, Metric
from tests.strategies import plan, replicated, results

NAME = Benchmark(Metric.SECONDS, "x")


def test_self_comparisons_are_of_disjoint_processes():
    values = [ProcessEvidence(value=1 + i / 100) for i in range(12)]
    judgements = noise.self_comparisons([{NAME: v} for v in values], 5)
    assert len(judgements) == 6
    ratios = [j.comparisons[0].ratio for j in judgements]
    assert all(ratio > 1 for ratio in ratios)
    assert noise.floor_ratio([j.comparisons[0] for j in judgements]) == pytest.approx(max(ratios))


def test_floor_holds_the_share_that_is_asked_for():
    values = [ProcessEvidence(value=1 + i / 100) for i in range(12)]
    comparisons = [j.comparisons[0] for j in noise.self_comparisons([{NAME: v} for v in values], 5)]
    ratios = sorted(c.ratio for c in comparisons)
    assert noise.floor_ratio(comparisons, share=0.5) == pytest.approx(ratios[2])


def test_evidence_has_the_benchmarks_that_every_process_measured():
    other = Benchmark(Metric.SECONDS, "other")
    one, two = ProcessEvidence(value=1.0), ProcessEvidence(value=2.0)
    evidence = noise.as_evidence([{NAME: one, other: one}, {NAME: two}])
    assert {name: of_one.processes for name, of_one in evidence.items()} == {NAME: {"0": one, "1": two}}


def of_aa(num_pairs: int, factor: float = 1.0):
    """Return the records of an `aa` run in which the last process of each pair is slower by a factor."""
    return results(
        plan(pairs=num_pairs, interleaved=False),
        replicated([[1.0, 1.01]] * num_pairs, side="a", suite="ab"),
        replicated([[factor, factor * 1.01]] * num_pairs, side="b", suite="ab"),
    )


def test_floor_of_a_steady_machine_is_narrow_and_without_false_alarms():
    records = of_aa(6)
    (floor,) = noise.floors(records, records.plans["r"], "a session")
    assert (floor.session, floor.suite, floor.operation) == ("a session", "ab", "train_step")
    assert (floor.processes, floor.comparisons, floor.false_alarms) == (5, 6, 0)
    assert floor.floor_ratio == pytest.approx(1.0)


def test_processes_are_compared_in_the_order_in_which_they_ran():
    # Sides a and b alternate, so that every 5 successive processes have both levels.
    records = of_aa(5, factor=1.2)
    (floor,) = noise.floors(records, records.plans["r"], "a session")
    assert floor.comparisons == 1
    # Processes 0, 2 and 4 are fast in the first five; 6 and 8 in the last five.
    assert floor.floor_ratio == pytest.approx(1.2**0.2)


def test_fewer_than_ten_processes_have_no_floor():
    records = of_aa(4)
    with pytest.raises(InputError, match="a noise floor needs 10 processes, not 8"):
        noise.floors(records, records.plans["r"], "a session")
