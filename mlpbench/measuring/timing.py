"""Warm up, choose the length of a block, and time operations interleaved."""

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch

from mlpbench.config import Clock, Operation, RunConfig
from mlpbench.errors import InputError, check_name
from mlpbench.machine.clock import device_block, now, time_block, waiting
from mlpbench.machine.control_workload import Control
from mlpbench.machine.sentinels import Sentinels
from mlpbench.records.kinds import Block, Measurement, Session

MIN_BLOCK_S = 0.020
"""The shortest block. A synchronisation costs about 10 µs, which is less than 0.1 % of it."""

STABLE_RATIO = 0.02
"""The warm-up is stable when two successive blocks differ by at most this fraction."""

DEVICE_CALLS = 10
"""Calls of a block on the device clock. Their kernels must fit into the GPU's queue of about 1,000 entries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Say how much to measure. A verdict needs several processes, because one process describes only itself."""

    processes: int
    """Fresh processes, one after the other."""
    rounds: int
    """Blocks in each process, for an operation that is shorter than `MIN_BLOCK_S`."""
    epoch_rounds: int
    """Blocks in each process, for a longer operation: one call is one block."""
    warm_up_s: float
    """The longest warm-up of a measurement, in seconds."""


PRESETS = {
    "quick": Preset(processes=1, rounds=5, epoch_rounds=3, warm_up_s=0.3),
    "default": Preset(processes=5, rounds=10, epoch_rounds=3, warm_up_s=0.5),
    "rigorous": Preset(processes=12, rounds=10, epoch_rounds=5, warm_up_s=2.0),
}


class Timeable(Protocol):
    """Describe the part of a trainer that `measure` needs."""

    @property
    def config(self) -> RunConfig: ...  # noqa: D102
    def operation(self, name: str) -> Callable[[], object]: ...  # noqa: D102
    def samples_per_call(self, name: str) -> int: ...  # noqa: D102
    def prepare(self, name: str) -> None: ...  # noqa: D102


class WarmUp(NamedTuple):
    """Hold the outcome of a warm-up."""

    iterations: int
    """The number of calls that fill a block."""
    spent_s: float
    is_stable: bool
    """True if the last two blocks agreed, False if the limit was reached before."""


def check_clock(clock: str, operation: str, device: str) -> None:
    """Check that an operation can be timed by a clock.

    Raises:
        InputError: for an unknown clock, or one that the device or the operation does not have.
    """
    check_name(Clock, clock, "clock")
    if clock == Clock.DEVICE and device != "cuda":
        raise InputError("clock=device needs a GPU; use throughput or latency on the CPU")
    if clock != Clock.THROUGHPUT and Operation(operation).waits_for_device:
        raise InputError(f"{operation} waits for the device itself, so it can be timed by clock=throughput only")


class Watch:
    """Run the control workload and the sentinels beside the blocks of one process, outside their timed regions."""

    def __init__(self, control: Control, sentinels: Sentinels) -> None:
        self._control, self.sentinels = control, sentinels

    @classmethod
    def start(cls, device: torch.device) -> Self:
        """Prepare the control workload on the device, and start the sentinels."""
        return cls(Control(device, now), Sentinels.start(has_gpu=device.type == "cuda"))

    def begin(self) -> None:
        """Start to watch, right before a block."""
        self.sentinels.begin()

    def end(self) -> tuple[tuple[str, ...], int]:
        """Stop right after the block. Return its flags, and the nanoseconds of the control workload."""
        return self.sentinels.end(), self._control()


def warm_up(call: Callable[[], object], limit_s: float, now: Callable[[], float] = now) -> WarmUp:
    """Call until a block is long enough, and then until two successive blocks agree or the limit is reached.

    The first call fills no block, because it may load libraries, and would seem long enough for a block.
    """
    start = now()
    call()
    iterations = 1
    previous_ns = 0
    while True:
        block_ns = time_block(call, iterations, now)
        if block_ns < MIN_BLOCK_S * 1e9:
            estimate = round(1.1 * MIN_BLOCK_S * 1e9 * iterations / max(block_ns, 1))
            iterations = min(max(estimate, iterations + 1), 10 * iterations)
            previous_ns = 0
            continue
        is_stable = abs(block_ns - previous_ns) <= STABLE_RATIO * block_ns
        spent_s = now() - start
        if is_stable or (previous_ns and spent_s >= limit_s):
            return WarmUp(iterations, spent_s, is_stable)
        previous_ns = block_ns


