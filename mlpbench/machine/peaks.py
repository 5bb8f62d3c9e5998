"""Measure the peak rates of the machine: of a large dense product and of a large copy."""

from collections.abc import Callable

import torch

from mlpbench.machine.clock import now, time_block
from mlpbench.records.kinds import Peak

GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the matrices: 7 GFLOP on the CPU, 1.1 TFLOP on a GPU.

A product takes some tens of milliseconds, on one core or on a large GPU.
"""
COPY_BYTES = 2**28
"""Size of the copy, far larger than the caches."""
REPEATS = 5


def measure(session_id: str, device: torch.device) -> list[Peak]:
    """Measure the peak rates of a device.

    On the CPU they are measured for one thread and for PyTorch's current thread count, on a GPU once. A rate is the
    best of five, because it describes the limit of the hardware. On the CPU the products of both of PyTorch's libraries
    are tried, because MKL uses no more than AVX2 on processors of other makers than Intel. The numbers are float32,
    with PyTorch's current precision of products.
    """
    if device.type != "cpu":
        return [_peak(session_id, device)]
    current = torch.get_num_threads()
    peaks = []
    try:
        for num_threads in sorted({1, current}):
            torch.set_num_threads(num_threads)
            peaks.append(_peak(session_id, device))
    finally:
        torch.set_num_threads(current)
    return peaks


def _peak(session_id: str, device: torch.device) -> Peak:
    """Measure the peak rates with the current thread count."""
    size = GEMM_SIZE[device.type]
    a, b, result = (torch.rand(size, size, device=device) for _ in range(3))
    products: list[Callable[[], object]] = [lambda: torch.mm(a, b, out=result)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    source, copy = (torch.zeros(COPY_BYTES // 4, device=device) for _ in range(2))
    return Peak(
        session=session_id,
        device=device.type,
        num_threads=torch.get_num_threads(),
        gemm_flops_per_s=2 * size**3 / min(map(_best_s, products)),
        copy_bytes_per_s=2 * COPY_BYTES / _best_s(lambda: copy.copy_(source)),
    )


def _best_s(call: Callable[[], object]) -> float:
    """Return the shortest time of a call in seconds, after an untimed call."""
    call()
    return min(time_block(call, 1, now) for _ in range(REPEATS)) / 1e9
