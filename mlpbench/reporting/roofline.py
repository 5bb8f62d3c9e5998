"""The roof over a time: what its dense products alone would take at the machine's measured rate.

Source: S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model, 2009. Only the compute
roof: a perceptron's parameters stay in the caches, where the memory's rate is no bound.
"""

import itertools
from collections.abc import Sequence

from mlpbench.config import RunConfig
from mlpbench.records.kinds import Peak

NUM_INPUTS, NUM_CLASSES = 784, 10  # of every data set

# Products of a layer: forward; gradient of its weights; gradient of its input, which the first layer does not need.
_PRODUCTS = {
    "forward": (1, 0, 0),
    "evaluate": (1, 0, 0),
    "backward": (0, 1, 1),
    "forward_backward": (1, 1, 1),
    "train_step": (1, 1, 1),
    "epoch": (1, 1, 1),
}


def flops(operation: str, config: RunConfig, num_samples: int) -> int:
    """Floating-point operations in the dense products of one call; 0 for an operation that has none.

    >>> flops("forward", RunConfig(hidden_sizes=(1,), activations=("relu",)), 1) == 2 * (784 + 10)
    True
    """
    forward, of_weights, of_input = _PRODUCTS.get(operation, (0, 0, 0))
    sizes = (NUM_INPUTS, *config.hidden_sizes, NUM_CLASSES)
    layers = [narrow * wide for narrow, wide in itertools.pairwise(sizes)]
    products = (forward + of_weights) * sum(layers) + of_input * sum(layers[1:])
    return 2 * num_samples * products


def roof_s(operation: str, config: RunConfig, num_samples: int, peak: Peak) -> float | None:
    """Seconds under which the products of one call cannot come; None for an operation that has none."""
    count = flops(operation, config, num_samples)
    return count / peak.gemm_flops_per_s if count else None


def find(peaks: Sequence[Peak], device: str, num_threads: int) -> Peak | None:
    """The best peak that was measured for the device, and on the CPU for the number of threads."""
    fitting = [p for p in peaks if p.device == device and (device != "cpu" or p.num_threads == num_threads)]
    return max(fitting, key=lambda peak: peak.gemm_flops_per_s, default=None)
