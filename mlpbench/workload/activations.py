"""ACTIVATIONS: PyTorch's own, and the tutorial's three written again as `torch.autograd.Function`.

The custom ones are the tutorial's lesson on layers of one's own: a forward that saves what its backward needs. They
differ from PyTorch's in nothing but who wrote the derivative.

Shapes: any; output and gradient have the input's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Relu(torch.autograd.Function):
    """max(x, 0); derivative 1 where x > 0, else 0, as PyTorch has it at 0."""

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
    """tanh(x); derivative 1 - tanh(x)^2, from the output alone."""

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
    """x where x > 0, else exp(x) - 1; derivative 1, else exp(x) = y + 1, from the output alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.where(x > 0, x, torch.expm1(x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        y: Tensor = ctx.saved_tensors[0]
        return grad_outputs[0] * torch.where(y > 0, torch.ones_like(y), y + 1)


class _Custom(nn.Module):
    """A Function as a layer."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self._function.apply(x)
        return y


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "custom_relu": lambda: _Custom(_Relu),
    "custom_tanh": lambda: _Custom(_Tanh),
    "custom_elu": lambda: _Custom(_Elu),
}
