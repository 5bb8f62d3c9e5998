"""Verdicts: right on data whose truth is known, the same whatever the order, and a gate that cannot pass empty."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.cli.main import main
from mlpbench.config import RunConfig
from mlpbench.judging import noise as noise_floor
from mlpbench.judging.evidence import Sample, samples, sides
from mlpbench.judging.metrics import Benchmark, Metric
from mlpbench.judging.verdict import Margins, judge, judge_plan
from mlpbench.records import store
from mlpbench.records.kinds import Block
from tests import strategies
from tests.strategies import ENVIRONMENT, OTHER_ENVIRONMENT, check, memory, noise, plan, replicated, results, session

STEADY = [[1.0, 1.01, 0.99], [1.01, 1.0, 1.02], [0.99, 1.0, 0.98], [1.0, 1.0, 1.01], [1.0, 0.99, 1.0]]


def scaled(factor: float, processes=STEADY) -> list[list[float]]:
    return [[value * factor for value in times] for times in processes]


def side(processes, **changes):
    return samples(results(replicated(processes, **changes)))


def verdict(base, new, **changes) -> str:
    (comparison,) = judge(base, new, Margins(), **changes).comparisons
    return comparison.verdict


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.2, "slower"), (1.06, "slower"), (1.0, "same"), (1.01, "same"), (1.03, "inconclusive"), (0.8, "faster")],
)
def test_a_change_of_known_size_gets_its_verdict(factor, expected):
    assert verdict(side(STEADY), side(scaled(factor))) == expected


def test_the_ratio_and_its_interval_hold_the_change():
    (comparison,) = judge(side(STEADY), side(scaled(1.2)), Margins()).comparisons
    assert comparison.low_ratio < 1.2 < comparison.high_ratio
    assert comparison.ratio == pytest.approx(1.2, rel=0.01)
    assert comparison.new / comparison.base == pytest.approx(1.2, rel=0.01)
    assert (comparison.num_base, comparison.num_new) == (5, 5)


def test_noise_between_processes_makes_a_change_inconclusive_however_steady_each_process_is():
    wild = [[1.0, 1.0, 1.0], [1.3, 1.3, 1.3], [0.9, 0.9, 0.9], [1.1, 1.1, 1.1], [1.25, 1.25, 1.25]]
    (comparison,) = judge(side(wild), side(scaled(1.1, wild)), Margins()).comparisons
    assert comparison.verdict == "inconclusive"
    assert comparison.detectable_ratio > 1.2


def test_one_outlying_block_in_each_process_changes_nothing():
    spoilt = [[*times[:2], 50.0] for times in STEADY]
    assert verdict(side(STEADY), side(spoilt)) == "same"


def test_one_process_gets_no_verdict():
    judgement = judge(side(STEADY), side(scaled(3)[:1]), Margins())
    assert judgement.comparisons == ()
    assert judgement.unreplicated == ("operations/train_step",)
    assert judgement.exit_code() == 4


def test_several_quick_runs_of_one_commit_are_as_many_processes():
    runs = [r for i, times in enumerate(scaled(1.2)) for r in replicated([times], run=f"q{i}")]
    assert verdict(side(STEADY), samples(results(runs))) == "slower"


def test_only_the_newest_commit_counts():
    old = replicated(scaled(2), run="old", environment=replace(ENVIRONMENT, commit="0ld"))
    new = replicated(STEADY, run="new", started_at="2026-02-01T00:00:00+00:00")
    assert verdict(side(STEADY), samples(results(old, new))) == "same"


def test_a_measurement_that_was_cut_short_does_not_count():
    cut = replicated([[9.0], [9.0]], run="cut", rounds=3)
    (found,) = samples(results(replicated(STEADY), cut)).values()
    assert len(found.processes) == 5


def test_many_benchmarks_need_more_evidence_than_one():
    borderline = [[1.0], [1.06], [0.96], [1.04], [0.98]]

    def both(factor, count):
        records = [replicated(scaled(factor, borderline), run=f"r{i}", config=RunConfig(seed=i)) for i in range(count)]
        return samples(results(*records))

    one = judge(both(1, 1), both(1.12, 1), Margins())
    many = judge(both(1, 30), both(1.12, 30), Margins())
    assert {c.verdict for c in one.comparisons} == {"slower"}
    assert {c.verdict for c in many.comparisons} == {"inconclusive"}


def test_a_flagged_block_is_kept_and_counted():
    (comparison,) = judge(side(STEADY), side(STEADY, flags=("busy",)), Margins()).comparisons
    assert comparison.flagged_share == 0.5
    assert comparison.verdict == "same"


# --- the control workload ---------------------------------------------------------------------------------------------


def test_a_machine_that_changed_its_speed_does_not_pass_for_a_slower_program():
    base = side(STEADY, control_ms=[0.5] * 5)
    (comparison,) = judge(base, side(scaled(1.4), control_ms=[0.68] * 5), Margins()).comparisons
    assert comparison.verdict == "inconclusive"
    assert comparison.margin_from == "control"
    assert comparison.control_ratio == pytest.approx(1.36)


def test_a_change_far_beyond_the_machines_is_still_seen():
    base = side(STEADY, control_ms=[0.5] * 5)
    assert verdict(base, side(scaled(3), control_ms=[0.68] * 5)) == "slower"


def test_a_wide_margin_of_the_machine_is_no_reason_to_say_same():
    base = side(STEADY, control_ms=[0.5] * 5)
    assert verdict(base, side(scaled(1.1), control_ms=[0.68] * 5)) == "inconclusive"


def of_plan(a, b, **changes):
    records = results(
        plan(pairs=len(a)),
        replicated(a, side="a", control_ms=changes.get("control_a")),
        replicated(b, side="b", control_ms=changes.get("control_b")),
    )
    return records, sides(records, records.plans["r"])


def test_pairs_take_out_what_both_share():
    drift = [1.0, 1.4, 1.0, 1.45, 0.98, 1.4]
    a = [[d, 1.01 * d] for d in drift]
    _, both = of_plan(a, scaled(1.05, a))
    assert verdict(*both, is_paired=True) == "slower"
    assert verdict(*both) == "inconclusive"


def test_the_control_takes_out_what_one_process_of_a_pair_has_alone():
    a, b = [[1.0, 1.01]] * 8, scaled(1.05, [[1.0, 1.01]] * 8)
    b[2], b[5] = scaled(1.25, [b[2]])[0], scaled(0.8, [b[5]])[0]
    control_b = [0.5, 0.501, 0.625, 0.499, 0.5, 0.4, 0.5, 0.502]
    _, without = of_plan(a, b)
    records, with_control = of_plan(a, b, control_a=[0.5] * 8, control_b=control_b)
    assert verdict(*without, is_paired=True) == "inconclusive"
    assert verdict(*with_control, is_paired=True) == "slower"
    assert judge_plan(records, records.plans["r"], Margins()).comparisons[0].verdict == "slower"


@pytest.mark.parametrize("label", ["env:GOMP_SPINCOUNT=0", "python=(a path)", "device=cuda", "num_threads=1"])
def test_what_may_change_the_control_is_not_explained_away_by_it(label):
    a, b = [[1.0, 1.01]] * 6, [[f, 1.01 * f] for f in (1.2, 1.21, 1.19, 1.22, 1.2, 1.18)]
    control_b = [0.5 * f for f in (1.2, 1.21, 1.19, 1.22, 1.2, 1.18)]
    records, _ = of_plan(a, b, control_a=[0.5] * 6, control_b=control_b)
    (comparison,) = judge_plan(records, replace(records.plans["r"], b=(label,)), Margins()).comparisons
    assert comparison.verdict == "slower"


def test_a_control_that_the_change_itself_may_touch_is_not_used():
    a, b = [[1.0, 1.01]] * 6, scaled(1.05, [[1.0, 1.01]] * 6)
    control_a, control_b = [0.5] * 6, [0.525 * x for x in (1, 1.01, 0.99, 1, 1.02, 0.98)]
    _, both = of_plan(a, b, control_a=control_a, control_b=control_b)
    other_torch = {i: replace(s, environment=s.environment | {"torch": "2.15.0"}) for i, s in both[1].items()}
    (comparison,) = judge(both[0], other_torch, Margins(), is_paired=True).comparisons
    assert comparison.ratio == pytest.approx(1.05, abs=0.001)
    assert comparison.verdict == "slower"


# --- whatever the order -----------------------------------------------------------------------------------------------

times = st.floats(0.1, 10).map(lambda x: round(x, 3))
processes = st.lists(st.lists(times, min_size=1, max_size=4), min_size=2, max_size=6)
controls = st.none() | st.floats(0.5, 2)
OPPOSITE = {"slower": "faster", "faster": "slower", "same": "same", "inconclusive": "inconclusive"}


@given(processes, processes, controls, st.booleans())
def test_exchanging_base_and_new_gives_the_opposite_verdict_and_the_inverse_interval(one, other, control, is_paired):
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
def test_rounds_and_processes_in_another_order_change_nothing(one, other, random):
    def shuffled(times):
        moved = [random.sample(part, len(part)) for part in times]
        return random.sample(moved, len(moved))

    before = judge(side(one), side(other), Margins()).comparisons[0]
    after = judge(side(shuffled(one)), side(shuffled(other)), Margins()).comparisons[0]
    assert after.verdict == before.verdict
    assert after.ratio == pytest.approx(before.ratio, rel=1e-9)
    assert after.p_value == pytest.approx(before.p_value, abs=1e-9)


@given(processes, st.randoms())
def test_records_in_another_order_in_the_file_change_nothing(one, random):
    records = [*replicated(one), *replicated(scaled(1.2, one), run="n", config=RunConfig(seed=1))]
    blocks = [r for r in records if isinstance(r, Block)]
    others = [r for r in records if not isinstance(r, Block)]
    moved = samples(results(others, random.sample(blocks, len(blocks))))
    assert {i: {k: p.value for k, p in s.processes.items()} for i, s in moved.items()} == {
        i: {k: p.value for k, p in s.processes.items()} for i, s in samples(results(records)).items()
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
def test_the_margin_is_the_most_specific_one_and_not_below_the_noise(margins, expected):
    (comparison,) = judge(side(STEADY), side(STEADY), margins).comparisons
    assert (comparison.margin_ratio, comparison.margin_from) == expected


def test_the_smallest_margin_finds_what_a_wider_one_lets_pass():
    base, new = side(STEADY), side(scaled(1.05))
    assert judge(base, new, Margins(default_ratio=1.02)).exit_code() == 1
    assert judge(base, new, Margins(default_ratio=1.1)).exit_code() == 0


# --- other metrics ----------------------------------------------------------------------------------------------------


def test_more_memory_is_worse():
    base = [session("s"), session("t"), memory(10**9), memory(10**9, session="t")]
    new = [session("s"), session("t"), memory(2 * 10**9), memory(2 * 10**9, session="t")]
    assert verdict(samples(results(base)), samples(results(new))) == "worse"
    assert verdict(samples(results(new)), samples(results(base))) == "better"


def test_less_accuracy_is_worse_seed_by_seed():
    def trained(loss):
        seeds = enumerate([0.91, 0.93, 0.9, 0.92, 0.94])
        return samples(results(session(), *(strategies.trained((0.5, a - loss), seed=s) for s, a in seeds)))

    assert verdict(trained(0), trained(0.1)) == "worse"
    assert verdict(trained(0.1), trained(0)) == "better"
    assert verdict(trained(0), trained(0)) == "same"


def test_bits_that_were_equal_and_no_longer_are_fail_the_gate():
    base = samples(results(session(), check("fresh process")))
    new = samples(results(session(), check("fresh process", first_difference="step 0 loss")))
    assert verdict(base, new) == "worse"
    assert judge(base, new, Margins()).exit_code() == 1
    assert judge(new, base, Margins()).exit_code() == 0


# --- what cannot be compared ------------------------------------------------------------------------------------------


def test_benchmarks_of_one_side_are_named():
    base = results(replicated(STEADY), replicated(STEADY, run="f", operation="forward"))
    new = results(replicated(STEADY), replicated(STEADY, run="b", operation="backward"))
    judgement = judge(samples(base), samples(new), Margins())
    assert judgement.missing == ("operations/forward",)
    assert judgement.new == ("operations/backward",)
    assert judgement.exit_code() == 4
    assert judgement.exit_code(allow_missing=True) == 0


def test_a_benchmark_whose_workload_changed_is_named_with_what_changed():
    new = side(STEADY, config=RunConfig(lr=0.1))
    judgement = judge(side(STEADY), new, Margins())
    assert judgement.changed == ("operations/train_step → operations/train_step lr=0.1",)
    assert judgement.exit_code() == 4


def test_another_machine_is_not_comparable_and_the_field_is_named():
    judgement = judge(side(STEADY), side(STEADY, environment=OTHER_ENVIRONMENT), Margins())
    assert judgement.comparisons == ()
    (line,) = judgement.incomparable
    assert "cpu_model Example CPU → Example GPU host" in line
    assert judgement.exit_code() == 4


def test_another_torch_is_comparable_and_named():
    judgement = judge(side(STEADY), side(STEADY, environment=replace(ENVIRONMENT, torch="2.15.0")), Margins())
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
        (1.2, ("inconclusive",), 1),  # what fails too does not replace what always fails
        (1.2, ("faster",), 1),
    ],
)
def test_the_exit_code_follows_what_shall_fail(factor, fail_on, code):
    assert judge(side(STEADY), side(scaled(factor)), Margins()).exit_code(fail_on) == code


def test_times_of_one_process_do_not_pass_behind_a_check_that_needs_one_only():
    def quick(factor):
        return samples(results(replicated(scaled(factor)[:1]), check("fresh process", session="r0")))

    judgement = judge(quick(1), quick(3), Margins())
    assert [c.verdict for c in judgement.comparisons] == ["same"]
    assert judgement.exit_code() == 4


def test_what_only_an_older_commit_has_measured_is_missing():
    old = [
        replicated(STEADY, run="o", environment=replace(ENVIRONMENT, commit="0ld")),
        replicated(STEADY, run="p", operation="epoch", environment=replace(ENVIRONMENT, commit="0ld")),
    ]
    new = samples(results(*old, replicated(STEADY, run="n", started_at="2026-02-01T00:00:00+00:00")))
    assert set(new) == {("seconds", "operations/train_step")}


def test_of_changed_source_only_the_last_run_counts():
    dirty = replace(ENVIRONMENT, dirty=True)
    one = replicated(STEADY, run="o", environment=dirty)
    other = replicated(scaled(2), run="p", environment=dirty, started_at="2026-02-01T00:00:00+00:00")
    (found,) = samples(results(one, other)).values()
    assert sorted(found.processes) == ["p0", "p1", "p2", "p3", "p4"]


# --- a machine against itself -----------------------------------------------------------------------------------------


def test_self_comparisons_are_of_disjoint_stretches():
    values = [Sample(value=1 + i / 100) for i in range(12)]
    made = noise_floor.self_comparisons([{Benchmark(Metric.SECONDS, "x"): v} for v in values], 5)
    assert len(made) == 6
    ratios = [j.comparisons[0].ratio for j in made]
    assert all(ratio > 1 for ratio in ratios)
    assert noise_floor.floor_ratio([j.comparisons[0] for j in made]) == pytest.approx(max(ratios))


# --- the gate, as people run it ---------------------------------------------------------------------------------------


def write(path: Path, *records) -> str:
    for item in records:
        for record in item if isinstance(item, list) else [item]:
            store.append(path, record)
    return str(path)


@pytest.fixture
def gate(tmp_path, capsys, monkeypatch):
    """`mlpbench compare`: its exit code, and what it printed; no traceback, ever."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["compare", *arguments])
        output = capsys.readouterr()
        assert "Traceback" not in output.out + output.err
        return code, output.out + output.err

    return run


