"""Test the warm-up, the length of blocks and the interleaving, with a fake clock."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.config import Operation, RunConfig
from mlpbench.machine.clock import now, time_block
from mlpbench.machine.environment import start_session
from mlpbench.measuring.timing import MIN_BLOCK_S, PRESETS, measure, ready, warm_up
from mlpbench.records.kinds import Block, Measurement

TICK = 2.0**-10
"""Seconds whose sums are exact."""


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeCall:
    """Take the given seconds, one value in each call; the last value in all further calls."""

    def __init__(self, clock, *costs):
        self.clock, self.costs, self.num_calls = clock, costs, 0

    def __call__(self):
        self.clock.now += self.costs[min(self.num_calls, len(self.costs) - 1)]
        self.num_calls += 1


class FakeTrainer:
    """Take `cost` seconds in each call and one second in each preparation; log both."""

    def __init__(self, clock, cost, log, seed=0):
        self.config = RunConfig(seed=seed)
        self._clock, self._cost, self._log = clock, cost, log

    def prepare(self, name):
        self._clock.now += 1
        self._log.append(("prepare", name, self.config.seed))

    def operation(self, name):
        def call():
            self._clock.now += self._cost
            self._log.append(("call", name, self.config.seed))

        return call

    def samples_per_call(self, name):
        return 60_000 if Operation(name).is_long else 100


def run(operation, costs, rounds=4, warm_up_s=10.0):
    """Return one log of calls, preparations and emitted records; then the measurements; then the blocks."""
    clock, log = FakeClock(), []
    trainers = [FakeTrainer(clock, cost, log, seed) for seed, cost in enumerate(costs)]
    measure(
        operation,
        trainers,
        session=start_session("test"),
        suite="suite",
        rounds=rounds,
        warm_up_s=warm_up_s,
        emit=log.append,
        now=clock,
    )
    measurements = [entry for entry in log if isinstance(entry, Measurement)]
    return log, measurements, [entry for entry in log if isinstance(entry, Block)]


# --- the clock


def test_clock_is_read_after_the_device_has_finished(monkeypatch):
    events = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: events.append("synchronised"))
    monkeypatch.setattr("time.perf_counter", lambda: events.append("read") or 1.5)
    assert now() == 1.5
    assert events == ["synchronised", "read"]


# --- a block


@pytest.mark.parametrize("iterations", [1, 2, 37])
def test_block_is_the_time_of_its_calls(iterations):
    clock = FakeClock()
    call = FakeCall(clock, TICK)
    assert iterations * 976_562.5 == pytest.approx(time_block(call, iterations, clock), abs=0.5)
    assert iterations == call.num_calls


# --- warm-up


@given(st.floats(1e-5, 2))
def test_warm_up_of_a_steady_call_is_stable_with_blocks_that_are_long_enough(cost):
    clock = FakeClock()
    call = FakeCall(clock, cost)
    iterations, spent_s, is_stable = warm_up(call, 60, clock)
    assert is_stable
    assert iterations * cost >= MIN_BLOCK_S * (1 - 1e-9)
    assert spent_s == clock.now == pytest.approx(call.num_calls * cost)


@given(st.floats(1e-5, 0.01))
def test_blocks_of_a_short_call_are_at_most_twice_as_long_as_needed(cost):
    clock = FakeClock()
    iterations, _, _ = warm_up(FakeCall(clock, cost), 60, clock)
    assert iterations * cost <= 2 * MIN_BLOCK_S


def test_long_call_fills_a_block_alone():
    clock = FakeClock()
    assert warm_up(FakeCall(clock, 0.5), 60, clock) == (1, 1.5, True)


def test_warm_up_continues_until_two_successive_blocks_agree():
    clock = FakeClock()
    call = FakeCall(clock, 9.0, 0.4, 0.3, 0.25, 0.249)
    assert warm_up(call, 60, clock) == (1, 9.0 + 0.4 + 0.3 + 0.25 + 0.249, True)
    assert call.num_calls == 5


@pytest.mark.parametrize(
    ("second", "expected"), [(0.99, True), (0.981, True), (1.019, True), (0.97, False), (1.03, False)]
)
def test_blocks_agree_when_they_are_within_two_percent(second, expected):
    clock = FakeClock()
    (_, _, is_stable) = warm_up(FakeCall(clock, 1.0, 1.0, second), 1.5, clock)
    assert expected == is_stable


@pytest.mark.parametrize("limit_s", [0.3, 60])
def test_slow_first_call_does_not_set_the_length_of_a_block(limit_s):
    clock = FakeClock()
    iterations, _, is_stable = warm_up(FakeCall(clock, 5.0, 0.001), limit_s, clock)
    assert is_stable
    assert MIN_BLOCK_S <= iterations * 0.001 <= 2 * MIN_BLOCK_S


def test_warm_up_that_ends_at_its_limit_is_not_stable():
    clock = FakeClock()
    call = FakeCall(clock, *(0.1 * 1.1**n for n in range(100)))
    _, spent_s, is_stable = warm_up(call, 2.0, clock)
    assert not is_stable
    assert 2.0 <= spent_s == clock.now < 2.5


def test_clock_that_stands_still_causes_no_division_by_zero():
    clock = FakeClock()
    call = FakeCall(clock, *[0.0] * 5, 1.0)
    iterations, _, _ = warm_up(call, 0.5, clock)
    assert iterations > 1


def test_operation_is_prepared_before_it_is_warmed_up():
    clock, log = FakeClock(), []
    iterations, _, is_stable = ready(FakeTrainer(clock, TICK, log), "forward", 60, clock)
    assert tuple(log[:2]) == (("prepare", "forward", 0), ("call", "forward", 0))
    assert is_stable
    assert iterations * TICK >= MIN_BLOCK_S


@pytest.mark.parametrize("operation", [each for each in Operation if each.is_long])
def test_long_operation_is_warmed_up_by_steps_and_fills_a_block_alone(operation):
    clock, log = FakeClock(), []
    iterations, _, _ = ready(FakeTrainer(clock, TICK, log), operation, 60, clock)
    assert iterations == 1
    assert ("prepare", operation, 0) == log[0]
    assert {("call", "train_step", 0)} == set(log[1:])


# --- interleaved


def test_each_round_has_every_trainer_once_with_its_order():
    _, measurements, blocks = run("forward", [TICK, 2 * TICK, 3 * TICK], rounds=7)
    every = {m.id for m in measurements}
    assert len(every) == 3
    assert len(blocks) == 21
    for index in range(7):
        of_round = blocks[3 * index : 3 * index + 3]
        assert [(index, 0), (index, 1), (index, 2)] == [(b.round, b.order) for b in of_round]
        assert every == {b.measurement for b in of_round}


def test_order_of_the_trainers_changes_between_rounds():
    _, _, blocks = run("forward", [TICK] * 4, rounds=30)
    orders = {tuple(b.measurement for b in blocks[start : start + 4]) for start in range(0, 120, 4)}
    assert len(orders) > 1


def test_every_measurement_is_emitted_before_the_first_block():
    log, _, _ = run("forward", [TICK, 2 * TICK])
    kinds = [type(entry) for entry in log if isinstance(entry, Measurement | Block)]
    assert [Measurement] * 2 + [Block] * 8 == kinds


def test_block_is_emitted_as_soon_as_it_exists():
    log, _, blocks = run("forward", [TICK, 2 * TICK])
    for earlier, later in pairwise(blocks):
        between = log[log.index(earlier) + 1 : log.index(later)]
        assert 1 + later.iterations == len(between)


def test_trainer_is_prepared_right_before_each_of_its_blocks():
    log, measurements, _ = run("backward", [TICK, 2 * TICK], rounds=5)
    seeds = {m.id: m.config.seed for m in measurements}
    for index, entry in enumerate(log):
        if isinstance(entry, Block):
            seed = seeds[entry.measurement]
            expected = [("prepare", "backward", seed)] + [("call", "backward", seed)] * entry.iterations
            assert expected == log[index - len(expected) : index]
    assert Counter({0: 6, 1: 6}) == Counter(seed for kind, _, seed in filter(_is_event, log) if kind == "prepare")


def _is_event(entry):
    return isinstance(entry, tuple)


def test_block_holds_the_time_of_its_calls_without_the_preparation():
    costs = [TICK, 2 * TICK, 64 * TICK]
    _, measurements, blocks = run("forward", costs)
    cost = {m.id: costs[m.config.seed] for m in measurements}
    assert [round(b.iterations * cost[b.measurement] * 1e9) for b in blocks] == [b.wall_ns for b in blocks]
    assert all(b.wall_ns >= MIN_BLOCK_S * 1e9 for b in blocks)
    assert all((b.device_ns, b.flags) == (None, ()) for b in blocks)


@pytest.mark.parametrize("operation", [each for each in Operation if each.is_long])
def test_every_block_of_a_long_operation_is_one_call(operation):
    log, (measurement,), blocks = run(operation, [TICK], rounds=3)
    assert [b.iterations for b in blocks] == [1, 1, 1]
    assert log.count(("call", operation, 0)) == 3
    assert measurement.samples_per_call == 60_000


def test_measurement_holds_config_group_and_operation():
    _, measurements, _ = run("forward", [TICK, TICK])
    assert [RunConfig(seed=0), RunConfig(seed=1)] == [m.config for m in measurements]
    assert len({m.group for m in measurements}) == 1
    assert len({m.session for m in measurements}) == 1
    for m in measurements:
        assert (m.operation, m.suite, m.clock, m.samples_per_call) == ("forward", "suite", "throughput", 100)


def test_two_calls_get_different_groups():
    assert run("forward", [TICK])[1][0].group != run("forward", [TICK])[1][0].group


def test_measurement_holds_the_length_and_the_stability_of_the_warm_up():
    # The warm-up has at least two blocks, even above its limit.
    _, (measurement,), blocks = run("forward", [64 * TICK], warm_up_s=1e-9)
    assert (measurement.settled, measurement.warm_up_s) == (True, 3 * 64 * TICK)
    assert len(blocks) == 4


def test_presets_measure_more_from_quick_to_rigorous():
    presets = [PRESETS[name] for name in ("quick", "default", "rigorous")]
    assert len(PRESETS) == 3
    for field in ("processes", "warm_up_s"):
        values = [getattr(preset, field) for preset in presets]
        assert values == sorted(set(values))
    for field in ("rounds", "epoch_rounds"):
        values = [getattr(preset, field) for preset in presets]
        assert values == sorted(values)
