"""Define the tutorial's three activations by hand, as `torch.autograd.Function`.

They are the tutorial's lesson on custom layers: a forward pass that saves the tensors for its backward pass. They
compute the same functions as PyTorch's own. Only the derivative is written by hand.

Shapes: any; output and gradient have the shape of the input.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class _Relu(torch.autograd.Function):
    """Compute max(x, 0); the derivative is 1 where x > 0, else 0. At 0 it is 0, as in PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        y: Tensor = ctx.saved_tensors[0]
        return grad_outputs[0] * (y > 0)


class _Tanh(torch.autograd.Function):
    """Compute tanh(x); the derivative is 1 - tanh(x)^2, from the output alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        y: Tensor = ctx.saved_tensors[0]
        return grad_outputs[0] * (1 - y * y)


class _Elu(torch.autograd.Function):
    """Compute x where x > 0, else exp(x) - 1; the derivative is 1, else exp(x) = y + 1, from the output alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.where(x > 0, x, torch.expm1(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        y: Tensor = ctx.saved_tensors[0]
        return grad_outputs[0] * torch.where(y > 0, torch.ones_like(y), y + 1)


class _Layer(nn.Module):
    """Apply a Function as a layer."""

    function: ClassVar[type[torch.autograd.Function]]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function.apply(x)
        return y


class CustomRelu(_Layer):
    """Apply the hand-written ReLU."""

    function = _Relu


class CustomTanh(_Layer):
    """Apply the hand-written tanh."""

    function = _Tanh


class CustomElu(_Layer):
    """Apply the hand-written ELU."""

    function = _Elu