def test_trap_a_regression_ends_with_1_and_a_table(gate):
    code, printed = gate(
        write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    )
    assert code == 1
    assert "slower" in printed


def test_trap_everything_renamed_ends_with_4(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    code, printed = gate(base, write(Path("b.jsonl"), replicated(STEADY, suite="renamed", run="n")))
    assert code == 4
    assert "nothing compared" in printed


@pytest.mark.parametrize("absent", ["0099", "baseline.jsonl"])
def test_trap_a_base_that_is_not_there_ends_with_2_and_names_it(gate, absent):
    code, printed = gate(absent, write(Path("b.jsonl"), replicated(STEADY, run="n")))
    assert code == 2
    assert absent in printed
    assert len(printed.splitlines()) == 1


def test_trap_judging_twice_never_moves_the_baseline(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    before = Path(base).read_bytes()
    assert [gate(base, new)[0], gate(base, new)[0]] == [1, 1]
    assert Path(base).read_bytes() == before


def test_trap_a_new_benchmark_does_not_become_the_reference(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = write(Path("b.jsonl"), replicated(scaled(1.2), run="n"), replicated(STEADY, run="z", suite="aaa"))
    assert gate(base, new, "--json", "v.json")[0] == 1
    content = json.loads(Path("v.json").read_text())
    assert [c["verdict"] for c in content["comparisons"]] == ["slower"]
    assert content["new"] == ["aaa/train_step"]


def test_trap_another_machine_ends_with_4_and_names_the_field(gate, tmp_path):
    base = write(tmp_path / "elsewhere" / "a.jsonl", replicated(STEADY))
    code, printed = gate(base, write(Path("b.jsonl"), replicated(scaled(9), environment=OTHER_ENVIRONMENT, run="n")))
    assert code == 4
    assert "cpu_model" in printed


def test_trap_parametrised_and_plain_benchmarks_compare_side_by_side(gate):
    def both(name, factor):
        varied = RunConfig(batch_size=10)
        return [*replicated(scaled(factor), run=name), *replicated(scaled(factor), run=f"{name}v", config=varied)]

    code, printed = gate(write(Path("a.jsonl"), both("a", 1)), write(Path("b.jsonl"), both("b", 1)))
    assert code == 0
    assert "2 same" in printed


def test_trap_a_run_that_measured_nothing_cannot_pass(gate):
    new = write(Path("b.jsonl"), session())
    assert gate(write(Path("a.jsonl"), replicated(STEADY)), new)[0] == 4
    Path("empty.jsonl").touch()
    assert gate("a.jsonl", "empty.jsonl")[0] == 2


def test_a_single_process_cannot_pass_the_gate(gate):
    code, printed = gate(
        write(Path("a.jsonl"), replicated(STEADY[:1])), write(Path("b.jsonl"), replicated(scaled(3)[:1], run="n"))
    )
    assert code == 4
    assert "one process" in printed


def test_damage_is_told_and_never_passes(gate):
    base = write(Path("a.jsonl"), replicated(STEADY))
    new = Path(write(Path("b.jsonl"), replicated(STEADY, run="n")))
    new.write_bytes(new.read_bytes()[:-30])
    code, printed = gate(base, str(new))
    assert code == 2
    assert "cut off" in printed


def test_thresholds_of_pyproject_are_the_gates(gate):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    Path("pyproject.toml").write_text('[tool.mlpbench.thresholds]\n"operations/*" = "30%"\n')
    assert gate(base, new)[0] == 0
    Path("pyproject.toml").write_text('[tool.mlpbench.thresholds]\n"operations/*" = "wide"\n')
    code, printed = gate(base, new)
    assert code == 2
    assert "thresholds" in printed


def test_the_noise_floor_of_this_machine_is_the_margin(gate):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.06), run="n"))
    assert gate(base, new)[0] == 1
    write(Path("results") / ENVIRONMENT.machine / "aa.jsonl", session(), noise(1.15))
    code, printed = gate(base, new)
    assert code == 0
    assert "noise" in printed


