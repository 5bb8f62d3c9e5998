"""The one clock that synchronises; warm up, calibrate, and measure in turns.

No other file of the project waits for a device in order to time it.
"""

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mlpbench.config import Clock, Operation, RunConfig
from mlpbench.errors import InputError, check_name
from mlpbench.machine.clock import device_block, now, time_block, waiting
from mlpbench.machine.control_workload import Control
from mlpbench.machine.sentinels import Sentinels
from mlpbench.records.kinds import Block, Measurement, Session

MIN_BLOCK_S = 0.020  # a synchronisation costs about 10 us: under .1 % of such a block
SETTLED_RATIO = 0.02  # two successive blocks within this have settled


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How much to measure. One process describes itself only: verdicts need several."""

    processes: int  # fresh ones, one after the other
    rounds: int  # blocks of an operation shorter than MIN_BLOCK_S, in each process
    epoch_rounds: int  # blocks of an operation that is longer, one call each
    warm_up_s: float  # at most, per measurement


PRESETS = {
    "quick": Preset(processes=1, rounds=5, epoch_rounds=3, warm_up_s=0.3),
    "default": Preset(processes=5, rounds=10, epoch_rounds=3, warm_up_s=0.5),
    "rigorous": Preset(processes=12, rounds=10, epoch_rounds=5, warm_up_s=2.0),
}

# Calls of a block on the device clock: its kernels have to fit into the queue (some 1,000), behind one that waits.
DEVICE_CALLS = 10


class Timeable(Protocol):
    """What `measure` needs of a trainer."""

    @property
    def config(self) -> RunConfig: ...  # noqa: D102
    def operation(self, name: str) -> Callable[[], object]: ...  # noqa: D102
    def samples_per_call(self, name: str) -> int: ...  # noqa: D102
    def prepare(self, name: str) -> None: ...  # noqa: D102


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
    """What runs and reads beside the blocks of one process, outside their timed regions: control and sentinels."""

    def __init__(self, device: torch.device, now: Callable[[], float] = now) -> None:
        self._control = Control(device, now)
        self.sentinels = Sentinels(has_gpu=device.type == "cuda")

    def begin(self) -> None:
        """Right before a block."""
        self.sentinels.begin()

    def end(self) -> tuple[tuple[str, ...], int]:
        """Right after it: its flags, and nanoseconds of the control workload."""
        return self.sentinels.end(), self._control()


def warm_up(call: Callable[[], object], limit_s: float, now: Callable[[], float] = now) -> tuple[int, float, bool]:
    """Call until a block is long enough, and then until two successive blocks agree or the limit is reached.

    The first call is not counted: it may load libraries, and would pass for a block.

    Returns:
        The number of calls that fill a block, the seconds spent, and whether the blocks agreed.
    """
    start = now()
    call()
    iterations = 1
    previous_ns = 0
    while True:
        block_ns = time_block(call, iterations, now)
        if block_ns < MIN_BLOCK_S * 1e9:
            wanted = round(1.1 * MIN_BLOCK_S * 1e9 * iterations / max(block_ns, 1))
            iterations = min(max(wanted, iterations + 1), 10 * iterations)
            previous_ns = 0
            continue
        settled = abs(block_ns - previous_ns) <= SETTLED_RATIO * block_ns
        spent_s = now() - start
        if settled or (previous_ns and spent_s >= limit_s):
            return iterations, spent_s, settled
        previous_ns = block_ns


def ready(trainer: Timeable, operation: str, limit_s: float, now: Callable[[], float] = now) -> tuple[int, float, bool]:
    """Prepare a trainer and warm the operation up; returns what `warm_up` does.

    A long operation is warmed up by single steps, which run the same code, and fills a block with one call.
    """
    trainer.prepare(operation)
    is_long = Operation(operation).is_long
    calls, spent_s, settled = warm_up(trainer.operation("train_step" if is_long else operation), limit_s, now)
    return 1 if is_long else calls, spent_s, settled


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
    """Make an operation ready: the record of what is about to be timed, and the number of calls that fill a block.

    Without a group the measurement is one of its own.
    """
    iterations, spent_s, settled = ready(trainer, operation, warm_up_s, now)
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
        settled=settled,
    )
    return measurement, iterations


def new_id() -> str:
    """A name that no other measurement has."""
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
    """Time one operation of several trainers in turns: every round times each once, in an order drawn anew.

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
    """One timed block, with what happened beside it."""
    call = trainer.operation(measurement.operation)
    trainer.prepare(measurement.operation)
    if watch:
        watch.begin()
    device_ns = None
    if measurement.clock == "device":
        iterations = min(iterations, DEVICE_CALLS)
        wall_ns = device_ns = device_block(call, iterations)
    else:
        wall_ns = time_block(waiting(call) if measurement.clock == "latency" else call, iterations, now)
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
