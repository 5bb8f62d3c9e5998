"""Run the checks on the CPU by Triton's interpreter, in a process of its own, and on a CUDA device if there is one."""

import multiprocessing
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch

from mlpbench.engines import recorder
from mlpbench.engines.eager import Eager
from mlpbench.engines.triton import launches
from mlpbench.engines.triton.fused_cuda import ACTIVATIONS, FusedCuda
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from mlpbench.workload.optimizers import OPTIMIZERS
from tests.engines.triton.example_training import CONFIG, NUM_CLASSES, NUM_SAMPLES, model_of, needs_triton, samples

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
# Steps of a long graph.
NUM_STEPS = 3


# --- where the checks run


def start_process():
    warnings.simplefilter("error")
    recorder.NUM_STEPS = NUM_STEPS


@pytest.fixture(scope="module")
def interpreter():
    """Start a process with Triton's interpreter, which must be chosen before Triton is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=start_process) as executor:
            # The first call starts the process, which takes the environment from this moment.
            executor.submit(int).result()
            patch.undo()
            yield executor


@pytest.fixture(params=[pytest.param("cpu", marks=needs_triton), pytest.param("cuda", marks=pytest.mark.cuda)])
def run(request, monkeypatch):
    """Return a function that calls a check with a device and other arguments."""
    if request.param == "cpu":
        executor = request.getfixturevalue("interpreter")
        return lambda check, *arguments, **options: executor.submit(check, "cpu", *arguments, **options).result()
    request.getfixturevalue("cuda")
    monkeypatch.setattr(recorder, "NUM_STEPS", NUM_STEPS)
    return lambda check, *arguments, **options: check("cuda", *arguments, **options)


def engine_and_eager(device, config, num_classes=NUM_CLASSES):
    """Return the engine and its model, and eager with a copy of the model."""
    config = replace(config, device=device)
    model = model_of(config, num_classes).to(device)
    other = deepcopy(model)
    return FusedCuda(model, config), model, Eager(other, config), other


def assert_close(actual, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_device=False)


def assert_same_parameters(model, other):
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(p.detach(), q.detach())


def check_epochs(device, config, batch_size, *, num_classes=NUM_CLASSES, scale=1.0, num_epochs=2):
    engine, model, eager, other = engine_and_eager(device, config, num_classes)
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
@pytest.mark.slow
def test_epochs_with_a_short_last_batch_equal_those_of_eager(run, optimizer):
    run(check_epochs, replace(CONFIG, optimizer=optimizer), 7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_trains_as_in_eager(run, activation):
    run(check_epochs, replace(CONFIG, activations=(activation, activation), lr=0.1), 10)


@pytest.mark.parametrize("scale", [1e-3, 20.0])
@pytest.mark.parametrize("activations", [("tanh", "elu"), ("sigmoid", "silu"), ("gelu", "leaky_relu")])
def test_activations_are_exact_for_small_and_large_inputs(run, activations, scale):
    run(check_epochs, replace(CONFIG, activations=activations), 30, scale=scale, num_epochs=1)


@pytest.mark.parametrize("batch_size", [1, 30, 100])
def test_any_batch_size_is_trained(run, batch_size):
    run(check_epochs, CONFIG, batch_size, num_epochs=1)


@pytest.mark.parametrize("hidden_sizes", [(1,), (70,), (16, 32, 5)])
@pytest.mark.parametrize("num_classes", [1, 20])
def test_any_layer_width_is_trained(run, hidden_sizes, num_classes):
    config = replace(CONFIG, hidden_sizes=hidden_sizes, activations=("tanh",) * len(hidden_sizes))
    run(check_epochs, config, 10, num_classes=num_classes, num_epochs=1)


def check_tiles(device, many_programs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launches, "_MANY_PROGRAMS", many_programs)
        check_epochs(device, replace(CONFIG, hidden_sizes=(70, 40)), 20)


# With these numbers of programs, the launches choose the largest tiles, and the second largest.
@pytest.mark.parametrize("many_programs", [1, 3])
def test_larger_tiles_compute_the_same(run, many_programs):
    run(check_tiles, many_programs)


def check_steps(device, optimizer):
    engine, model, eager, other = engine_and_eager(device, replace(CONFIG, optimizer=optimizer))
    x, y = samples(device)
    for size in (7, 7, 1, 7, 30):
        (loss, logits), (expected_loss, expected) = (each.step(x[:size], y[:size]) for each in (engine, eager))
        assert_close(loss, expected_loss)
        assert_close(logits, expected)
        assert loss.shape == ()
        copy = logits.clone()
        engine.logits(x)
        assert torch.equal(copy, logits)
    assert_same_parameters(model, other)


@every_optimizer
def test_steps_equal_those_of_eager(run, optimizer):
    run(check_steps, optimizer)


def check_trace(device, optimizer):
    engine, model, eager, other = engine_and_eager(device, replace(CONFIG, optimizer=optimizer))
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
def test_trace_equals_that_of_eager(run, optimizer):
    run(check_trace, optimizer)


# --- repetition and changes


def check_repetition(device, optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    results = []
    x, y = samples(device)
    for _ in range(2):
        engine, model, *_ = engine_and_eager(device, config)
        initial = deepcopy(model.state_dict())
        for _ in range(2):
            model.load_state_dict(initial)
            # The second engine of the same model reuses the recordings.
            engine = FusedCuda(model, engine._config)
            progress = engine.train(x, y, torch.arange(NUM_SAMPLES), 7)
            results.append((progress, engine.step(x, y)[0].item(), [p.tolist() for p in model.parameters()]))
    assert results == results[:1] * 4


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_second_run_has_the_same_bits(run, optimizer):
    run(check_repetition, optimizer)


def check_changes(device):
    engine, model, eager, other = engine_and_eager(device, replace(CONFIG, optimizer="adam"))
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


def test_samples_batches_and_memory_of_parameters_can_change(run):
    run(check_changes)


# --- errors


def message_after(device, change, *, step=False):
    """Return the error for samples and an order that `change` makes wrong, and check that nothing was computed."""
    engine, model, *_ = engine_and_eager(device, CONFIG)
    before = deepcopy(model.state_dict())
    arguments = [*samples(device), torch.arange(NUM_SAMPLES)]
    # The engine accepts the arguments before the change, and remembers that the inputs are finite.
    engine.train(*arguments, 10)
    model.load_state_dict(before)
    x, y, order = change(*arguments)
    call = partial(engine.step, x, y) if step else partial(engine.train, x, y, order, 10)
    with pytest.raises(InputError) as error:
        call()
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    return str(error.value)


def with_value(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def check_refused_labels(device):
    message = message_after(device, lambda x, y, order: (x, with_value(y, 4, 5), order.flip(0)))
    assert message == "engine fused_cuda: label 5 of sample 4 is not a class; classes are counted from 0 to 4"
    message = message_after(device, lambda x, y, order: (x, with_value(y, 6, -1), order), step=True)
    assert message == "engine fused_cuda: label -1 of sample 6 is not a class; classes are counted from 0 to 4"
    engine, *_ = engine_and_eager(device, CONFIG)
    x, y = samples(device)
    # A wrong label that the order does not use is accepted.
    engine.train(x, with_value(y, 29, 7), torch.arange(20), 10)


def check_refused_orders(device):
    for value in (30, -1):
        message = message_after(device, lambda x, y, order, value=value: (x, y, with_value(order, 3, value)))
        assert message == f"engine fused_cuda: the order contains sample {value}; samples are counted from 0 to 29"


def check_refused_images(device):
    for value in (float("nan"), float("inf"), -float("inf")):
        message = message_after(device, lambda x, y, order, value=value: (with_value(x, (8, 2), value), y, order))
        assert message == f"engine fused_cuda: the image of sample 8 contains {value}; inputs must be finite"

    def spoil(x, y, order):
        # In place, after the inputs were checked.
        x[9, 0] = float("nan")
        return x, y, order

    assert "the image of sample 9 contains nan" in message_after(device, spoil)


def check_refused_layouts(device):
    actual = f"(30, 17) on {samples(device)[0].device}"
    for change, expected in (
        (lambda x, y, order: (x.double(), y, order), f"inputs must be a contiguous torch.float32 (B, 17) on {device}"),
        (lambda x, y, order: (x.double(), y, order), f", not torch.float64 {actual}"),
        (lambda x, y, order: (x.t().contiguous().t(), y, order), f", not torch.float32 {actual}, not contiguous"),
        (lambda x, y, order: (x[:, :9], y, order), ", not torch.float32 (30, 9)"),
        (lambda x, y, order: (x, y.int(), order), "labels must be a contiguous torch.int64 (30)"),
        (lambda x, y, order: (x, y[:9], order), "labels must be a contiguous torch.int64 (30)"),
        (lambda x, y, order: (x, y, order.int()), "order must be a contiguous torch.int64 (B)"),
        (lambda x, y, order: (x, y, order[:0]), "order must be a contiguous torch.int64 (B)"),
    ):
        message = message_after(device, change)
        assert expected in message
        assert message.startswith("engine fused_cuda: ")
        assert "\n" not in message


@pytest.mark.parametrize(
    "check", [check_refused_labels, check_refused_orders, check_refused_images, check_refused_layouts]
)
def test_wrong_arguments_are_refused(run, check):
    run(check)


def check_refused_models(device):
    for change, num_classes, expected in (
        (
            {"activations": ("relu", "softmax")},
            5,
            "engine fused_cuda does not support activation 'softmax'; supported: relu, ",
        ),
        ({"optimizer": "lion"}, 5, "engine fused_cuda does not support optimizer 'lion'; supported: sgd, momentum"),
        ({}, 257, "engine fused_cuda supports at most 256 classes, not 257; use engine=cudagraph"),
    ):
        model = model_of(CONFIG, num_classes).to(device)
        with pytest.raises(InputError) as error:
            FusedCuda(model, replace(CONFIG, device=device, **change))
        assert str(error.value).startswith(expected)
    model = model_of(CONFIG).to(device).double()
    with pytest.raises(InputError, match=r"weight of layer 0 must be a contiguous torch\.float32"):
        FusedCuda(model, replace(CONFIG, device=device)).logits(samples(device)[0])


def test_unsupported_models_are_refused(run):
    run(check_refused_models)


def test_cpu_is_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError) as error:
        FusedCuda(model_of(CONFIG), CONFIG)
    assert str(error.value) == "engine fused_cuda needs a CUDA device; set device=cuda, or engine=fused for the CPU"


def test_missing_triton_gives_a_message_of_one_line(monkeypatch):
    launches.kernels.cache_clear()
    monkeypatch.delitem(sys.modules, "mlpbench.engines.triton.kernels", raising=False)
    for name in ("triton", "triton.language"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as error:
        launches.kernels()
    assert str(error.value) == (
        "engine fused_cuda needs Triton, which is not installed; on Linux, PyTorch for CUDA installs it "
        "(engine=cudagraph does not need it)"
    )


def test_failing_triton_gives_a_message_of_one_line(monkeypatch):
    class Kernels:
        TritonError = RuntimeError

        class probe:  # noqa: N801
            def __class_getitem__(cls, grid):
                def launch(*arguments, **options):
                    raise RuntimeError("Failed to find C compiler.\nPlease specify one")

                return launch

    monkeypatch.setattr(launches, "kernels", lambda: Kernels)
    with pytest.raises(InputError) as error:
        launches._check_compiler(torch.device("cpu"))
    assert str(error.value) == (
        "engine fused_cuda: Triton cannot build its kernels: Failed to find C compiler.; it needs a C compiler and "
        "Python's headers (engine=cudagraph does not need them)"
    )
