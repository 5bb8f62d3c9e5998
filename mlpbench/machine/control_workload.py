"""Run the control workload: a fixed training step beside every block.

If this step gets slower, the machine got slower, not the code under test. The step is written in PyTorch's operations
and imports nothing from the rest of the package. So no change of a model, an engine or an optimizer can change it.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SIZES = (784, 150, 150, 150, 10)
BATCH_SIZE = 100
CALLS = 6
"""Timed steps for each value: 4 to 6 ms on two CPU cores, beside blocks of 20 ms."""


class Control:
    """Run forward and backward of the tutorial's perceptron on random numbers, with the current thread count."""

    def __init__(self, device: torch.device, now: Callable[[], float]) -> None:
        noise = torch.Generator().manual_seed(0)
        self._now = now
        self._x = torch.randn(BATCH_SIZE, SIZES[0], generator=noise).to(device)
        self._y = torch.randint(SIZES[-1], (BATCH_SIZE,), generator=noise).to(device)
        self._weights = [
            (torch.randn(num_out, num_in, generator=noise) / num_in**0.5).to(device).requires_grad_()
            for num_in, num_out in itertools.pairwise(SIZES)
        ]

    def __call__(self) -> int:
        """Return the nanoseconds of one step, as the mean of a few steps.

        Untimed steps come first, which bring the data back into the caches.
        """
        for _ in range(2):
            self._step()
        start = self._now()
        for _ in range(CALLS):
            self._step()
        return max(round((self._now() - start) * 1e9 / CALLS), 1)

    def _step(self) -> tuple[Tensor, ...]:
        weight0, weight1, weight2, weight3 = self._weights
        hidden = torch.relu(self._x @ weight0.T)
        hidden = torch.tanh(hidden @ weight1.T)
        hidden = functional.elu(hidden @ weight2.T)
        loss = functional.cross_entropy(hidden @ weight3.T, self._y)
        return torch.autograd.grad(loss, self._weights)
