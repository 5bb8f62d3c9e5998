"""The control workload: a fixed training step that runs beside the blocks.

If it changes its speed the machine did, not what is measured. It is written out in PyTorch's operations, and takes
nothing from the rest of the package, so that no change of models, engines or optimizers can change it.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SIZES = (784, 150, 150, 150, 10)
BATCH_SIZE = 100
CALLS = 6  # 4 to 6 ms on two CPU cores, beside blocks of 20


class Control:
    """Forward and backward of the tutorial's perceptron on noise; with the process's present number of threads."""

    def __init__(self, device: torch.device, now: Callable[[], float]) -> None:
        noise = torch.Generator().manual_seed(0)
        self._now = now
        self._x = torch.randn(BATCH_SIZE, SIZES[0], generator=noise).to(device)
        self._y = torch.randint(SIZES[-1], (BATCH_SIZE,), generator=noise).to(device)
        self._weights = [
            (torch.randn(wide, narrow, generator=noise) / narrow**0.5).to(device).requires_grad_()
            for narrow, wide in itertools.pairwise(SIZES)
        ]

    def __call__(self) -> int:
        """Nanoseconds of one step: the mean of a few, after untimed ones that bring it back into the caches."""
        for _ in range(2):
            self._step()
        start = self._now()
        for _ in range(CALLS):
            self._step()
        return max(round((self._now() - start) * 1e9 / CALLS), 1)

    def _step(self) -> tuple[Tensor, ...]:
        one, two, three, four = self._weights
        hidden = torch.relu(self._x @ one.T)
        hidden = torch.tanh(hidden @ two.T)
        hidden = functional.elu(hidden @ three.T)
        loss = functional.cross_entropy(hidden @ four.T, self._y)
        return torch.autograd.grad(loss, self._weights)
