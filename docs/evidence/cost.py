"""What the harness itself costs, and whether its clock is right.

    python docs/evidence/cost.py

1. Beside each block of a training step: preparing, sentinels, control workload, writing the record.
2. The clock against a known kernel: calls that wait until a given time has passed, timed in blocks. What is above that
   time is the harness's (and the interpreter's) bias.
3. The block's time against one long run of as many steps between two readings of the clock, in turns.
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
from mlpbench.training.trainer import Trainer

ROUNDS = 60


def milliseconds(seconds: list[float]) -> str:
    """Median and the middle 90 %."""
    ordered = sorted(seconds)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
    return f"{1e3 * statistics.median(ordered):.3f} ms ({1e3 * low:.3f}-{1e3 * high:.3f})"


def beside_a_block() -> None:
    """The parts of `timing.observe`, each on its own clock."""
    trainer = Trainer(RunConfig())
    session = environment.start_session("cost")
    watch = timing.Watch(torch.device("cpu"))
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
            block = timing.Block(
                measurement=measurement.id, round=index, order=0, iterations=iterations, wall_ns=wall_ns,
                control_ns=control_ns, flags=flags,
            )  # fmt: skip
            store.append(path, block)
            clocked("write", start)
    print(f"beside a block of {iterations} training steps; median of {ROUNDS} (middle 90 %)")
    for name, seconds in parts.items():
        print(f"| {name} | {milliseconds(seconds)} |")


def known_kernel() -> None:
    """Blocks of calls whose length is known."""
    print("the clock against calls of a known length")
    for wanted_s in (10e-6, 100e-6, 1e-3, 10e-3):
        taken: list[float] = []

        def wait(wanted_s: float = wanted_s, taken: list[float] = taken) -> None:
            start = now = time.perf_counter()
            while now - start < wanted_s:
                now = time.perf_counter()
            taken.append(now - start)

        iterations, _, _ = timing.warm_up(wait, 0.5)
        biases = []
        for _ in range(30):
            taken.clear()
            measured_ns = time_block(wait, iterations) / iterations
            biases.append(measured_ns - 1e9 * statistics.fmean(taken))
        found = stats.median_interval(biases)
        share = found.estimate / wanted_s / 1e9
        interval = f"{found.low:+.0f} to {found.high:+.0f}"
        print(f"| {wanted_s * 1e6:,.0f} µs | {found.estimate:+.0f} ns ({interval}) | {share:.2%} |")


def long_run() -> None:
    """Blocks against one long stretch."""
    trainer = Trainer(RunConfig())
    iterations, _, _ = timing.ready(trainer, "train_step", 1.0)
    short, long = [], []
    for _ in range(20):
        blocks = [time_block(trainer.train_step, iterations) / iterations for _ in range(15)]
        short.append(statistics.median(blocks))
        long.append(time_block(trainer.train_step, 15 * iterations) / (15 * iterations))
    found = stats.ratio_interval(long, short)
    print(
        f"median of blocks over one stretch of as many steps: {found.estimate:.4f} ({found.low:.4f}-{found.high:.4f})"
    )


if __name__ == "__main__":
    beside_a_block()
    known_kernel()
    long_run()
