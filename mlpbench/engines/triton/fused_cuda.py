"""fused_cuda: float32 training in Triton, for CUDA; a step of L layers is 2 L - 1 kernels, recorded as a CUDA graph.

The last layer's kernel goes on through softmax and loss to the gradients of the layer below, and one kernel makes the
gradients of all parameters and updates them. Products are in float32 throughout, without TF32, and no sum depends on
chance: runs agree bit by bit. `triton_kernels.py` has the kernels. Under Triton's interpreter (TRITON_INTERPRET=1) they
run on the CPU, slowly.

Shapes: N samples, B batch, D features, C classes, K steps.
"""

import functools
import importlib
import os
import subprocess
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor, nn

from mlpbench.config import RunConfig
from mlpbench.engines import argument_checks
from mlpbench.engines.argument_checks import supported
from mlpbench.engines.engine import Engine, Progress, stages
from mlpbench.engines.recorder import Recorder, Single, Steps, record
from mlpbench.errors import InputError
from mlpbench.workload import activations
from mlpbench.workload.optimizers import OPTIMIZERS

ENGINE = "fused_cuda"
ACTIVATIONS = {name: entry.function for name, entry in activations.ACTIVATIONS.items() if entry.is_in_triton}
Layer = tuple[Tensor, Tensor]  # weight and bias
MOST_CLASSES = 256  # a program has all outputs of its samples in registers
_MANY_PROGRAMS = 128  # an H100 has 132 multiprocessors; with fewer programs than that, smaller tiles are faster
_FUSION = {"enable_fp_fusion": True}  # multiply-adds, whatever the version of Triton does without being told
_ALIGNED = 16  # numbers: Triton compiles another kernel for an address that is no multiple of 16 bytes


@functools.cache
def kernels() -> ModuleType:
    """The module `triton_kernels`.

    Raises:
        InputError: if there is no Triton.
    """
    try:
        return importlib.import_module("mlpbench.engines.triton.kernels")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "triton":
            raise
        raise InputError(
            "engine fused_cuda needs Triton, which is not installed; PyTorch for CUDA brings it on Linux "
            "(engine=cudagraph does without it)"
        ) from None


def check_machine(device: torch.device) -> None:
    """Refuse a machine on which the kernels cannot run.

    Raises:
        InputError: for another device than CUDA, except under Triton's interpreter; and if Triton is missing or fails.
    """
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") and kernels().IS_INTERPRETED:
        return
    if device.type != "cuda":
        raise InputError("engine fused_cuda needs a CUDA device; set device=cuda, or engine=fused for the CPU")
    if kernels().IS_INTERPRETED:
        raise InputError(
            "engine fused_cuda: Triton's interpreter runs on the CPU; set device=cpu, or no TRITON_INTERPRET"
        )
    _check_compiler(device)


@functools.cache
def _check_compiler(device: torch.device) -> None:
    made = torch.zeros(1, dtype=torch.int32, device=device)
    try:
        kernels().probe[(1,)](made, **_FUSION)
    except (RuntimeError, OSError, subprocess.SubprocessError, kernels().TritonError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"engine fused_cuda: Triton cannot build its kernels: {said}; it needs a C compiler and Python's headers "
            "(engine=cudagraph does without them)"
        ) from None


class FusedCuda(Engine):
    """Forward, backward and update in few Triton kernels, many steps at a time.

    Raises:
        InputError: for an activation, an optimizer or a number of classes that it does not have, on another device than
            CUDA, and where Triton is missing or fails.
    """

    arithmetic = "fused_cuda"
    has_parts = False

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        check_machine(self.device)
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
        batch = _Batch(self._recorder, x, y, num_steps=1, size=len(x), keeps=True)
        batch.index.copy_(torch.arange(len(x)))
        batch.step(0)
        outputs = [each for pair in zip(batch.z, batch.a, strict=True) for each in pair]
        return stages(self._model, outputs[:-1], batch.last_loss().float(), batch.g[-1], batch.gradients)

    def _check(self, x: Tensor, y: Tensor, order: Tensor | None) -> None:
        """Refuse what would be read out of bounds, or spoil the parameters; the same images are looked through once.

        Raises:
            InputError: for the first such sample.
        """
        argument_checks.require(ENGINE, x, "inputs", torch.float32, (None, self._num_features), device=self.device)
        argument_checks.require(ENGINE, y, "labels", torch.int64, (len(x),), device=self.device)
        if order is not None:
            argument_checks.require(ENGINE, order, "order", torch.int64, (None,), device=order.device)
            outside = (order < 0) | (order >= len(x))
            if outside.any():
                raise argument_checks.no_sample(ENGINE, int(order[outside][0]), len(x))
        labels = y if order is None else y.index_select(0, order.to(y.device))
        bad = (
            torch.zeros((), device=x.device) if argument_checks.are_finite(x) else (x - x).any()
        )  # infinity less itself is not 0
        least, most, is_bad = torch.stack([*labels.aminmax(), bad.long()]).tolist()  # waits for the device once
        if least < 0 or most >= self._num_classes:
            position = int(((labels < 0) | (labels >= self._num_classes)).nonzero()[0])
            sample = position if order is None else int(order[position])
            raise argument_checks.no_class(ENGINE, int(labels[position]), sample, self._num_classes)
        if is_bad:
            sample, feature = x.isfinite().logical_not().nonzero()[0].tolist()
            raise argument_checks.not_finite(ENGINE, x[sample, feature].item(), sample)
        argument_checks.remember_finite(x)


