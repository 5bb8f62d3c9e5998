"""Read the time only after the device has finished: the only module that waits for a device in order to time it."""

import time
from collections.abc import Callable

import torch

# About 30 ms, in which the host fills the queue.
DEVICE_WAIT_CYCLES = 50_000_000


def now() -> float:
    """Return the seconds of a monotonic clock, read after the device has finished all work given to it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_block(call: Callable[[], object], iterations: int, now: Callable[[], float] = now) -> int:
    """Time `iterations` calls, in nanoseconds."""
    start = now()
    for _ in range(iterations):
        call()
    return round((now() - start) * 1e9)


def waiting(call: Callable[[], object]) -> Callable[[], object]:
    """Return a function that calls and then waits for the device: the cost of a step whose result is used at once."""

    def wait() -> float:
        call()
        return now()

    return wait


def device_block(call: Callable[[], object], iterations: int) -> int:
    """Time `iterations` calls on the GPU, in nanoseconds, while their kernels wait in its queue.

    The time holds nothing of the host's.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # PyTorch has no public function that holds the queue.
    torch.cuda._sleep(DEVICE_WAIT_CYCLES)
    start.record()
    for _ in range(iterations):
        call()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return max(round(milliseconds * 1e6), 1)