def ready(trainer: Timeable, operation: str, limit_s: float, now: Callable[[], float] = now) -> WarmUp:
    """Prepare a trainer, and warm the operation up.

    A long operation is warmed up by single steps, which run the same code. One call of it fills a block.
    """
    trainer.prepare(operation)
    is_long = Operation(operation).is_long
    outcome = warm_up(trainer.operation("train_step" if is_long else operation), limit_s, now)
    return outcome._replace(iterations=1) if is_long else outcome


def begin(
    trainer: Timeable,
    operation: str,
    session: Session,
    *,
    suite: str,
    rounds: int,
    warm_up_s: float,
    group: str | None = None,
    clock: str = Clock.THROUGHPUT,
    now: Callable[[], float] = now,
) -> tuple[Measurement, int]:
    """Warm an operation up. Return the record of the coming measurement, and the number of calls that fill a block.

    Without a group, the measurement gets a new group to itself.
    """
    iterations, spent_s, is_stable = ready(trainer, operation, warm_up_s, now)
    measurement = Measurement(
        id=new_id(),
        session=session.id,
        suite=suite,
        group=group or new_id(),
        operation=operation,
        config=trainer.config,
        clock=str(clock),
        rounds=rounds,
        samples_per_call=trainer.samples_per_call(operation),
        warm_up_s=round(spent_s, 6),
        settled=is_stable,
    )
    return measurement, iterations


def new_id() -> str:
    """Return a random id, for a measurement or a group."""
    return uuid.uuid4().hex[:12]


def measure(
    operation: str,
    trainers: Sequence[Timeable],
    *,
    session: Session,
    suite: str,
    rounds: int,
    warm_up_s: float,
    emit: Callable[[Measurement | Block], None],
    clock: str = Clock.THROUGHPUT,
    watch: Watch | None = None,
    now: Callable[[], float] = now,
) -> None:
    """Time one operation of several trainers, interleaved: each round times every trainer once, in a new random order.

    Every record is emitted as soon as it exists.
    """
    group = new_id()
    shuffle = random.Random(group)  # noqa: S311 (an order, not a secret)
    turns = []
    for trainer in trainers:
        measurement, iterations = begin(
            trainer,
            operation,
            session,
            suite=suite,
            group=group,
            rounds=rounds,
            warm_up_s=warm_up_s,
            clock=clock,
            now=now,
        )
        turns.append((measurement, trainer, iterations))
        emit(measurement)
    for round_index in range(rounds):
        shuffle.shuffle(turns)
        for order, (measurement, trainer, iterations) in enumerate(turns):
            block = observe(
                measurement,
                trainer,
                iterations=iterations,
                round_index=round_index,
                order=order,
                watch=watch,
                now=now,
            )
            emit(block)


def observe(
    measurement: Measurement,
    trainer: Timeable,
    *,
    iterations: int,
    round_index: int,
    order: int,
    watch: Watch | None,
    now: Callable[[], float] = now,
) -> Block:
    """Time one block, and return it with its flags and the time of the control workload."""
    call = trainer.operation(measurement.operation)
    trainer.prepare(measurement.operation)
    if watch:
        watch.begin()
    device_ns = None
    if measurement.clock == Clock.DEVICE:
        iterations = min(iterations, DEVICE_CALLS)
        wall_ns = device_ns = device_block(call, iterations)
    else:
        wall_ns = time_block(waiting(call) if measurement.clock == Clock.LATENCY else call, iterations, now)
    flags, control_ns = watch.end() if watch else ((), None)
    return Block(
        measurement=measurement.id,
        round=round_index,
        order=order,
        iterations=iterations,
        wall_ns=wall_ns,
        device_ns=device_ns,
        control_ns=control_ns,
        flags=flags,
    )
