"""The checks run on the CPU by Triton's interpreter, in a process of its own, and on CUDA where there is one."""

import importlib
import importlib.util
import inspect
import multiprocessing
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.engines import cudagraph, recorder
from mlpbench.engines.eager import Eager
from mlpbench.engines.triton import fused_cuda
from mlpbench.engines.triton.fused_cuda import ACTIVATIONS, FusedCuda
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from mlpbench.workload.models import MODELS
from mlpbench.workload.optimizers import OPTIMIZERS

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)

CONFIG = RunConfig(hidden_sizes=(13, 20), activations=("tanh", "elu"), lr=0.02, weight_decay=0.01)
NUM_FEATURES, NUM_CLASSES, NUM_SAMPLES = 17, 5, 30
LONG = 3  # steps of a long recording


# --- where checks run


def start_process():
    warnings.simplefilter("error")
    recorder.NUM_STEPS = LONG


@pytest.fixture(scope="module")
def interpreter():
    """A process with Triton's interpreter, which has to be chosen before Triton is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=start_process) as executor:
            executor.submit(int).result()  # starts it
            patch.undo()
            yield executor


@pytest.fixture(params=[pytest.param("cpu", marks=needs_triton), pytest.param("cuda", marks=pytest.mark.cuda)])
def run(request, monkeypatch):
    """Calls a check with a device, and what else it takes."""
    if request.param == "cpu":
        executor = request.getfixturevalue("interpreter")
        return lambda check, *given, **named: executor.submit(check, "cpu", *given, **named).result()
    request.getfixturevalue("cuda")
    monkeypatch.setattr(cudagraph, "NUM_STEPS", LONG)
    return lambda check, *given, **named: check("cuda", *given, **named)


def model_of(config, num_classes=NUM_CLASSES):
    torch.manual_seed(1)
    return MODELS["mlp"](config, NUM_FEATURES, num_classes)


def both(device, config, num_classes=NUM_CLASSES):
    """The engine and eager, each with its own copy of a model."""
    config = replace(config, device=device)
    model = model_of(config, num_classes).to(device)
    other = deepcopy(model)
    return FusedCuda(model, config), model, Eager(other, config), other


def samples(device, num_classes=NUM_CLASSES, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(num_classes, (NUM_SAMPLES,), generator=generator)
    return (scale * torch.randn(NUM_SAMPLES, NUM_FEATURES, generator=generator)).to(device), y.to(device)


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, check_device=False)


def assert_same_parameters(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p.detach(), q.detach())


def check_epochs(device, config, batch_size, *, num_classes=NUM_CLASSES, scale=1.0, num_epochs=2):
    engine, model, eager, other = both(device, config, num_classes)
    x, y = samples(device, num_classes, scale)
    for epoch in range(num_epochs):
        order = datasets.batch_order(0, epoch, NUM_SAMPLES)
        progress, expected = (each.train(x, y, order, batch_size) for each in (engine, eager))
        assert progress.num_correct == expected.num_correct
        assert_close(progress.loss_sum, expected.loss_sum)
        assert_close(progress.last_loss, expected.last_loss)
    assert_same_parameters(model, other)
    assert_close(engine.logits(x), eager.logits(x))


# --- against eager


@every_optimizer
def test_epochs_with_a_short_last_batch_are_those_of_eager(run, optimizer):
    run(check_epochs, replace(CONFIG, optimizer=optimizer), 7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_trains_as_in_eager(run, activation):
    run(check_epochs, replace(CONFIG, activations=(activation, activation), lr=0.1), 10)


@pytest.mark.parametrize("scale", [1e-3, 20.0])
@pytest.mark.parametrize("activations", [("tanh", "elu"), ("sigmoid", "silu"), ("gelu", "leaky_relu")])
def test_activations_hold_for_small_and_large_inputs(run, activations, scale):
    run(check_epochs, replace(CONFIG, activations=activations), 30, scale=scale, num_epochs=1)


@pytest.mark.parametrize("batch_size", [1, 30, 100])
def test_any_batch_will_do(run, batch_size):
    run(check_epochs, CONFIG, batch_size, num_epochs=1)


@pytest.mark.parametrize("hidden_sizes", [(1,), (70,), (16, 32, 5)])
@pytest.mark.parametrize("num_classes", [1, 20])
def test_any_widths_will_do(run, hidden_sizes, num_classes):
    config = replace(CONFIG, hidden_sizes=hidden_sizes, activations=("tanh",) * len(hidden_sizes))
    run(check_epochs, config, 10, num_classes=num_classes, num_epochs=1)


def check_tiles(device, enough):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_cuda, "_MANY_PROGRAMS", enough)
        check_epochs(device, replace(CONFIG, hidden_sizes=(70, 40)), 20)


@pytest.mark.parametrize("enough", [1, 3])  # programs for which the tiles are the largest, and the next
def test_larger_tiles_compute_the_same(run, enough):
    run(check_tiles, enough)


def check_steps(device, optimizer):
    engine, model, eager, other = both(device, replace(CONFIG, optimizer=optimizer))
    x, y = samples(device)
    for size in (7, 7, 1, 7, 30):
        (loss, logits), (expected_loss, expected) = (each.step(x[:size], y[:size]) for each in (engine, eager))
        assert_close(loss, expected_loss)
        assert_close(logits, expected)
        assert loss.shape == ()
        kept = logits.clone()
        engine.logits(x)
        assert torch.equal(kept, logits)
    assert_same_parameters(model, other)


@every_optimizer
def test_steps_are_those_of_eager(run, optimizer):
    run(check_steps, optimizer)


def check_trace(device, optimizer):
    engine, model, eager, other = both(device, replace(CONFIG, optimizer=optimizer))
    x, y = samples(device)
    for each in (engine, eager):
        each.train(x, y, torch.arange(NUM_SAMPLES), 10)
    stages, expected = engine.trace(x[:9], y[:9]), eager.trace(x[:9], y[:9])
    assert list(stages) == list(expected)
    for name, tensor in expected.items():
        assert_close(stages[name], tensor.detach(), atol=1e-6)
    assert_same_parameters(model, other)
    assert_close(engine.step(x, y)[0], eager.step(x, y)[0])


@every_optimizer
def test_trace_has_the_stages_of_eager(run, optimizer):
    run(check_trace, optimizer)


# --- what stays the same, and what does not


def check_repetition(device, optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    outcomes = []
    x, y = samples(device)
    for _ in range(2):
        engine, model, *_ = both(device, config)
        initial = deepcopy(model.state_dict())
        for _ in range(2):
            model.load_state_dict(initial)
            engine = FusedCuda(model, engine._config)  # of the same model, which has been recorded
            progress = engine.train(x, y, torch.arange(NUM_SAMPLES), 7)
            outcomes.append((progress, engine.step(x, y)[0].item(), [p.tolist() for p in model.parameters()]))
    assert outcomes == outcomes[:1] * 4


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_a_second_run_has_the_same_bits(run, optimizer):
    run(check_repetition, optimizer)


def check_changes(device):
    engine, model, eager, other = both(device, replace(CONFIG, optimizer="adam"))
    x, y = samples(device)
    order = torch.arange(NUM_SAMPLES)
    for each in (engine, eager):
        each.train(x, y, order, 10)
        each.train(x, y, order[:13], 5)
        each.train(x[3:].clone(), y[3:].clone(), order[:27], 5)
    for p in model.parameters():
        p.data = p.data.clone()
    for each in (engine, eager):
        each.train(x, y, order, 10)
        each.step(x, y)
    assert_same_parameters(model, other)


def test_samples_batches_and_the_place_of_parameters_may_change(run):
    run(check_changes)


# --- what is refused


def refused(device, change, *, step=False):
    """What is said of samples and an order after `change` made them wrong; nothing may have been computed."""
    engine, model, *_ = both(device, CONFIG)
    before = deepcopy(model.state_dict())
    good = [*samples(device), torch.arange(NUM_SAMPLES)]
    engine.train(*good, 10)  # they were looked through, and are good
    model.load_state_dict(before)
    x, y, order = change(*good)
    call = partial(engine.step, x, y) if step else partial(engine.train, x, y, order, 10)
    with pytest.raises(InputError) as error:
        call()
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    return str(error.value)


def put(tensor, at, value):
    tensor = tensor.clone()
    tensor[at] = value
    return tensor


def check_refused_labels(device):
    said = refused(device, lambda x, y, order: (x, put(y, 4, 5), order.flip(0)))
    assert said == "engine fused_cuda: label 5 of sample 4 is none of the 5 classes, which are counted from 0"
    said = refused(device, lambda x, y, order: (x, put(y, 6, -1), order), step=True)
    assert said == "engine fused_cuda: label -1 of sample 6 is none of the 5 classes, which are counted from 0"
    engine, *_ = both(device, CONFIG)
    x, y = samples(device)
    engine.train(x, put(y, 29, 7), torch.arange(20), 10)  # a label that is not used does no harm


def check_refused_orders(device):
    for value in (30, -1):
        said = refused(device, lambda x, y, order, value=value: (x, y, put(order, 3, value)))
        assert said == f"engine fused_cuda: the order names sample {value}, and there are 30"


def check_refused_images(device):
    for value in (float("nan"), float("inf"), -float("inf")):
        said = refused(device, lambda x, y, order, value=value: (put(x, (8, 2), value), y, order))
        assert said == f"engine fused_cuda: the image of sample 8 has a {value}; inputs must be finite"

    def spoil(x, y, order):
        x[9, 0] = float("nan")  # in place, after they were looked through
        return x, y, order

    assert "the image of sample 9 has a nan" in refused(device, spoil)


def check_refused_layouts(device):
    found = f"(30, 17) on {samples(device)[0].device}"
    for change, expected in (
        (lambda x, y, order: (x.double(), y, order), f"inputs must be a contiguous torch.float32 (B, 17) on {device}"),
        (lambda x, y, order: (x.double(), y, order), f", not torch.float64 {found}"),
        (lambda x, y, order: (x.t().contiguous().t(), y, order), f", not torch.float32 {found}, not contiguous"),
        (lambda x, y, order: (x[:, :9], y, order), ", not torch.float32 (30, 9)"),
        (lambda x, y, order: (x, y.int(), order), "labels must be a contiguous torch.int64 (30)"),
        (lambda x, y, order: (x, y[:9], order), "labels must be a contiguous torch.int64 (30)"),
        (lambda x, y, order: (x, y, order.int()), "order must be a contiguous torch.int64 (B)"),
        (lambda x, y, order: (x, y, order[:0]), "order must be a contiguous torch.int64 (B)"),
    ):
        said = refused(device, change)
        assert expected in said
        assert said.startswith("engine fused_cuda: ")
        assert "\n" not in said


@pytest.mark.parametrize(
    "check", [check_refused_labels, check_refused_orders, check_refused_images, check_refused_layouts]
)
def test_what_cannot_be_trained_on_is_refused(run, check):
    run(check)


def check_refused_models(device):
    for change, num_classes, expected in (
        ({"activations": ("relu", "softmax")}, 5, "unknown activation of engine fused_cuda 'softmax'; known: relu, "),
        ({"optimizer": "lion"}, 5, "unknown optimizer of engine fused_cuda 'lion'; known: sgd, momentum"),
        ({}, 257, "engine fused_cuda: 257 classes are more than its 256"),
    ):
        model = model_of(CONFIG, num_classes).to(device)
        with pytest.raises(InputError) as error:
            FusedCuda(model, replace(CONFIG, device=device, **change))
        assert str(error.value).startswith(expected)
    model = model_of(CONFIG).to(device).double()
    with pytest.raises(InputError, match=r"weight of layer 0 must be a contiguous torch\.float32"):
        FusedCuda(model, replace(CONFIG, device=device)).logits(samples(device)[0])


def test_models_that_it_cannot_train_are_refused(run):
    run(check_refused_models)


def test_cpu_is_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError) as error:
        FusedCuda(model_of(CONFIG), CONFIG)
    assert str(error.value) == "engine fused_cuda needs a CUDA device; set device=cuda, or engine=fused for the CPU"


def test_missing_triton_is_told_in_one_line(monkeypatch):
    fused_cuda.kernels.cache_clear()
    monkeypatch.delitem(sys.modules, "mlpbench.engines.triton.kernels", raising=False)
    for name in ("triton", "triton.language"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as error:
        fused_cuda.kernels()
    assert str(error.value) == (
        "engine fused_cuda needs Triton, which is not installed; PyTorch for CUDA brings it on Linux (engine=cudagraph "
        "does without it)"
    )


def test_triton_that_cannot_build_is_told_in_one_line(monkeypatch):
    class Kernels:
        TritonError = RuntimeError

        class probe:  # noqa: N801
            def __class_getitem__(cls, grid):
                def launch(*arguments, **options):
                    raise RuntimeError("Failed to find C compiler.\nPlease specify one")

                return launch

    monkeypatch.setattr(fused_cuda, "kernels", lambda: Kernels)
    with pytest.raises(InputError) as error:
        fused_cuda._check_compiler(torch.device("cpu"))
    assert str(error.value) == (
        "engine fused_cuda: Triton cannot build its kernels: Failed to find C compiler.; it needs a C compiler and "
        "Python's headers (engine=cudagraph does without them)"
    )


# --- compiled, without a device to run on

TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    int: "i32",
    float: "fp32",
}


class Compiler:
    """In place of a kernel: compiles what a launch would, for an H100, and keeps its assembly."""

    def __init__(self, kernel, made):
        self._kernel, self._made = kernel, made

    def __getitem__(self, grid):
        assert all(0 < n <= limit for n, limit in zip(grid, (2**31 - 1, 2**16 - 1), strict=False))
        return self._compile

    def _compile(self, *arguments, **named):
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        names = self._kernel.arg_names
        options = {name: named.pop(name) for name in list(named) if name not in names}
        values = inspect.signature(self._kernel.fn).bind(*arguments, **named).arguments
        constants = {p.name: values[p.name] for p in self._kernel.params if p.is_constexpr}
        constants |= {
            p.name: 1
            for p in self._kernel.params
            if type(values[p.name]) is int and values[p.name] == 1 and not p.do_not_specialize
        }
        types = {
            name: "constexpr" if name in constants else TYPES[getattr(value, "dtype", type(value))]
            for name, value in values.items()
        }
        key = (self._kernel.fn.__name__, tuple(types.items()), tuple(constants.items()))
        if key not in self._made:
            source = ASTSource(self._kernel, types, constants)
            self._made[key] = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@needs_triton
@pytest.mark.parametrize(
    ("config", "num_classes", "enough"),
    [
        (replace(CONFIG, activations=("relu", "leaky_relu"), optimizer="sgd"), 10, 128),
        (replace(CONFIG, activations=("elu", "tanh"), optimizer="momentum"), 1, 128),
        (replace(CONFIG, activations=("sigmoid", "silu"), optimizer="nesterov", hidden_sizes=(1, 1)), 10, 128),
        (replace(CONFIG, activations=("gelu", "relu", "relu"), optimizer="adam", hidden_sizes=(64, 1024, 70)), 256, 3),
        (replace(CONFIG, optimizer="adamw", hidden_sizes=(300, 200)), 10, 1),
    ],
    ids=OPTIMIZERS,
)
def test_kernels_compile_for_an_h100_within_its_memory_and_without_tf32(
    monkeypatch, tmp_path, config, num_classes, enough
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fused_cuda, "check_machine", lambda device: None)
    monkeypatch.setattr(fused_cuda, "_MANY_PROGRAMS", enough)
    module, made = importlib.import_module("mlpbench.engines.triton.kernels"), {}

    class Kernels:
        forward, output, backward, update = (
            Compiler(getattr(module, name), made) for name in ("forward", "output", "backward", "update")
        )

    monkeypatch.setattr(fused_cuda, "kernels", lambda: Kernels)
    engine = FusedCuda(model_of(config, num_classes), config)
    x, y = samples("cpu", num_classes)
    engine.train(x, y, torch.arange(NUM_SAMPLES), 29)
    engine.trace(x, y)
    engine.logits(x)
    assert {name for name, *_ in made} >= {"forward", "output", "update"}
    for kernel in made.values():
        assert kernel.metadata.shared <= 48 * 1024
        assert "mma" not in kernel.asm["ptx"]
        assert "atom." not in kernel.asm["ptx"]
