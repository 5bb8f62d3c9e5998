"""Plans of fresh processes: their order, what a cut leaves, what resuming adds; then with real processes."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.judging.evidence import sides
from mlpbench.measuring import turns
from mlpbench.measuring.side import Side, parse_side
from mlpbench.records.kinds import Ending, Measurement, Session
from tests.strategies import ENVIRONMENT, blocks, measurement, plan, results, session

# --- sides ------------------------------------------------------------------------------------------------------------


def test_a_side_is_settings_variables_interpreter_and_commit(monkeypatch):
    monkeypatch.setattr("mlpbench.measuring.side._git", lambda *arguments: f"hash of {arguments[-1]}")
    settings = ["lr=0.1", "env:OMP_NUM_THREADS=1", "python=/opt/python", "commit=HEAD~1", "env:X=a=b"]
    side = parse_side(settings, RunConfig())
    assert side.settings == ("lr=0.1",)
    assert side.variables == {"OMP_NUM_THREADS": "1", "X": "a=b"}
    assert (side.interpreter, side.commit) == ("/opt/python", "hash of HEAD~1^{commit}")


def test_a_side_goes_on_top_of_the_settings_of_both():
    base = RunConfig(activations=("relu",))
    side = parse_side(["hidden_sizes=512,512"], base)
    assert side.settings == ("hidden_sizes=512,512",)
    log, _ = run(plan(config=base, pairs=1), side=side)
    assert log[0].startswith("start")
    assert FakeProcess.job_of_last["settings"] == ["hidden_sizes=512,512", "activations=relu,relu"]


def test_no_path_gets_into_the_record():
    side = parse_side(["env:LD_PRELOAD=/usr/lib/libjemalloc.so", "python=/home/me/bin/python"], RunConfig())
    assert side.labels == ("env:LD_PRELOAD=(a path)", "python=(a path)")


@pytest.mark.parametrize("setting", ["lr", "=3", "unknown=1", "lr=fast", "batch_size=0"])
def test_a_side_that_cannot_be_is_refused(setting):
    with pytest.raises(InputError):
        parse_side([setting], RunConfig())


# --- order ------------------------------------------------------------------------------------------------------------


class FakeProcess:
    """A process that records what it is told at once."""

    log: list[str]
    count = itertools.count()
    job_of_last: dict

    def __init__(self, side, source, job, emit):
        self.side, self.job, self.emit = side, job, emit
        name = f"p{job['process']}-{next(FakeProcess.count)}"
        self.session = session(name, run=job["run"], process=job["process"], side=job["side"])
        FakeProcess.job_of_last = job
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


def run(wanted, done=None, stop_after=None, emit=None, side=None):
    """Run a plan with fake processes; its log and records."""
    FakeProcess.log = []
    found = results(wanted)
    side = side or Side()

    def on_pair(count):
        return f"stopped after {count}" if count == stop_after else None

    turns.run_plan(
        wanted, {"a": side, "b": side}, done or {}, emit or found.add, preset="ab", warm_up_s=0, on_pair=on_pair
    )
    return FakeProcess.log, found


@pytest.fixture(autouse=True)
def fake(request, monkeypatch):
    if "real" not in request.keywords:
        monkeypatch.setattr("mlpbench.measuring.turns.WorkerProcess", FakeProcess)


@pytest.mark.parametrize(("first", "turns"), [("a", "abbaab"), ("b", "baabba")])
def test_turns_are_abba_from_the_side_that_was_drawn(first, turns):
    log, _ = run(plan(pairs=1, rounds=3, first=first))
    assert "".join(line.split()[1] for line in log if line.startswith("block")) == turns


@pytest.mark.parametrize(("first", "starts"), [("a", ["a0", "b1", "b2", "a3"]), ("b", ["b0", "a1", "a2", "b3"])])
def test_pairs_are_abba_too(first, starts):
    log, _ = run(plan(pairs=2, first=first))
    assert [line.split()[1] for line in log if line.startswith("start")] == starts


def test_both_are_warm_before_the_first_block_and_one_is_warmed_up_at_a_time():
    log, _ = run(plan(pairs=1))
    names = [line.split()[0] for line in log]
    assert names == ["start", "start", "warm", "warm", *["block"] * 4, "end", "end"]


def test_every_operation_is_timed_in_every_round():
    log, found = run(plan(pairs=1, rounds=2, operations=("forward", "epoch")))
    assert sum(line.startswith("block") for line in log) == 8
    assert len(found.blocks) == 8


def test_blocked_measures_one_side_whole_and_then_the_other():
    log, found = run(plan(pairs=3, rounds=2, interleaved=False, first="b"))
    turns = "".join(line.split()[1] for line in log if line.startswith("block"))
    assert turns == "bbbbbbaaaaaa"
    assert sorted(s.process for s in found.sessions.values()) == list(range(6))


def test_the_first_side_is_drawn():
    def draw():
        return turns.make_plan(
            Side(), Side(), command="", operations=["forward"], config=RunConfig(), pairs=1,
            rounds=1, interleaved=True,
        ).first  # fmt: skip

    assert {draw() for _ in range(40)} == {"a", "b"}


def test_why_it_stopped_is_recorded():
    assert run(plan(pairs=3))[1].endings["r"] == Ending(plan="r", reason="all 3 pairs measured")
    log, found = run(plan(pairs=3), stop_after=2)
    assert found.endings["r"].reason == "stopped after 2"
    assert sum(line.startswith("start") for line in log) == 4


# --- cut and resumed --------------------------------------------------------------------------------------------------


class CutError(Exception):
    pass


@given(st.integers(0, 60), st.sampled_from([True, False]), st.sampled_from(["a", "b"]))
def test_a_plan_that_was_cut_anywhere_resumes_to_the_same_design_without_a_duplicate(cut, interleaved, first):
    wanted = plan(pairs=3, rounds=2, interleaved=interleaved, first=first, operations=("forward", "backward"))
    written = []

    def emit(record):
        if len(written) >= cut:
            raise CutError
        written.append(record)

    try:
        run(wanted, emit=emit)
    except CutError:
        before = results(wanted, written)
        assert turns.same_design(before, replace(wanted, id="other")) == wanted
        done = turns.finished(before, wanted)
        run(wanted, done=done, emit=before.add)
    else:
        before = results(wanted, written)
    whole = turns.finished(before, wanted)
    assert sorted(whole) == list(range(6))
    for process, found in whole.items():
        order = [one + other for one, other in itertools.islice(turns.orders(first), 3)]
        expected = (
            order[process // 2][process % 2] if interleaved else first if process % 2 == 0 else "ab"[first == "a"]
        )
        assert found.side == expected
    for identity_samples in sides(before, wanted):
        assert {len(s.processes) for s in identity_samples.values()} == {3}
        assert all(p.num_blocks == 2 for s in identity_samples.values() for p in s.processes.values())


def test_verdicts_are_not_read_again_for_pairs_that_were_there_before_the_cut():
    wanted = plan(pairs=3)
    _, found = run(wanted)
    done = {place: s for place, s in turns.finished(found, wanted).items() if place < 4}
    _, again = run(wanted, done=done, stop_after=2)
    assert again.endings["r"].reason == "all 3 pairs measured"


def test_only_the_same_design_is_resumed():
    old = plan()
    found = results(old)
    assert turns.same_design(found, replace(old, id="new")) == old
    for change in ({"pairs": 4}, {"rounds": 3}, {"b": ("lr=1",)}, {"config": RunConfig(seed=1)}):
        assert turns.same_design(found, replace(old, id="new", **change)) is None


def test_records_of_the_sides_are_of_their_own_types():
    _, found = run(plan(pairs=1))
    assert {type(r) for r in found.sessions.values()} == {Session}
    assert {type(r) for r in found.measurements.values()} == {Measurement}
    assert {s.environment for s in found.sessions.values()} == {ENVIRONMENT}
