"""Define engine fused_cuda: float32 training in Triton, for CUDA. A step of L layers is 2 L - 1 kernels.

The kernel of the last layer also computes softmax, loss and the gradients of the layer below. One kernel computes the
gradients of all parameters and updates them. The kernels are in `kernels.py`, and a step is recorded as a CUDA graph.

All products are in float32, without TF32, and every sum has a fixed order. So two runs agree bit by bit. Under Triton's
interpreter (TRITON_INTERPRET=1) the kernels run on the CPU, slowly.

Shapes: N samples, B batch, D features, C classes, K steps; O outputs of a layer.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines import argument_checks
from mlpbench.engines.argument_checks import supported
from mlpbench.engines.engine import Engine, Progress, State, stages
from mlpbench.engines.recorder import Recorder, Single, Steps, record
from mlpbench.engines.triton import launches
from mlpbench.engines.triton.launches import HiddenOutputs, Layer, LossArguments
from mlpbench.errors import InputError
from mlpbench.workload import activations
from mlpbench.workload.optimizers import OPTIMIZERS

ENGINE = "fused_cuda"
ACTIVATIONS = {name: entry.function for name, entry in activations.ACTIVATIONS.items() if entry.is_in_triton}
# A program holds all outputs of its samples in registers.
MAX_CLASSES = 256
# In numbers. For an address that is not a multiple of 16 bytes, Triton would compile another kernel.
_ALIGNMENT = 16


class FusedCuda(Engine):
    """Run forward, backward and update in few Triton kernels, many steps at a time.

    Raises:
        InputError: for an activation, an optimizer or a number of classes that it does not support, on another device
            than CUDA, and if Triton is missing or fails.
    """

    arithmetic = "fused_cuda"
    has_parts = False
    needs_cuda = True
    is_built = True

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        launches.check_machine(self.device)
        self._recorder = _Network.of(model, config)
        self._num_features, *_, self._num_classes = self._recorder.sizes

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x, y, None)
        return self._recorder.step(x, y)

    def train(self, x: Tensor, y: Tensor, order: Tensor, batch_size: int) -> Progress:
        self._check(x, y, order)
        return self._recorder.train(x, y, order, batch_size)

    def logits(self, x: Tensor) -> Tensor:
        argument_checks.require(ENGINE, x, "inputs", torch.float32, (None, self._num_features), device=self.device)
        return self._recorder.logits(x)

    def trace(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        self._check(x, y, None)
        batch = _Batch(self._recorder, x, y, num_steps=1, size=len(x), is_traced=True)
        batch.index.copy_(torch.arange(len(x)))
        batch.step(0)
        hidden = [tensor for pair in zip(batch.z, batch.a[:-1], strict=True) for tensor in pair]
        return stages(self._model, [*hidden, batch.a[-1]], batch.last_loss().float(), batch.g[-1], batch.gradients)

    def _optimizer_state(self) -> State:
        return self._recorder.optimizer_state

    def _check(self, x: Tensor, y: Tensor, order: Tensor | None) -> None:
        """Refuse arguments that would be read out of bounds or spoil the parameters. Known images are not read again.

        Raises:
            InputError: for a wrong layout, and for the first sample with a wrong index, label or value.
        """
        argument_checks.require(ENGINE, x, "inputs", torch.float32, (None, self._num_features), device=self.device)
        argument_checks.require(ENGINE, y, "labels", torch.int64, (len(x),), device=self.device)
        if order is not None:
            argument_checks.require(ENGINE, order, "order", torch.int64, (None,), device=order.device)
            is_outside = (order < 0) | (order >= len(x))
            if is_outside.any():
                raise argument_checks.no_sample(ENGINE, int(order[is_outside][0]), len(x))
        labels = y if order is None else y.index_select(0, order.to(y.device))
        # x - x is 0 for a finite x, and otherwise NaN, which counts as true.
        bad_values = x.new_zeros(1) if argument_checks.are_finite(x) else x - x
        # Waits for the device once.
        smallest, largest, is_bad = torch.stack([*labels.aminmax(), bad_values.any().long()]).tolist()
        if smallest < 0 or largest >= self._num_classes:
            position = int(((labels < 0) | (labels >= self._num_classes)).nonzero()[0])
            sample = position if order is None else int(order[position])
            raise argument_checks.no_class(ENGINE, int(labels[position]), sample, self._num_classes)
        if is_bad:
            sample, feature = x.isfinite().logical_not().nonzero()[0].tolist()
            raise argument_checks.not_finite(ENGINE, x[sample, feature].item(), sample)
        argument_checks.remember_finite(x)


class _Network(Recorder):
    """Hold a perceptron and the state of its optimizer."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self.activations = [supported(ENGINE, "activation", ACTIVATIONS, name) for name in config.activations]
        num_kept = supported(ENGINE, "optimizer", OPTIMIZERS, config.optimizer).num_kept
        weights = self.parameters[::2]
        self.sizes = [weights[0].shape[-1], *(len(weight) for weight in weights)]
        if self.sizes[-1] > MAX_CLASSES:
            raise InputError(
                f"engine fused_cuda supports at most {MAX_CLASSES} classes, not {self.sizes[-1]}; use engine=cudagraph"
            )
        # Adam's m and v, momentum's m alone, or nothing: of each a tensor like every parameter.
        self.states = [[torch.zeros_like(p) for p in self.parameters] for _ in range(num_kept)]
        # The powers of Adam's betas.
        self.powers = torch.ones(2, dtype=torch.float64, device=self.device)

    def restart(self) -> None:
        for tensors in self.states:
            for tensor in tensors:
                tensor.zero_()
        self.powers.fill_(1)

    @property
    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the tensors that the optimizer keeps from step to step, by name."""
        named = {f"{k} {i}": t for k, tensors in enumerate(self.states) for i, t in enumerate(tensors)}
        return named | {"powers": self.powers}

    def layers(self) -> list[Layer]:
        """Return the layers.

        Raises:
            InputError: if their parameters are not laid out as the kernels need them.
        """
        parameters, num_layers = self.parameters, len(self.activations) + 1
        if len(parameters) != 2 * num_layers:
            raise InputError(
                f"engine fused_cuda needs {num_layers} layers with a weight and a bias each; "
                f"this model has {len(parameters)} parameters"
            )
        layers = [Layer(*pair) for pair in zip(parameters[::2], parameters[1::2], strict=True)]
        for i, (layer, (num_in, num_out)) in enumerate(zip(layers, pairwise(self.sizes), strict=True)):
            argument_checks.require(
                ENGINE, layer.weight, f"weight of layer {i}", torch.float32, (num_out, num_in), device=self.device
            )
            argument_checks.require(
                ENGINE, layer.bias, f"bias of layer {i}", torch.float32, (num_out,), device=self.device
            )
        return layers

    def record_steps(self, x: Tensor, y: Tensor, num_steps: int, size: int) -> Steps:
        batch = _Batch(self, x, y, num_steps=num_steps, size=size)
        loss_sum, num_correct, last_loss = self.totals.unbind()

        def run() -> None:
            for k in range(num_steps):
                batch.step(k)
            loss_sum.add_(batch.losses.sum())
            num_correct.add_(batch.hits.sum())
            last_loss.copy_(batch.last_loss())

        return Steps(index=batch.index, run=record(run, self._changed))

    def record_single(self, x: Tensor, y: Tensor) -> Single:
        batch = _Batch(self, x.clone(), y.clone(), num_steps=1, size=len(x))
        batch.index.copy_(torch.arange(len(x)))
        loss = torch.zeros((), device=self.device)

        def run() -> None:
            batch.step(0)
            loss.copy_(batch.last_loss())

        return Single(x=batch.x, y=batch.y, run=record(run, self._changed), results=[loss, batch.a[-1]])

    @property
    def _changed(self) -> list[Tensor]:
        """Return the tensors that a step writes to and that outlive it."""
        return [*self.parameters, *(tensor for tensors in self.states for tensor in tensors), self.powers, self.totals]

    def logits(self, x: Tensor) -> Tensor:
        """Return logits, without the work that only training needs."""
        *hidden, last = self.layers()
        layer_input = x
        for activation, layer in zip(self.activations, hidden, strict=True):
            a = torch.empty(len(x), len(layer.bias), device=self.device)
            launches.forward(layer_input, None, layer, HiddenOutputs(a=a), activation)
            layer_input = a
        logits = torch.empty(len(x), len(last.bias), device=self.device)
        launches.output(layer_input, last, logits, None)
        return logits


class _Batch:
    """Run steps on batches of one size, and hold the tensors that the kernels write.

    Of each layer these are a, d and g (the a of the last layer are the logits). A traced batch also has the z of each
    hidden layer, and the gradients by the parameters.
    """

    def __init__(
        self, network: _Network, x: Tensor, y: Tensor, *, num_steps: int, size: int, is_traced: bool = False
    ) -> None:
        self.x, self.y, self.size, self._network, self._is_traced = x, y, size, network, is_traced
        self._layers = network.layers()
        rows = (num_steps, -(-size // _ALIGNMENT) * _ALIGNMENT)
        self.index = torch.zeros(rows, dtype=torch.int64, device=x.device)[:, :size]
        self.losses = torch.zeros(rows, dtype=torch.float64, device=x.device)
        self.hits = torch.zeros(rows, dtype=torch.int32, device=x.device)
        self.a, self.d, self.g = ([torch.zeros(size, n, device=x.device) for n in network.sizes[1:]] for _ in range(3))
        self.z = [torch.zeros_like(a) for a in self.a[:-1]] if is_traced else []
        self.gradients = [torch.zeros_like(p) for layer in self._layers for p in layer] if is_traced else []
        fields = torch.tensor([self._fields(i) for i in range(len(self._layers))], device=x.device)
        self._update = launches.Update(self._layers, fields)

    def step(self, k: int) -> None:
        """Train on the batch in row k of the index."""
        network, index, config = self._network, self.index[k], self._network.config
        layer_input, last = self.x, len(self._layers) - 1
        for i, activation in enumerate(network.activations):
            outputs = HiddenOutputs(a=self.a[i], d=self.d[i], z=self.z[i] if self._is_traced else None)
            launches.forward(layer_input, index if i == 0 else None, self._layers[i], outputs, activation)
            layer_input = self.a[i]
        loss_arguments = LossArguments(
            index=index,
            labels=self.y,
            g=self.g[-1],
            losses=self.losses[k],
            hits=self.hits[k],
            d_below=self.d[-2],
            g_below=self.g[-2],
            powers=network.powers,
        )
        launches.output(layer_input, self._layers[-1], self.a[-1], loss_arguments)
        for i in range(last - 1, 0, -1):
            launches.backward(self.g[i], self._layers[i].weight, self.d[i - 1], self.g[i - 1])
        self._update(index, network.powers, config, stores_gradients=self._is_traced)

    def last_loss(self) -> Tensor:
        """Return the mean loss () float64 of the last batch."""
        return self.losses[-1].sum() / self.size

    def _fields(self, i: int) -> list[int]:
        """Return the fields of layer i for the kernel `update`, which lists them in its docstring."""
        fields = [*self._network.sizes[i : i + 2], (self.x, *self.a)[i].data_ptr(), self.g[i].data_ptr()]
        for j, parameter in enumerate(self._layers[i], start=2 * i):
            states = [tensors[j].data_ptr() for tensors in self._network.states]
            unused = [0] * (2 - len(states))
            gradient = self.gradients[j].data_ptr() if self._is_traced else 0
            fields += [parameter.data_ptr(), *states, *unused, gradient]
        return fields
