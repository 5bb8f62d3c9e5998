"""Compare engine portable_fused with portable, bit by bit, and test the errors that it raises."""

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.engines.cpp.library import INT
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import fused, known_answers
from mlpbench.engines.portable.fused import FusedNetwork
from mlpbench.errors import InputError
from tests.conformance import needs_compiler

ACTIVATIONS = tuple(portable.ACTIVATIONS)
OPTIMIZERS = tuple(portable.OPTIMIZERS)
DEFAULT = (784, 150, 150, 150, 10)


pytestmark = pytest.mark.usefixtures("restore_threads")


def both(sizes, scale=1.0, **options):
    """Return the network of each engine with its parameters, which are equal at first."""
    config = RunConfig(hidden_sizes=tuple(sizes[1:-1]), **options)
    parameters = [p.mul_(scale) for p in portable.initial_parameters(3, sizes).values()]
    copies = [p.clone() for p in parameters]
    return (portable.Network(parameters, config), parameters), (FusedNetwork(copies, config), copies)


def batch(num_samples, num_inputs, num_classes, seed=0):
    """Return random pixels, normalised as in datasets.py, and labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num_samples, num_inputs), generator=generator, dtype=torch.uint8)
    return pixels.float().div_(255).sub_(0.5), torch.randint(0, num_classes, (num_samples,), generator=generator)


def step(network, parameters, x, y):
    """Do a step, and return every tensor that it computes."""
    loss, logits = network.loss(x, y)
    network.backward()
    tensors = {"loss": loss, "logits": logits, "dlogits": network.dlogits}
    tensors |= {f"output {i}": tensor for i, tensor in enumerate(network.outputs)}
    tensors |= {f"gradient {i}": tensor for i, tensor in enumerate(network.gradients)}
    network.update()
    return tensors | {f"update {i}": p.clone() for i, p in enumerate(parameters)}


def assert_equal_step(networks, x, y):
    expected, actual = (step(network, parameters, x, y) for network, parameters in networks)
    assert list(expected) == list(actual)
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []


# --- the bits of portable -------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_stage_of_the_default_workload_is_equal(optimizer, num_threads):
    torch.set_num_threads(num_threads)
    networks = both(DEFAULT, optimizer=optimizer)
    for i in range(50 if optimizer in ("sgd", "nesterov") else 10):
        assert_equal_step(networks, *batch(100, 784, 10, seed=i))


@needs_compiler
@pytest.mark.parametrize("num_threads", [3, 7])
def test_more_threads_are_equal(num_threads):
    torch.set_num_threads(num_threads)
    assert_equal_step(both(DEFAULT), *batch(300, 784, 10))


@needs_compiler
def test_one_thread_is_used_where_pytorch_has_another_openmp(monkeypatch):
    torch.set_num_threads(2)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("mlpbench.engines.cpp.library.threads", lambda: [None] * 3)
            fused.load.__wrapped__()
        assert_equal_step(both(DEFAULT), *batch(100, 784, 10))
    finally:
        fused.load.__wrapped__()


@needs_compiler
@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=3, max_size=5),
    num_samples=st.sampled_from([1, 7, 100, 150]),
    activations=st.lists(st.sampled_from(ACTIVATIONS), min_size=3, max_size=3),
    optimizer=st.sampled_from(OPTIMIZERS),
    weight_decay=st.sampled_from([0.0, 0.01]),
    # Among them are zeros, subnormal numbers and saturated functions.
    scale=st.sampled_from([0.0, 1e-42, 1e-20, 1.0, 300.0]),
    num_threads=st.integers(1, 2),
)
def test_every_stage_of_any_network_is_equal(sizes, num_samples, activations, num_threads, **options):
    torch.set_num_threads(num_threads)
    networks = both(sizes, activations=tuple(activations[: len(sizes) - 2]), batch_size=num_samples, lr=0.5, **options)
    # The second batch is short, as the last of an epoch.
    for size in (num_samples, -(-num_samples // 3), num_samples):
        assert_equal_step(networks, *batch(size, sizes[0], sizes[-1], seed=size))


@needs_compiler
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_wide_layers_are_equal(activation):
    networks = both((9, 512, 65, 3), activations=(activation,))
    assert_equal_step(networks, *batch(33, 9, 3))


@needs_compiler
def test_largest_exact_sums_are_equal():
    networks = both((2048, 9, 3), activations=("relu",), batch_size=2048)
    for _, parameters in networks:
        # The sums are at most 2^53.
        parameters[0].copy_((2**21 - torch.arange(9 * 2048) % 50).reshape(9, 2048) / 2**21)
    x = (2**21 - torch.arange(33 * 2048) % 37).reshape(33, 2048) / 2**21
    assert_equal_step(networks, x, torch.arange(33) % 3)


@needs_compiler
def test_published_answer_is_computed(monkeypatch):
    monkeypatch.setattr(portable, "Network", FusedNetwork)
    assert known_answers.answer("steps", torch.device("cpu")) == known_answers.ANSWERS["steps"]


@needs_compiler
def test_evaluation_between_steps_is_equal_and_changes_nothing():
    networks = both((20, 30, 4), activations=("elu",))
    x, y = batch(1000, 20, 4)
    for _ in range(2):
        assert_equal_step(networks, x[3:103], y[3:103])
        expected, actual = (network.forward(x) for network, _ in networks)
        assert torch.equal(expected, actual)


@needs_compiler
def test_parameters_may_change_between_steps():
    networks = both((20, 30, 4), activations=("tanh",))
    for factor in (1, 3, 0.01):
        for _, parameters in networks:
            for p in parameters:
                p.mul_(factor)
        assert_equal_step(networks, *batch(10, 20, 4))


@needs_compiler
def test_backward_can_be_repeated():
    network, _ = both((20, 30, 5, 4), activations=("relu",))[1]
    network.loss(*batch(10, 20, 4))
    network.backward()
    first = network.gradients
    network.backward()
    assert all(map(torch.equal, first, network.gradients))


@needs_compiler
def test_results_are_not_overwritten_by_the_next_step():
    network, parameters = both((20, 30, 4), activations=("relu",))[1]
    first = step(network, parameters, *batch(10, 20, 4))
    copies = {name: tensor.clone() for name, tensor in first.items()}
    step(network, parameters, *batch(10, 20, 4, seed=1))
    assert [name for name in copies if not torch.equal(copies[name], first[name])] == []


# --- errors ---------------------------------------------------------------------------------------------------------

X, Y = batch(6, 5, 3)
REFUSED = {
    "float64": (X.double(), Y, "inputs must be a contiguous torch.float32 (B, 5) on cpu, not torch.float64 (6, 5)"),
    "width": (X[:, :4].contiguous(), Y, "not torch.float32 (6, 4) on cpu"),
    "dimensions": (X.flatten(), Y[:1].expand(30).contiguous(), "not torch.float32 (30,) on cpu"),
    "no samples": (X[:0], Y[:0], "must be"),
    "strided": (X.t().contiguous().t(), Y, "not torch.float32 (6, 5) on cpu, not contiguous"),
    "device": (X.to("meta"), Y, "on meta"),
    "labels of int32": (X, Y.int(), "labels must be a contiguous torch.int64 (6) on cpu, not torch.int32 (6,) on cpu"),
    "too few labels": (X, Y[:5], "not torch.int64 (5,) on cpu"),
    "strided labels": (X, Y.repeat_interleave(2)[::2], "not contiguous"),
    "label -1": (
        X,
        Y.index_fill(0, torch.tensor(2), -1),
        "label -1 of sample 2 is not a class; classes are counted from 0 to 2",
    ),
    "label 3": (
        X,
        Y.index_fill(0, torch.tensor(5), 3),
        "label 3 of sample 5 is not a class; classes are counted from 0 to 2",
    ),
}


@needs_compiler
@pytest.mark.parametrize("name", REFUSED)
def test_other_inputs_are_refused_in_one_line(name):
    x, y, message = REFUSED[name]
    network, parameters = both((5, 4, 3), activations=("relu",))[1]
    before = [p.clone() for p in parameters]
    with pytest.raises(InputError) as error:
        network.loss(x, y)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="backward needs a loss"):
        network.backward()
    with pytest.raises(InputError, match="update needs gradients"):
        network.update()
    assert all(map(torch.equal, before, parameters))


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        lambda p: p[:-1],
        lambda p: [*p[:2], p[2].t().contiguous(), p[3]],
        lambda p: [p[0].double(), *p[1:]],
        lambda p: [p[0].to("meta"), *p[1:]],
        lambda p: [p[0].t().contiguous().t(), *p[1:]],
        lambda p: [p[0], p[1][:3], *p[2:]],
    ],
)
def test_other_parameters_are_refused(change):
    config = RunConfig(hidden_sizes=(4,), activations=("relu",))
    parameters = list(portable.initial_parameters(0, (5, 4, 3)).values())
    with pytest.raises(InputError, match=r"^engine portable_fused: "):
        FusedNetwork(change(parameters), config)


@needs_compiler
def test_unknown_activation_is_refused():
    parameters = list(portable.initial_parameters(0, (5, 4, 3)).values())
    with pytest.raises(InputError, match="engine portable_fused does not support activation 'gelu'; supported: relu"):
        FusedNetwork(parameters, RunConfig(hidden_sizes=(4,), activations=("gelu",)))


@needs_compiler
def test_gradients_of_too_many_samples_are_refused():
    network, _ = both((5, 4, 3), activations=("relu",))[1]
    network.loss(*batch(2**11, 5, 3))
    network.backward()
    network.loss(*batch(2**11 + 1, 5, 3))
    with pytest.raises(InputError, match="gradients of 2049 samples are not exact with 21 bits; train on at most 2048"):
        network.backward()


@needs_compiler
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_input_that_is_not_finite_makes_the_loss_not_finite(activation, value):
    network, _ = both((5, 4, 3), activations=(activation,))[1]
    x = X.clone()
    x[1, 2] = value
    assert not torch.isfinite(network.loss(x, Y)[0])
    network.backward()
    network.update()


# --- the library ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_machine_with_other_bits_is_refused(monkeypatch):
    fused.check_machine.__wrapped__()
    monkeypatch.setattr(FusedNetwork, "update", lambda self: None)
    with pytest.raises(InputError, match="has other bits than engine portable"):
        fused.check_machine.__wrapped__()


@needs_compiler
@pytest.mark.parametrize("is_longer", [True, False])
@pytest.mark.parametrize("name", ["_Matrix", "_Parameter", "_Layer", "_Network", "OptimizerSettings"])
def test_mirror_with_a_field_too_many_or_too_few_is_refused(name, is_longer, monkeypatch):
    fields = getattr(fused, name)._fields_
    fields = (*fields, ("extra", INT)) if is_longer else fields[:-1]
    monkeypatch.setattr(fused, name, type(name, (ctypes.Structure,), {"_fields_": fields}))
    with pytest.raises(AssertionError, match=rf"fused.cpp: {name.removeprefix('_')} has \d+ bytes, but .*\.{name} has"):
        fused.load.__wrapped__()