def test_new_cannot_be_compared_with_itself(gate):
    path = write(Path("a.jsonl"), replicated(STEADY))
    code, printed = gate(path, path)
    assert code == 2
    assert "the same measurements" in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--margin", "3"], "5%"),
        (["--margin", "wide"], "5%"),
        (["--fail-on", "slow"], "unknown verdict"),
        (["--html", "no/such/v.html"], "no folder"),
    ],
)
def test_options_that_cannot_be_end_with_2_and_one_line(gate, capsys, arguments, told):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(STEADY, run="n"))
    try:
        code, printed = gate(base, new, *arguments)
    except SystemExit as stop:  # argparse's way
        code, printed = stop.code, capsys.readouterr().err
    assert code == 2
    assert told in printed
    assert len(printed.splitlines()) == 1


def test_a_file_of_two_runs_of_ab_is_refused(gate):
    a = [[1.0, 1.01]] * 4
    path = write(Path("ab.jsonl"), plan(pairs=4), replicated(a, side="a"), replicated(a, side="b"), plan(id="other"))
    code, printed = gate(path)
    assert code == 2
    assert "2 runs" in printed


def test_a_damaged_file_of_ab_never_passes(gate):
    a = [[1.0, 1.01]] * 4
    path = Path(write(Path("ab.jsonl"), plan(pairs=4), replicated(a, side="a"), replicated(a, side="b")))
    path.write_bytes(path.read_bytes()[:-30])
    assert gate(str(path))[0] == 2


