"""ENGINES: ways to compute one training step.

An engine takes the model and its optimizer and returns `step(x, y) -> (loss, logits)`, which updates the parameters.
Shapes: x (B, D) float32, y (B,) int64 -> loss () in nats per sample, logits (B, C); both before the update, detached.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def eager(model: nn.Module, optimizer: Optimizer) -> Step:
    """PyTorch as everybody writes it: forward, backward by autograd, optimizer."""

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        logits = model(x)
        loss = functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        return loss.detach(), logits.detach()

    return step


ENGINES: dict[str, Callable[[nn.Module, Optimizer], Step]] = {"eager": eager}
