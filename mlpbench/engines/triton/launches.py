"""Launch the kernels of fused_cuda: choose the sizes of tiles, and pass every argument by its name.

Shapes: N samples, B batch, C classes, O outputs of a layer.
"""

import functools
import importlib
import os
import subprocess
from dataclasses import dataclass, fields
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from mlpbench.config import RunConfig
from mlpbench.engines.cpp.cache import give_private_folder
from mlpbench.errors import InputError

# An H100 has 132 multiprocessors. With fewer programs than this, smaller tiles are faster.
_MANY_PROGRAMS = 128
_SMALLEST_TILE = 16
# Set explicitly, because the default for fused multiply-adds can differ between versions of Triton.
_FUSION = {"enable_fp_fusion": True}


@functools.cache
def kernels() -> ModuleType:
    """Return the module `kernels`.

    Raises:
        InputError: if Triton is not installed.
    """
    try:
        return importlib.import_module("mlpbench.engines.triton.kernels")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "triton":
            raise
        raise InputError(
            "engine fused_cuda needs Triton, which is not installed; on Linux, PyTorch for CUDA installs it "
            "(engine=cudagraph does not need it)"
        ) from None


def check_machine(device: torch.device) -> None:
    """Check that the kernels can run on this machine.

    Raises:
        InputError: for another device than CUDA, except under Triton's interpreter; if Triton is missing or fails; and
            if others can write where it keeps its code.
    """
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") and kernels().IS_INTERPRETED:
        return
    if device.type != "cuda":
        raise InputError("engine fused_cuda needs a CUDA device; set device=cuda, or engine=fused for the CPU")
    if kernels().IS_INTERPRETED:
        raise InputError(
            "engine fused_cuda: Triton's interpreter runs on the CPU; set device=cpu, or unset TRITON_INTERPRET"
        )
    _check_compiler(device)


@functools.cache
def _check_compiler(device: torch.device) -> None:
    give_private_folder("TRITON_CACHE_DIR", "triton")
    out = torch.zeros(1, dtype=torch.int32, device=device)
    try:
        kernels().probe[(1,)](out, **_FUSION)
    except (RuntimeError, OSError, subprocess.SubprocessError, kernels().TritonError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"engine fused_cuda: Triton cannot build its kernels: {reason}; it needs a C compiler and Python's headers "
            "(engine=cudagraph does not need them)"
        ) from None


class Layer(NamedTuple):
    """Hold the parameters of a layer."""

    weight: Tensor
    bias: Tensor


class HiddenOutputs(NamedTuple):
    """Hold the tensors (B, O) that the kernel `forward` writes. It skips those that are None."""

    a: Tensor
    """The activation."""
    d: Tensor | None = None
    """The derivative of the activation, for training."""
    z: Tensor | None = None
    """The output before the activation, for the trace."""


@dataclass(frozen=True, kw_only=True)
class LossArguments:
    """Hold the arguments that only training passes to the kernel `output`, by the names of its parameters."""

    index: Tensor
    """The samples of the batch (B,), int64."""
    labels: Tensor
    """The labels of all samples (N,), int64."""
    g: Tensor
    """The gradient by the logits (B, C)."""
    losses: Tensor
    """(B,) float64"""
    hits: Tensor
    """1 for each correct sample (B,), int32."""
    d_below: Tensor
    """The derivative of the layer below (B, O)."""
    g_below: Tensor
    """The gradient of the layer below (B, O)."""
    powers: Tensor
    """The powers of Adam's betas (2,), float64."""


def forward(x: Tensor, index: Tensor | None, layer: Layer, outputs: HiddenOutputs, activation: str) -> None:
    """Compute a hidden layer for the rows of x that the index lists, or for all rows."""
    (num_out, num_in), num_samples = layer.weight.shape, len(outputs.a)
    tile = _tile([(num_samples, num_out)])
    kernels().forward[-(-num_samples // tile), -(-num_out // tile)](
        x=x,
        index=index,
        **layer._asdict(),
        **outputs._asdict(),
        num_samples=num_samples,
        num_in=num_in,
        num_out=num_out,
        kind=activation,
        gathers=index is not None,
        stores_d=outputs.d is not None,
        stores_z=outputs.z is not None,
        tile_rows=tile,
        tile_outputs=tile,
        **_options(tile),
    )


def output(x: Tensor, layer: Layer, logits: Tensor, loss_arguments: LossArguments | None) -> None:
    """Compute the logits, and with `loss_arguments` also losses and gradients."""
    num_out, num_in = layer.weight.shape
    width = max(_SMALLEST_TILE, 1 << (num_out - 1).bit_length())
    unused = dict.fromkeys(field.name for field in fields(LossArguments))
    kernels().output[(-(-len(x) // _SMALLEST_TILE),)](
        x=x,
        **layer._asdict(),
        logits=logits,
        **(vars(loss_arguments) if loss_arguments else unused),
        num_samples=len(x),
        num_in=num_in,
        num_out=num_out,
        trains=loss_arguments is not None,
        tile_rows=_SMALLEST_TILE,
        tile_outputs=width,
        **_options(width),
    )


def backward(g: Tensor, weight: Tensor, d_below: Tensor, g_below: Tensor) -> None:
    """Compute the gradient of the layer below from that of a layer."""
    num_samples, num_in = g_below.shape
    tile = _tile([(num_samples, num_in)])
    kernels().backward[-(-num_samples // tile), -(-num_in // tile)](
        g=g,
        weight=weight,
        d_below=d_below,
        g_below=g_below,
        num_samples=num_samples,
        num_in=num_in,
        num_out=len(weight),
        tile_rows=tile,
        tile_inputs=tile,
        **_options(tile),
    )


class Update:
    """Launch the kernel `update` for some layers, whose weights are divided into tiles once."""

    def __init__(self, layers: list[Layer], layer_fields: Tensor) -> None:
        shapes = [tuple(layer.weight.shape) for layer in layers]
        self._tile = _tile(shapes)
        self._layer_fields = layer_fields
        # Of each tile (programs, 3): the layer, the first output and the first input.
        tiles = [
            torch.cartesian_prod(torch.tensor([i]), *(torch.arange(0, n, self._tile) for n in shape))
            for i, shape in enumerate(shapes)
        ]
        self._tiles = torch.cat(tiles).to(torch.int32).to(layer_fields.device)

    def __call__(self, index: Tensor, powers: Tensor, config: RunConfig, *, stores_gradients: bool) -> None:
        """Compute the gradients of all parameters from the last batch, and update the parameters."""
        kernels().update[(len(self._tiles),)](
            tiles=self._tiles,
            layers=self._layer_fields,
            index=index,
            powers=powers,
            num_samples=len(index),
            lr=config.lr,
            momentum=config.momentum,
            decay=config.weight_decay,
            rule=config.optimizer,
            stores_gradients=stores_gradients,
            tile_outputs=self._tile,
            tile_inputs=self._tile,
            **_options(self._tile),
        )


def _tile(results: list[tuple[int, ...]]) -> int:
    """Return the number of rows and columns of a tile, for a launch that computes matrices of these shapes."""
    for tile in (64, 32):
        if sum(-(-rows // tile) * -(-columns // tile) for rows, columns in results) >= _MANY_PROGRAMS:
            return tile
    return _SMALLEST_TILE


def _options(tile: int) -> dict[str, int]:
    """Return the number of terms that a program reads at once, and of warps: three reads ahead take at most 48 KiB."""
    return {"tile_terms": max(_SMALLEST_TILE, min(64, 2048 // tile)), "num_warps": 4 if tile < 64 else 8, **_FUSION}
