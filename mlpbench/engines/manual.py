"""manual: the backward pass by hand, in PyTorch's operations and with buffers that are used again: no autograd.

Shapes: N samples, B batch, D features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines import optimizer_rules
from mlpbench.engines.argument_checks import supported
from mlpbench.engines.engine import Engine, Progress, stages
from mlpbench.workload.activations import by_name

aten = torch.ops.aten
# oneDNN's products use AVX-512 on every processor that has it; MKL's, which PyTorch takes for dense float32, on Intel's
# only. Under so many weights the call costs more than it gains.
_ONEDNN_WEIGHTS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class _Activation:
    forward: Callable[[Tensor, Tensor], object]  # of z, into the second
    backward: Callable[[Tensor, Tensor, Tensor], object]  # the gradient by z, into the first, from that by a; z; a


ACTIVATIONS = by_name(
    {
        "relu": _Activation(
            forward=lambda z, a: torch.clamp_min(z, 0, out=a),
            backward=lambda g, _z, a: aten.threshold_backward.grad_input(g, a, 0, grad_input=g),
        ),
        "tanh": _Activation(
            forward=lambda z, a: torch.tanh(z, out=a),
            backward=lambda g, _z, a: aten.tanh_backward.grad_input(g, a, grad_input=g),
        ),
        "elu": _Activation(
            forward=lambda z, a: aten.elu.out(z, 1, 1, 1, out=a),
            backward=lambda g, _z, a: aten.elu_backward.grad_input(g, 1, 1, 1, True, a, grad_input=g),
        ),
        "leaky_relu": _Activation(
            forward=lambda z, a: aten.leaky_relu.out(z, 0.01, out=a),
            backward=lambda g, z, _a: aten.leaky_relu_backward.grad_input(g, z, 0.01, False, grad_input=g),
        ),
        "gelu": _Activation(
            forward=lambda z, a: aten.gelu.out(z, out=a),
            backward=lambda g, z, _a: aten.gelu_backward.grad_input(g, z, grad_input=g),
        ),
        "silu": _Activation(
            forward=lambda z, a: aten.silu.out(z, out=a),
            backward=lambda g, z, _a: aten.silu_backward.grad_input(g, z, grad_input=g),
        ),
        "sigmoid": _Activation(
            forward=lambda z, a: torch.sigmoid(z, out=a),
            backward=lambda g, _z, a: aten.sigmoid_backward.grad_input(g, a, grad_input=g),
        ),
    }
)


class _Buffers:
    """What the passes of a batch write to; of each layer output z, activation a and gradient g by z."""

    def __init__(self, size: int, weights: optimizer_rules.Tensors) -> None:
        self.x = weights[0].new_empty(size, weights[0].shape[1])
        self.z, self.a, self.g = ([w.new_empty(size, len(w)) for w in weights] for _ in range(3))


class Manual(Engine):
    """Own backward pass over PyTorch's operations, on any device."""

    arithmetic = "manual"

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self._activations = [supported("manual", "activation", ACTIVATIONS, name) for name in config.activations]
        self._take()
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._rule = optimizer_rules.rule(config.optimizer)
        self._state = optimizer_rules.initial_state(self._parameters, config.optimizer)
        self._buffers: dict[int, _Buffers] = {}  # by the size of a batch

    def _take(self) -> None:
        """The model's parameters, wherever they are now: another engine may have moved them."""
        self._parameters = tuple(p.detach() for p in self._model.parameters())
        self._weights, self._biases = self._parameters[::2], self._parameters[1::2]

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.loss(x, y)
        self.backward()
        self.update()
        return loss, self._now.z[-1].clone()

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        self._take()
        order = order.to(x.device)
        labels = y[order]
        logits = torch.empty(len(order), len(self._biases[-1]), dtype=x.dtype, device=x.device)
        parts = zip(order.split(batch_size), labels.split(batch_size), logits.split(batch_size), strict=True)
        with torch.no_grad():
            for index, self._y, kept in parts:
                self._now = self._buffer(len(index))
                self._x = torch.index_select(x, 0, index, out=self._now.x)
                kept.copy_(self._forward())
                self.backward()
                self.update()
        # Every loss at once, since no step needs one.
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return Progress(
            loss_sum=losses.double().sum().item(),
            num_correct=int((logits.argmax(1) == labels).sum().item()),
            last_loss=losses[-len(index) :].mean().item(),
        )

    def forward(self, x: Tensor) -> Tensor:
        self._take()
        self._x, self._now = x, self._buffer(len(x))
        return self._forward().clone()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self._take()
        self._x, self._y, self._now = x, y, self._buffer(len(x))
        return functional.cross_entropy(self._forward(), y)

    def backward(self) -> None:
        now, last = self._now, len(self._weights) - 1
        dlogits = torch.softmax(now.z[-1], 1, out=now.g[-1])
        dlogits.scatter_add_(1, self._y[:, None], torch.full_like(self._y[:, None], -1, dtype=dlogits.dtype))
        dlogits.div_(len(self._y))
        for k in range(last, -1, -1):
            g, below = now.g[k], self._x if k == 0 else now.a[k - 1]
            self._gradients[2 * k] = _multiply(g.t(), below.t(), self._gradients[2 * k])
            torch.sum(g, 0, out=self._gradients[2 * k + 1])
            if k > 0:
                now.g[k - 1] = _multiply(g, self._weights[k].t(), now.g[k - 1])
                self._activations[k - 1].backward(now.g[k - 1], now.z[k - 1], now.a[k - 1])

    def update(self) -> None:
        self._rule(self._parameters, tuple(self._gradients), self._state, self._config)

    def logits(self, x: Tensor) -> Tensor:
        self._take()
        a = x
        for k, bias in enumerate(self._biases):
            a = _multiply(a, self._weights[k], a.new_empty(len(a), len(bias)), bias)
            if k < len(self._activations):
                self._activations[k].forward(a, a)
        return a

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss, logits = self.step(x, y)
        outputs = [each.clone() for pair in zip(self._now.z, self._now.a, strict=True) for each in pair]
        outputs[-2:] = [logits]
        return stages(self._model, outputs, loss, self._now.g[-1].clone(), [g.clone() for g in self._gradients])

    def _forward(self) -> Tensor:
        a, now = self._x, self._now
        for k, activation in enumerate(self._activations):
            now.z[k] = _multiply(a, self._weights[k], now.z[k], self._biases[k])
            activation.forward(now.z[k], now.a[k])
            a = now.a[k]
        now.z[-1] = _multiply(a, self._weights[-1], now.z[-1], self._biases[-1])
        return now.z[-1]

    def _buffer(self, size: int) -> _Buffers:
        if size not in self._buffers:
            self._buffers[size] = _Buffers(size, self._weights)
        return self._buffers[size]


def _multiply(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of a and b^T, and the bias of each column; in `out`, or in new memory where oneDNN makes it."""
    if out.is_cpu and a.shape[1] * out.shape[1] >= _ONEDNN_WEIGHTS and torch.backends.mkldnn.is_available():
        made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return made
    return torch.mm(a, b.t(), out=out) if bias is None else torch.addmm(bias, a, b.t(), out=out)
