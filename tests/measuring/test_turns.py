"""Test plans of fresh processes, with stand-ins: their order, what an interruption leaves, what resuming adds."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.judging.evidence import sides
from mlpbench.measuring import turns
from mlpbench.measuring.side import Side, parse_side
from mlpbench.records.kinds import Ending, Measurement, Session
from tests.strategies import ENVIRONMENT, blocks, measurement, plan, results, session


class FakeProcess:
    """Log every command that a worker gets, and emit its records at once."""

    log: list[str]
    count = itertools.count()
    last_job: dict

    def __init__(self, side, source, job, emit):
        self.side, self.job, self.emit = side, job, emit
        name = f"p{job['process']}-{next(FakeProcess.count)}"
        self.session = session(name, run=job["run"], process=job["process"], side=job["side"])
        FakeProcess.last_job = job
        FakeProcess.log.append(f"start {job['side']}{job['process']}")

    @classmethod
    def start(cls, *arguments):
        return cls(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        self.emit(self.session)

    def ask(self, name, *arguments):
        FakeProcess.log.append(f"{name} {self.job['side']}" + "".join(f" {a}" for a in arguments))
        operations = self.job["operations"]
        if name == "warm":
            for index, operation in enumerate(operations):
                m = f"{self.session.id}-{index}"
                self.emit(
                    measurement(m, session=self.session.id, operation=operation, suite="ab", rounds=self.job["rounds"])
                )
        if name == "block":
            index, round_index, _ = arguments
            self.emit(*blocks(f"{self.session.id}-{index}", {round_index: 1.0}))


def run(request, complete=None, stop_after=None, emit=None, side=None):
    """Run a plan with fake processes; return their log and the records."""
    FakeProcess.log = []
    records = results(request)
    side = side or Side()

    def on_pair(count):
        return f"stopped after {count}" if count == stop_after else None

    turns.run_plan(
        request,
        {"a": side, "b": side},
        complete or {},
        emit or records.add,
        preset="ab",
        warm_up_s=0,
        on_pair=on_pair,
    )
    return FakeProcess.log, records


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr("mlpbench.measuring.turns.WorkerProcess", FakeProcess)


def test_side_is_applied_on_top_of_the_settings_of_both():
    base = RunConfig(activations=("relu",))
    side = parse_side(["hidden_sizes=512,512"], base)
    assert side.settings == ("hidden_sizes=512,512",)
    log, _ = run(plan(config=base, pairs=1), side=side)
    assert log[0].startswith("start")
    assert FakeProcess.last_job["settings"] == ["hidden_sizes=512,512", "activations=relu,relu"]


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "order"), [("a", "abbaab"), ("b", "baabba")])
def test_blocks_are_abba_from_the_first_side(first, order):
    log, _ = run(plan(pairs=1, rounds=3, first=first))
    assert "".join(line.split()[1] for line in log if line.startswith("block")) == order


@pytest.mark.parametrize(("first", "starts"), [("a", ["a0", "b1", "b2", "a3"]), ("b", ["b0", "a1", "a2", "b3"])])
def test_pairs_are_abba_too(first, starts):
    log, _ = run(plan(pairs=2, first=first))
    assert [line.split()[1] for line in log if line.startswith("start")] == starts


def test_both_processes_are_warmed_up_before_the_first_block():
    log, _ = run(plan(pairs=1))
    names = [line.split()[0] for line in log]
    assert names == ["start", "start", "warm", "warm", *["block"] * 4, "end", "end"]


def test_every_operation_is_timed_in_every_round():
    log, records = run(plan(pairs=1, rounds=2, operations=("forward", "epoch")))
    assert sum(line.startswith("block") for line in log) == 8
    assert len(records.blocks) == 8


def test_blocked_plan_measures_one_side_after_the_other():
    log, records = run(plan(pairs=3, rounds=2, interleaved=False, first="b"))
    order = "".join(line.split()[1] for line in log if line.startswith("block"))
    assert order == "bbbbbbaaaaaa"
    assert sorted(s.process for s in records.sessions.values()) == list(range(6))


def test_first_side_is_random():
    def first_side():
        return turns.make_plan(
            Side(), Side(), command="", operations=["forward"], config=RunConfig(), pairs=1,
            rounds=1, interleaved=True,
        ).first  # fmt: skip

    assert {first_side() for _ in range(40)} == {"a", "b"}


def test_reason_to_stop_is_recorded():
    assert run(plan(pairs=3))[1].endings["r"] == Ending(plan="r", reason="all 3 pairs measured")
    log, records = run(plan(pairs=3), stop_after=2)
    assert records.endings["r"].reason == "stopped after 2"
    assert sum(line.startswith("start") for line in log) == 4


def test_records_of_a_plan_have_their_types():
    _, records = run(plan(pairs=1))
    assert {type(r) for r in records.sessions.values()} == {Session}
    assert {type(r) for r in records.measurements.values()} == {Measurement}
    assert {s.environment for s in records.sessions.values()} == {ENVIRONMENT}


# --- interrupted and resumed ------------------------------------------------------------------------------------------


class InterruptionError(Exception):
    pass


@given(st.integers(0, 60), st.sampled_from([True, False]), st.sampled_from(["a", "b"]))
def test_interrupted_plan_resumes_to_the_same_design_without_a_duplicate(num_records, interleaved, first):
    request = plan(pairs=3, rounds=2, interleaved=interleaved, first=first, operations=("forward", "backward"))
    written = []

    def emit(record):
        if len(written) >= num_records:
            raise InterruptionError
        written.append(record)

    try:
        run(request, emit=emit)
    except InterruptionError:
        records = results(request, written)
        assert turns.same_design(records, replace(request, id="other")) == request
        run(request, complete=turns.finished(records, request), emit=records.add)
    else:
        records = results(request, written)
    complete = turns.finished(records, request)
    assert sorted(complete) == list(range(6))
    for process, process_session in complete.items():
        order = [one + other for one, other in itertools.islice(turns.orders(first), 3)]
        expected = (
            order[process // 2][process % 2] if interleaved else first if process % 2 == 0 else "ab"[first == "a"]
        )
        assert process_session.side == expected
    for evidence in sides(records, request):
        assert {len(e.processes) for e in evidence.values()} == {3}
        assert all(p.num_blocks == 2 for e in evidence.values() for p in e.processes.values())


def test_verdicts_are_not_read_again_for_pairs_from_before_the_interruption():
    request = plan(pairs=3)
    _, records = run(request)
    complete = {place: s for place, s in turns.finished(records, request).items() if place < 4}
    _, resumed = run(request, complete=complete, stop_after=2)
    assert resumed.endings["r"].reason == "all 3 pairs measured"


def test_only_the_same_design_is_resumed():
    old = plan()
    records = results(old)
    assert turns.same_design(records, replace(old, id="new")) == old
    for change in ({"pairs": 4}, {"rounds": 3}, {"b": ("lr=1",)}, {"config": RunConfig(seed=1)}):
        assert turns.same_design(records, replace(old, id="new", **change)) is None


@pytest.mark.parametrize("setting", ["env:LD_PRELOAD={}", "python={}"])
def test_plan_with_another_path_is_another_design(setting):
    def request(path):
        side = parse_side([setting.format(path)], RunConfig())
        return turns.make_plan(
            Side(), side, command="ab", operations=["train_step"], config=RunConfig(), pairs=3, rounds=2,
            interleaved=True,
        )  # fmt: skip

    interrupted = request("/opt/one/lib.so")
    assert turns.same_design(results(interrupted), request("/opt/one/lib.so")) == interrupted
    assert turns.same_design(results(interrupted), request("/opt/other/lib.so")) is None
