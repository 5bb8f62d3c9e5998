"""The one clock that synchronises; warm up, calibrate, and measure in turns.

No other file of the project waits for a device in order to time it.
"""

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mlpbench.records import Block, Measurement, RunConfig, Session

MIN_BLOCK_S = 0.020  # a synchronisation costs about 10 us: under .1 % of such a block
SETTLED_RATIO = 0.02  # two successive blocks within this have settled


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How much to measure. The intervals of one process describe that process only."""

    rounds: int  # blocks of an operation shorter than MIN_BLOCK_S
    epoch_rounds: int  # blocks of an operation that is longer, one call each
    warm_up_s: float  # at most, per measurement


PRESETS = {
    "quick": Preset(rounds=5, epoch_rounds=3, warm_up_s=0.3),
    "default": Preset(rounds=10, epoch_rounds=5, warm_up_s=1.0),
    "rigorous": Preset(rounds=30, epoch_rounds=10, warm_up_s=3.0),
}

# The operations that last longer than a block: one call is one block, from a fresh state.
LONG_OPERATIONS = frozenset({"epoch"})


class Timeable(Protocol):
    """What `measure` needs of a trainer."""

    @property
    def config(self) -> RunConfig: ...  # noqa: D102
    def operation(self, name: str) -> Callable[[], object]: ...  # noqa: D102
    def samples_per_call(self, name: str) -> int: ...  # noqa: D102
    def prepare(self, name: str) -> None: ...  # noqa: D102


def clock() -> float:
    """Seconds of a monotonic clock, read once everything given to the device is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_block(call: Callable[[], object], iterations: int, clock: Callable[[], float] = clock) -> int:
    """Nanoseconds of `iterations` calls."""
    start = clock()
    for _ in range(iterations):
        call()
    return round((clock() - start) * 1e9)


def warm_up(call: Callable[[], object], limit_s: float, clock: Callable[[], float] = clock) -> tuple[int, float, bool]:
    """Call until a block is long enough, and then until two successive blocks agree or the limit is reached.

    The first call is not counted: it may load libraries, and would pass for a block.

    Returns:
        The number of calls that fill a block, the seconds spent, and whether the blocks agreed.
    """
    start = clock()
    call()
    iterations = 1
    previous_ns = 0
    while True:
        block_ns = time_block(call, iterations, clock)
        if block_ns < MIN_BLOCK_S * 1e9:
            wanted = round(1.1 * MIN_BLOCK_S * 1e9 * iterations / max(block_ns, 1))
            iterations = min(max(wanted, iterations + 1), 10 * iterations)
            previous_ns = 0
            continue
        settled = abs(block_ns - previous_ns) <= SETTLED_RATIO * block_ns
        spent_s = clock() - start
        if settled or (previous_ns and spent_s >= limit_s):
            return iterations, spent_s, settled
        previous_ns = block_ns


def ready(
    trainer: Timeable, operation: str, limit_s: float, clock: Callable[[], float] = clock
) -> tuple[int, float, bool]:
    """Prepare a trainer and warm the operation up; returns what `warm_up` does.

    A long operation is warmed up by single steps, which run the same code, and fills a block with one call.
    """
    trainer.prepare(operation)
    is_long = operation in LONG_OPERATIONS
    calls, spent_s, settled = warm_up(trainer.operation("train_step" if is_long else operation), limit_s, clock)
    return 1 if is_long else calls, spent_s, settled


def describe(
    trainer: Timeable,
    operation: str,
    session: Session,
    *,
    suite: str,
    group: str,
    warm_up_s: float,
    settled: bool,
) -> Measurement:
    """The record of what is about to be timed."""
    return Measurement(
        id=uuid.uuid4().hex[:12],
        session=session.id,
        suite=suite,
        group=group,
        operation=operation,
        config=trainer.config,
        clock="throughput",
        samples_per_call=trainer.samples_per_call(operation),
        warm_up_s=round(warm_up_s, 6),
        settled=settled,
    )


def measure(
    operation: str,
    trainers: Sequence[Timeable],
    *,
    session: Session,
    suite: str,
    rounds: int,
    warm_up_s: float,
    emit: Callable[[Measurement | Block], None],
    clock: Callable[[], float] = clock,
) -> None:
    """Time one operation of several trainers in turns: every round times each once, in an order drawn anew.

    Every record is emitted as soon as it exists.
    """
    group = uuid.uuid4().hex[:12]
    shuffle = random.Random(group)  # noqa: S311 (an order, not a secret)
    turns = []
    for trainer in trainers:
        iterations, spent_s, settled = ready(trainer, operation, warm_up_s, clock)
        measurement = describe(
            trainer, operation, session, suite=suite, group=group, warm_up_s=spent_s, settled=settled
        )
        turns.append((measurement, trainer, iterations))
        emit(measurement)
    for round_index in range(rounds):
        shuffle.shuffle(turns)
        for order, (measurement, trainer, iterations) in enumerate(turns):
            trainer.prepare(operation)
            wall_ns = time_block(trainer.operation(operation), iterations, clock)
            emit(
                Block(
                    measurement=measurement.id,
                    round=round_index,
                    order=order,
                    iterations=iterations,
                    wall_ns=wall_ns,
                )
            )
