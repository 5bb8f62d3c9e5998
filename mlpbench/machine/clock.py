"""The one clock that synchronises."""

import time
from collections.abc import Callable

import torch

DEVICE_WAIT_CYCLES = 50_000_000  # some 30 ms, in which the host fills the queue


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


def waiting(call: Callable[[], object]) -> Callable[[], object]:
    """The call, and then the wait for the device: what a step costs someone who looks at its result."""

    def wait() -> float:
        call()
        return clock()

    return wait


def device_block(call: Callable[[], object], iterations: int) -> int:
    """Nanoseconds that the GPU needs for `iterations` calls whose kernels wait in its queue: no time of the host's."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(DEVICE_WAIT_CYCLES)  # PyTorch has no public way to hold the queue
    start.record()
    for _ in range(iterations):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return max(round(milliseconds * 1e6), 1)
