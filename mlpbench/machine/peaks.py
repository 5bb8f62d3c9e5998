"""What the machine can do at best: the rates of a large dense product and of a large copy."""

from collections.abc import Callable

import torch

from mlpbench.machine.clock import now, time_block
from mlpbench.records.kinds import Peak

GEMM_SIZE = {"cpu": 1536, "cuda": 8192}  # 7 GFLOP: some tens of ms on a core; 1.1 TFLOP: some tens on a large GPU
COPY_BYTES = 2**28  # far larger than the caches
REPEATS = 5


def measure(session_id: str, device: torch.device) -> list[Peak]:
    """The peaks of a device: on the CPU for one thread and for as many as PyTorch uses, else once.

    Each is the best of five, since it stands for what the silicon can do: on the CPU of the products of both libraries
    that PyTorch has, since MKL keeps to AVX2 on processors that are not Intel's. Float32, at PyTorch's present
    precision of products.
    """
    if device.type != "cpu":
        return [_peak(session_id, device)]
    before = torch.get_num_threads()
    try:
        found = []
        for num_threads in sorted({1, before}):
            torch.set_num_threads(num_threads)
            found.append(_peak(session_id, device))
        return found
    finally:
        torch.set_num_threads(before)


def _peak(session_id: str, device: torch.device) -> Peak:
    size = GEMM_SIZE[device.type]
    one, two, product = (torch.rand(size, size, device=device) for _ in range(3))
    ways: list[Callable[[], object]] = [lambda: torch.mm(one, two, out=product)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(one, two, None, "none", [], ""))
    source, copy = (torch.zeros(COPY_BYTES // 4, device=device) for _ in range(2))
    return Peak(
        session=session_id,
        device=device.type,
        num_threads=torch.get_num_threads(),
        gemm_flops_per_s=2 * size**3 / min(map(_best_s, ways)),
        copy_bytes_per_s=2 * COPY_BYTES / _best_s(lambda: copy.copy_(source)),
    )


def _best_s(call: Callable[[], object]) -> float:
    call()
    return min(time_block(call, 1, now) for _ in range(REPEATS)) / 1e9
