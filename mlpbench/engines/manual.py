"""Define engine manual: the backward pass by hand, with PyTorch's operations and reused buffers, without autograd.

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
from mlpbench.engines.engine import Engine, Progress, State, stages
from mlpbench.workload.activations import by_name

aten = torch.ops.aten
# PyTorch computes dense float32 products by MKL, which uses AVX-512 on Intel's processors only; oneDNN uses it on all
# that have it. For fewer weights than this, calling oneDNN costs more than it gains.
_ONEDNN_WEIGHTS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class _Activation:
    """Hold the two operations of an activation a = f(z)."""

    forward: Callable[[Tensor, Tensor], object]
    """Take z and a; write a."""
    backward: Callable[[Tensor, Tensor, Tensor], object]
    """Take g, z and a; replace the gradient by a, in g, by the gradient by z."""


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
    """Hold the memory for batches of one size: of each layer the output z, the activation a and the gradient g by z."""

    def __init__(self, size: int, weights: optimizer_rules.Tensors) -> None:
        self.x = weights[0].new_empty(size, weights[0].shape[1])
        self.z, self.a, self.g = ([w.new_empty(size, len(w)) for w in weights] for _ in range(3))


class Manual(Engine):
    """Train with a backward pass by hand, on any device."""

    arithmetic = "manual"

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self._activations = [supported("manual", "activation", ACTIVATIONS, name) for name in config.activations]
        self._find_parameters()
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._rule = optimizer_rules.rule(config.optimizer)
        self._state = optimizer_rules.initial_state(self._parameters, config.optimizer)
        self._buffers_by_size: dict[int, _Buffers] = {}

    def _find_parameters(self) -> None:
        """Look up the model's parameters, since another engine may have moved them to other memory."""
        self._parameters = tuple(p.detach() for p in self._model.parameters())
        self._weights, self._biases = self._parameters[::2], self._parameters[1::2]

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.loss(x, y)
        self.backward()
        self.update()
        return loss, self._buffers.z[-1].clone()

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        self._find_parameters()
        order = order.to(x.device)
        labels = y[order]
        logits = torch.empty(len(order), len(self._biases[-1]), dtype=x.dtype, device=x.device)
        parts = zip(order.split(batch_size), labels.split(batch_size), logits.split(batch_size), strict=True)
        with torch.no_grad():
            for index, self._y, batch_logits in parts:
                self._buffers = self._buffers_for(len(index))
                self._x = torch.index_select(x, 0, index, out=self._buffers.x)
                batch_logits.copy_(self._forward())
                self.backward()
                self.update()
        # All losses are computed together, since no step needs its own.
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return Progress(
            loss_sum=losses.double().sum().item(),
            num_correct=int((logits.argmax(1) == labels).sum().item()),
            last_loss=losses[-len(index) :].mean().item(),
        )

    def forward(self, x: Tensor) -> Tensor:
        self._find_parameters()
        self._x, self._buffers = x, self._buffers_for(len(x))
        return self._forward().clone()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self._find_parameters()
        self._x, self._y, self._buffers = x, y, self._buffers_for(len(x))
        return functional.cross_entropy(self._forward(), y)

    def backward(self) -> None:
        buffers = self._buffers
        dlogits = torch.softmax(buffers.z[-1], 1, out=buffers.g[-1])
        dlogits.scatter_add_(1, self._y[:, None], torch.full_like(self._y[:, None], -1, dtype=dlogits.dtype))
        dlogits.div_(len(self._y))
        for k in reversed(range(len(self._weights))):
            g, layer_input = buffers.g[k], self._x if k == 0 else buffers.a[k - 1]
            weight, bias = 2 * k, 2 * k + 1
            self._gradients[weight] = _multiply(g.t(), layer_input.t(), self._gradients[weight])
            torch.sum(g, 0, out=self._gradients[bias])
            if k > 0:
                buffers.g[k - 1] = _multiply(g, self._weights[k].t(), buffers.g[k - 1])
                self._activations[k - 1].backward(buffers.g[k - 1], buffers.z[k - 1], buffers.a[k - 1])

    def update(self) -> None:
        self._rule(self._parameters, tuple(self._gradients), self._state, self._config)

    def _optimizer_state(self) -> State:
        return dict(self._state.named())

    def logits(self, x: Tensor) -> Tensor:
        self._find_parameters()
        a = x
        for k, bias in enumerate(self._biases):
            a = _multiply(a, self._weights[k], a.new_empty(len(a), len(bias)), bias)
            if k < len(self._activations):
                self._activations[k].forward(a, a)
        return a

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        loss, logits = self.step(x, y)
        hidden = zip(self._buffers.z[:-1], self._buffers.a[:-1], strict=True)
        outputs = [*(tensor.clone() for pair in hidden for tensor in pair), logits]
        return stages(self._model, outputs, loss, self._buffers.g[-1].clone(), [g.clone() for g in self._gradients])

    def _forward(self) -> Tensor:
        a, buffers = self._x, self._buffers
        for k, activation in enumerate(self._activations):
            buffers.z[k] = _multiply(a, self._weights[k], buffers.z[k], self._biases[k])
            activation.forward(buffers.z[k], buffers.a[k])
            a = buffers.a[k]
        buffers.z[-1] = _multiply(a, self._weights[-1], buffers.z[-1], self._biases[-1])
        return buffers.z[-1]

    def _buffers_for(self, size: int) -> _Buffers:
        if size not in self._buffers_by_size:
            self._buffers_by_size[size] = _Buffers(size, self._weights)
        return self._buffers_by_size[size]


def _multiply(a: Tensor, b: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the product of a and b^T, plus the bias of each column. The result is `out`, or new memory from oneDNN."""
    if out.is_cpu and a.shape[1] * out.shape[1] >= _ONEDNN_WEIGHTS and torch.backends.mkldnn.is_available():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return product
    return torch.mm(a, b.t(), out=out) if bias is None else torch.addmm(bias, a, b.t(), out=out)