class _Network(Recorder):
    """A perceptron and what its optimizer keeps."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self.kinds = [supported(ENGINE, "activation", ACTIVATIONS, name) for name in config.activations]
        num_kept = supported(ENGINE, "optimizer", OPTIMIZERS, config.optimizer).num_kept
        weights = self.parameters[::2]
        self.sizes = [weights[0].shape[-1], *(len(weight) for weight in weights)]
        if self.sizes[-1] > MOST_CLASSES:
            raise InputError(
                f"engine fused_cuda: {self.sizes[-1]} classes are more than its {MOST_CLASSES}; use engine=cudagraph"
            )
        self.kept = [[torch.zeros_like(p) for p in self.parameters] for _ in range(num_kept)]  # m, v
        self.powers = torch.ones(2, dtype=torch.float64, device=self.device)  # of Adam's betas

    def restart(self) -> None:
        for tensors in self.kept:
            for tensor in tensors:
                tensor.zero_()
        self.powers.fill_(1)

    def layers(self) -> list[Layer]:
        """Weight and bias of each layer.

        Raises:
            InputError: if they are not laid out as the kernels need them.
        """
        parameters = self.parameters
        if len(parameters) != 2 * (len(self.kinds) + 1):
            raise InputError(f"engine fused_cuda: {len(self.kinds) + 1} layers have a weight and a bias each, in turn")
        layers = list(zip(parameters[::2], parameters[1::2], strict=True))
        for i, ((weight, bias), (num_in, num_out)) in enumerate(zip(layers, pairwise(self.sizes), strict=True)):
            argument_checks.require(
                ENGINE, weight, f"weight of layer {i}", torch.float32, (num_out, num_in), device=self.device
            )
            argument_checks.require(ENGINE, bias, f"bias of layer {i}", torch.float32, (num_out,), device=self.device)
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

        return Single(x=batch.x, y=batch.y, run=record(run, self._changed), outcome=[loss, batch.a[-1]])

    @property
    def _changed(self) -> list[Tensor]:
        return [*self.parameters, *(each for tensors in self.kept for each in tensors), self.powers, self.totals]

    def logits(self, x: Tensor) -> Tensor:
        """Logits without what training needs."""
        *hidden, last = self.layers()
        a = x
        for kind, layer in zip(self.kinds, hidden, strict=True):
            below, a = a, torch.empty(len(x), len(layer[0]), device=self.device)
            _forward(below, below, layer, (a, a, a), kind, gathers=False, trains=False, keeps=False)
        logits = torch.empty(len(x), len(last[0]), device=self.device)
        _output(a, (a, a), last, (logits,) * 7, trains=False)
        return logits


class _Batch:
    """Steps on batches of one size, with what the kernels write for a batch.

    Of each layer: a (the last layer's are the logits), d and g, and what is kept of z and of gradients by parameters.
    """

    def __init__(
        self, network: _Network, x: Tensor, y: Tensor, *, num_steps: int, size: int, keeps: bool = False
    ) -> None:
        self.x, self.y, self.size, self._network, self._keeps = x, y, size, network, keeps
        self._layers = network.layers()
        rows = (num_steps, -(-size // _ALIGNED) * _ALIGNED)
        self.index = torch.zeros(rows, dtype=torch.int64, device=x.device)[:, :size]
        self.losses = torch.zeros(rows, dtype=torch.float64, device=x.device)
        self.hits = torch.zeros(rows, dtype=torch.int32, device=x.device)
        self.a, self.d, self.g = ([torch.zeros(size, n, device=x.device) for n in network.sizes[1:]] for _ in range(3))
        self.z = [torch.zeros_like(a) for a in self.a] if keeps else self.a
        self.z[-1] = self.a[-1]
        self.gradients = [torch.zeros_like(p) for layer in self._layers for p in layer] if keeps else []
        self._table = torch.tensor([self._row(i) for i in range(len(self._layers))], device=x.device)
        tile = _tile([tuple(weight.shape) for weight, _ in self._layers])
        places = [
            torch.cartesian_prod(torch.tensor([i]), *(torch.arange(0, n, tile) for n in weight.shape))
            for i, (weight, _) in enumerate(self._layers)
        ]
        self._tiles = torch.cat(places).to(torch.int32).to(x.device)
        self._shape = {"bo": tile, "bi": tile, **_options(tile)}

    def step(self, k: int) -> None:
        """Train on the batch of that row of the index."""
        network, index, config = self._network, self.index[k], self._network.config
        x, last = self.x, len(self._layers) - 1
        for i, kind in enumerate(network.kinds):
            kept = self.z[i], self.a[i], self.d[i]
            _forward(x, index, self._layers[i], kept, kind, gathers=i == 0, trains=True, keeps=self._keeps)
            x = self.a[i]
        made = (self.a[-1], self.g[-1], self.losses[k], self.hits[k], self.d[-2], self.g[-2], network.powers)
        _output(x, (index, self.y), self._layers[-1], made, trains=True)
        for i in range(last - 1, 0, -1):
            _backward(self.g[i], self._layers[i][0], self.d[i - 1], self.g[i - 1])
        kernels().update[(len(self._tiles),)](
            self._tiles, self._table, index, network.powers, self.size, config.lr, config.momentum, config.weight_decay,
            rule=config.optimizer, keeps=self._keeps, **self._shape,
        )  # fmt: skip

    def last_loss(self) -> Tensor:
        """The mean loss () float64 of the last batch."""
        return self.losses[-1].sum() / self.size

    def _row(self, layer: int) -> list[int]:
        """What `update` reads of a layer: its numbers of inputs and outputs, and addresses."""
        addresses = [(self.x, *self.a)[layer].data_ptr(), self.g[layer].data_ptr()]
        for i in (2 * layer, 2 * layer + 1):
            kept = [tensors[i].data_ptr() for tensors in self._network.kept]
            gradient = self.gradients[i].data_ptr() if self._keeps else 0
            addresses += [self._layers[layer][i % 2].data_ptr(), *kept, *[0] * (2 - len(kept)), gradient]
        return [*self._network.sizes[layer : layer + 2], *addresses]


# --- launches


def _forward(
    x: Tensor, index: Tensor, layer: Layer, made: tuple[Tensor, Tensor, Tensor], kind: str, **flags: bool
) -> None:
    (num_out, num_in), num_samples = layer[0].shape, len(made[0])
    tile = _tile([(num_samples, num_out)])
    kernels().forward[-(-num_samples // tile), -(-num_out // tile)](
        x, index, *layer, *made, num_samples, num_in, num_out,
        kind=kind, **flags, bb=tile, bo=tile, **_options(tile),
    )  # fmt: skip


def _output(x: Tensor, labels: tuple[Tensor, Tensor], layer: Layer, made: tuple[Tensor, ...], *, trains: bool) -> None:
    num_out, num_in = layer[0].shape
    width = max(16, 1 << (num_out - 1).bit_length())
    kernels().output[(-(-len(x) // 16),)](
        x, *labels, *layer, *made, len(x), num_in, num_out, trains=trains, bb=16, bo=width, **_options(width)
    )


def _backward(g: Tensor, weight: Tensor, d_below: Tensor, g_below: Tensor) -> None:
    num_samples, num_in = g_below.shape
    tile = _tile([(num_samples, num_in)])
    kernels().backward[-(-num_samples // tile), -(-num_in // tile)](
        g, weight, d_below, g_below, num_samples, num_in, len(weight), bb=tile, bi=tile, **_options(tile)
    )


def _tile(results: list[tuple[int, ...]]) -> int:
    """Rows and columns of a tile, for a launch that makes matrices of these shapes."""
    for tile in (64, 32):
        if sum(-(-rows // tile) * -(-columns // tile) for rows, columns in results) >= _MANY_PROGRAMS:
            return tile
    return 16


def _options(tile: int) -> dict[str, int]:
    """Terms of a sum that are read at once, and warps: three turns of reading ahead take at most 48 KiB."""
    return {"bk": max(16, min(64, 2048 // tile)), "num_warps": 4 if tile < 64 else 8, **_FUSION}