def test_a_side_that_changed_its_source_meanwhile_is_refused(gate):
    a = [[1.0, 1.01]] * 4
    changed = replicated(a, side="b", environment=replace(ENVIRONMENT, commit="other"))[-4:]
    path = write(Path("ab.jsonl"), plan(pairs=4), replicated(a, side="a"), replicated(a[:3], side="b"), changed)
    code, printed = gate(path)
    assert code == 2
    assert "different environments" in printed


def test_a_mistake_of_ours_does_not_pass_for_a_regression(gate, monkeypatch, tmp_path):
    monkeypatch.setattr("mlpbench.judging.verdict.judge", lambda *_: 1 / 0)
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(STEADY, run="n"))
    assert main(["compare", base, new]) == 70


def test_every_form_of_output_holds_the_verdict(gate):
    base, new = write(Path("a.jsonl"), replicated(STEADY)), write(Path("b.jsonl"), replicated(scaled(1.2), run="n"))
    options = [part for name in ("json", "csv", "markdown", "html") for part in (f"--{name}", f"v.{name}")]
    assert gate(base, new, *options)[0] == 1
    for name in ("json", "csv", "markdown", "html"):
        assert "slower" in Path(f"v.{name}").read_text()
    assert json.loads(Path("v.json").read_text())["comparisons"][0]["verdict"] == "slower"


