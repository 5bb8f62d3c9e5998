"""Measure the cost of the harness itself, and the bias of its clock.

    python docs/evidence/cost.py

1. Beside each block of a training step: preparing, sentinels, control workload, writing the record.
2. The clock against calls of a known length, which wait until a given time has passed. They are timed in blocks. The
   time in excess is the bias of the harness and of the interpreter.
3. The time of a block against one long run of as many steps between two readings of the clock, interleaved.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from mlpbench.config import RunConfig
from mlpbench.judging import statistics as stats
from mlpbench.machine import environment
from mlpbench.machine.clock import time_block
from mlpbench.measuring import timing
from mlpbench.records import store
from mlpbench.records.kinds import Block
from mlpbench.training.trainer import Trainer

ROUNDS = 60


def milliseconds(seconds: list[float]) -> str:
    """Format the median and the middle 90 %."""
    ordered = sorted(seconds)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
    return f"{1e3 * statistics.median(ordered):.3f} ms ({1e3 * low:.3f} to {1e3 * high:.3f})"


def beside_a_block() -> None:
    """Time the parts of `timing.observe` one by one."""
    trainer = Trainer(RunConfig())
    session = environment.start_session("cost")
    watch = timing.Watch.start(torch.device("cpu"))
    measurement, iterations = timing.begin(trainer, "train_step", session, suite="cost", rounds=ROUNDS, warm_up_s=1.0)
    parts: dict[str, list[float]] = {
        name: [] for name in ("block", "prepare", "sentinels, before", "sentinels, after", "control", "write")
    }

    def clocked(name: str, start: float) -> None:
        parts[name].append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "cost.jsonl"
        for record in (session, measurement):
            store.append(path, record)
        for index in range(ROUNDS):
            start = time.perf_counter()
            trainer.prepare("train_step")
            clocked("prepare", start)
            start = time.perf_counter()
            watch.begin()
            clocked("sentinels, before", start)
            start = time.perf_counter()
            wall_ns = time_block(trainer.train_step, iterations)
            clocked("block", start)
            start = time.perf_counter()
            flags = watch.sentinels.end()
            clocked("sentinels, after", start)
            start = time.perf_counter()
            control_ns = watch._control()
            clocked("control", start)
            start = time.perf_counter()
            block = Block(
                measurement=measurement.id, round=index, order=0, iterations=iterations, wall_ns=wall_ns,
                control_ns=control_ns, flags=flags,
            )  # fmt: skip
            store.append(path, block)
            clocked("write", start)
    print(f"beside a block of {iterations} training steps; median of {ROUNDS} (middle 90 %)")
    for name, seconds in parts.items():
        print(f"| {name} | {milliseconds(seconds)} |")


def known_kernel() -> None:
    """Time blocks of calls whose length is known."""
    print("the clock against calls of a known length")
    for length_s in (10e-6, 100e-6, 1e-3, 10e-3):
        lengths: list[float] = []

        def wait(length_s: float = length_s, lengths: list[float] = lengths) -> None:
            start = now = time.perf_counter()
            while now - start < length_s:
                now = time.perf_counter()
            lengths.append(now - start)

        iterations, _, _ = timing.warm_up(wait, 0.5)
        biases = []
        for _ in range(30):
            lengths.clear()
            measured_ns = time_block(wait, iterations) / iterations
            biases.append(measured_ns - 1e9 * statistics.fmean(lengths))
        bias = stats.median_interval(biases)
        share = bias.estimate / length_s / 1e9
        interval = f"{bias.low:+.0f} to {bias.high:+.0f}"
        print(f"| {length_s * 1e6:,.0f} µs | {bias.estimate:+.0f} ns ({interval}) | {share:.2%} |")


def long_run() -> None:
    """Compare blocks with one long stretch of as many steps."""
    trainer = Trainer(RunConfig())
    iterations, _, _ = timing.ready(trainer, "train_step", 1.0)
    short, long = [], []
    for _ in range(20):
        blocks = [time_block(trainer.train_step, iterations) / iterations for _ in range(15)]
        short.append(statistics.median(blocks))
        long.append(time_block(trainer.train_step, 15 * iterations) / (15 * iterations))
    ratio = stats.ratio_interval(long, short)
    interval = f"{ratio.low:.4f} to {ratio.high:.4f}"
    print(f"median of blocks over one stretch of as many steps: {ratio.estimate:.4f} ({interval})")


if __name__ == "__main__":
    beside_a_block()
    known_kernel()
    long_run()
