"""Compile the kernels for an H100 without a GPU, and check the assembly."""

import importlib
import inspect
from dataclasses import replace

import pytest
import torch

from mlpbench.engines.triton import launches
from mlpbench.engines.triton.fused_cuda import FusedCuda
from mlpbench.workload.optimizers import OPTIMIZERS
from tests.engines.triton.example_training import CONFIG, NUM_SAMPLES, model_of, needs_triton, samples

KERNELS = ("forward", "output", "backward", "update")
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    int: "i32",
    float: "fp32",
}


class Compiler:
    """Stand in for a kernel: compile each variant that a launch needs, for an H100, and store it."""

    def __init__(self, kernel, variants):
        self._kernel, self._variants = kernel, variants

    def __getitem__(self, grid):
        assert all(0 < n <= limit for n, limit in zip(grid, (2**31 - 1, 2**16 - 1), strict=False))
        return self._compile

    def _compile(self, **arguments):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self._kernel.arg_names
        options = {name: value for name, value in arguments.items() if name not in names}
        arguments = {name: value for name, value in arguments.items() if name in names}
        values = inspect.signature(self._kernel.fn).bind(**arguments).arguments
        constants = {p.name: values[p.name] for p in self._kernel.params if self._is_constant(p, values[p.name])}
        types = {
            name: "constexpr" if name in constants else TYPES[getattr(value, "dtype", type(value))]
            for name, value in values.items()
        }
        key = (self._kernel.fn.__name__, tuple(types.items()), tuple(constants.items()))
        if key not in self._variants:
            source = ASTSource(self._kernel, types, constants)
            self._variants[key] = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

    @staticmethod
    def _is_constant(parameter, value):
        """True if Triton compiles the value into the kernel."""
        is_one = type(value) is int and value == 1 and not parameter.do_not_specialize
        return parameter.is_constexpr or value is None or is_one


@needs_triton
@pytest.mark.parametrize(
    ("config", "num_classes", "many_programs"),
    [
        (replace(CONFIG, activations=("relu", "leaky_relu"), optimizer="sgd"), 10, 128),
        (replace(CONFIG, activations=("elu", "tanh"), optimizer="momentum"), 1, 128),
        (replace(CONFIG, activations=("sigmoid", "silu"), optimizer="nesterov", hidden_sizes=(1, 1)), 10, 128),
        (replace(CONFIG, activations=("gelu", "relu", "relu"), optimizer="adam", hidden_sizes=(64, 1024, 70)), 256, 3),
        (replace(CONFIG, optimizer="adamw", hidden_sizes=(300, 200)), 10, 1),
    ],
    ids=OPTIMIZERS,
)
@pytest.mark.slow
def test_kernels_fit_an_h100_and_use_neither_tf32_nor_atomics(
    monkeypatch, tmp_path, config, num_classes, many_programs
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launches, "check_machine", lambda device: None)
    monkeypatch.setattr(launches, "_MANY_PROGRAMS", many_programs)
    module, variants = importlib.import_module("mlpbench.engines.triton.kernels"), {}

    class Kernels:
        forward, output, backward, update = (Compiler(getattr(module, name), variants) for name in KERNELS)

    monkeypatch.setattr(launches, "kernels", lambda: Kernels)
    engine = FusedCuda(model_of(config, num_classes), config)
    x, y = samples("cpu", num_classes)
    engine.train(x, y, torch.arange(NUM_SAMPLES), 29)
    engine.trace(x, y)
    engine.logits(x)
    assert {name for name, *_ in variants} >= {"forward", "output", "update"}
    for kernel in variants.values():
        assert kernel.metadata.shared <= 48 * 1024
        assert "mma" not in kernel.asm["ptx"]
        assert "atom." not in kernel.asm["ptx"]