def test_a_file_of_ab_is_judged_again_by_itself(gate):
    a = [[1.0, 1.01]] * 4
    path = write(
        Path("ab.jsonl"),
        plan(pairs=4),
        replicated(a, side="a", suite="ab"),
        replicated(scaled(1.1, a), side="b", suite="ab"),
    )
    code, printed = gate(path)
    assert code == 1
    assert "not finished" in printed


# --- pytest-benchmark's JSON of anybody's project ---------------------------------------------------------------------


def pytest_benchmark(folder: Path, medians: list[float]) -> str:
    """A folder of JSON files, one for each process."""
    folder.mkdir()
    for number, median in enumerate(medians):
        machine = {"machine": "x86_64", "cpu": {"brand_raw": "Example CPU", "count": 2}, "python_version": "3.12.4"}
        stats = {"median": median, "data": [median * x for x in (1, 1.01, 0.99)], "rounds": 3}
        benchmark = {"name": "test_x", "fullname": "tests/test_x.py::test_x", "group": None, "stats": stats}
        content = {"machine_info": machine, "commit_info": {}, "benchmarks": [benchmark], "version": "5.3.1"}
        (folder / f"{number:04}.json").write_text(json.dumps(content))
    return str(folder)


def test_json_of_pytest_benchmark_is_judged_by_its_processes(gate):
    base = pytest_benchmark(Path("base"), [1.0, 1.01, 0.99, 1.0])
    new = pytest_benchmark(Path("new"), [1.2, 1.21, 1.19, 1.2])
    code, printed = gate(base, new)
    assert code == 1
    assert "tests/test_x.py::test_x" in printed


def test_a_single_json_of_pytest_benchmark_is_marked_as_one_process(gate):
    base = pytest_benchmark(Path("base"), [1.0])
    new = pytest_benchmark(Path("new"), [5.0])
    code, printed = gate(f"{base}/0000.json", f"{new}/0000.json")
    assert code == 4
    assert "one process" in printed


def test_a_run_that_learnt_nothing_at_all_has_a_verdict_and_one_that_is_no_number_none():
    def trained(*accuracies):
        return samples(results(session(), *(strategies.trained((a,), seed=s) for s, a in enumerate(accuracies))))

    assert verdict(trained(0.9, 0.91, 0.9), trained(0.0, 0.0, 0.0)) == "worse"
    assert judge(trained(0.9, 0.91), trained(math.nan, math.nan), Margins()).missing != ()
