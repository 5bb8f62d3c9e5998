"""Compute the time at the hardware limit: that of the dense products alone, at the peak rate of the machine.

Source: S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model, 2009. Only the limit
of computing is used. The parameters of a perceptron stay in the caches, where the rate of the memory is no limit.
"""

import itertools
from collections.abc import Sequence

from mlpbench.config import RunConfig
from mlpbench.records.kinds import Peak

# Every data set has images of 28 x 28 pixels in 10 classes. `workload.datasets` says the same, but imports torch, which
# reports do without; a test compares the two.
NUM_INPUTS, NUM_CLASSES = 784, 10

# Products of a layer: forward, gradient of its weights, gradient of its input. The first layer does not need the last.
_PRODUCTS = {
    "forward": (1, 0, 0),
    "evaluate": (1, 0, 0),
    "backward": (0, 1, 1),
    "forward_backward": (1, 1, 1),
    "train_step": (1, 1, 1),
    "epoch": (1, 1, 1),
}


def flops(operation: str, config: RunConfig, num_samples: int) -> int:
    """Return the floating-point operations in the dense products of one call; 0 if the operation has no products.

    >>> flops("forward", RunConfig(hidden_sizes=(1,), activations=("relu",)), 1) == 2 * (784 + 10)
    True
    """
    forward, of_weights, of_input = _PRODUCTS.get(operation, (0, 0, 0))
    sizes = (NUM_INPUTS, *config.hidden_sizes, NUM_CLASSES)
    layers = [num_inputs * num_outputs for num_inputs, num_outputs in itertools.pairwise(sizes)]
    products = (forward + of_weights) * sum(layers) + of_input * sum(layers[1:])
    return 2 * num_samples * products


def limit_s(operation: str, config: RunConfig, num_samples: int, peak: Peak) -> float | None:
    """Return the seconds that the products of one call need at the peak rate; None if it has no products."""
    count = flops(operation, config, num_samples)
    return count / peak.gemm_flops_per_s if count else None


def best(peaks: Sequence[Peak], device: str, num_threads: int) -> Peak | None:
    """Return the best peak of the device, on the CPU of this thread count; None if none was measured."""
    candidates = [p for p in peaks if p.device == device and (device != "cpu" or p.num_threads == num_threads)]
    return max(candidates, key=lambda peak: peak.gemm_flops_per_s, default=None)
