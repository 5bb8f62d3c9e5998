"""Test engine fused alone: its bits for any thread count and vector length, its memory, its errors."""

import ctypes
import math
import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.cpp import fused
from mlpbench.engines.cpp.fused import Fused
from mlpbench.engines.cpp.library import INT
from mlpbench.engines.eager import Eager
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.models import mlp
from tests.conformance import needs_compiler

pytestmark = [needs_compiler, pytest.mark.usefixtures("restore_threads")]


def engine(sizes=(20, 30, 4), kind=Fused, **options) -> Fused:
    options.setdefault("activations", ("tanh",))
    config = RunConfig(hidden_sizes=tuple(sizes[1:-1]), engine="fused", **options)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind(mlp(config, sizes[0], sizes[-1]), config)


def batch(num_samples, num_inputs=20, num_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(num_samples, num_inputs, generator=generator) - 0.5
    return x, torch.randint(0, num_classes, (num_samples,), generator=generator)


# --- bits


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=3, max_size=5),
    num_samples=st.sampled_from([1, 7, 100, 150]),
    activations=st.lists(st.sampled_from(list(fused.ACTIVATIONS)), min_size=3, max_size=3),
    optimizer=st.sampled_from(list(fused.OPTIMIZERS)),
    num_threads=st.sampled_from([2, 3, 4, 7]),
)
def test_any_thread_count_gives_the_same_bits(sizes, num_samples, activations, optimizer, num_threads):
    results = []
    for threads in (1, num_threads):
        torch.set_num_threads(threads)
        one = engine(sizes, activations=tuple(activations[: len(sizes) - 2]), optimizer=optimizer)
        x, y = batch(3 * num_samples, sizes[0], sizes[-1])
        order = torch.arange(len(x)).flip(0)
        progress = [one.train(x, y, order[: len(x) - 1 or 1], num_samples) for _ in range(3)]
        results.append((progress, digest(dict(one._model.state_dict())), digest({"logits": one.logits(x)})))
    assert results[0] == results[1]


def test_sums_with_more_terms_than_a_block_keep_their_order():
    # A block has 1024 terms.
    one = engine((2500, 40, 4))
    if one._lanes == 4 and platform.machine() == "x86_64":
        pytest.skip("without AVX2 a multiply-add is not fused")
    x, _ = batch(9, 2500)
    weight, bias = (p.detach().double() for p in (one._model.linear0.weight, one._model.linear0.bias))
    sums = torch.zeros(9, 40)
    # A fused multiply-add: in float64 the product is exact, and the sum almost always.
    for k in range(2500):
        sums = (sums.double() + x[:, k : k + 1].double() * weight[:, k]).float()
    z = one.trace(x, torch.zeros(9, dtype=torch.int64))["forward linear0"]
    assert (z == (sums.double() + bias).float()).double().mean() > 0.99


@pytest.mark.slow
def test_vector_lengths_give_the_same_bits(tmp_path):
    code = (
        "from mlpbench.config import RunConfig\n"
        "from mlpbench.training.trainer import Trainer\n"
        "from mlpbench.workload.digest import digest\n"
        "t = Trainer(RunConfig(engine='fused', activations=('gelu', 'tanh', 'elu'), optimizer='nesterov'))\n"
        "for _ in range(20): t.train_step()\n"
        "print(t.engine._lanes, digest(t.model.state_dict()))\n"
    )
    digests = {}
    for level in ("avx2", "avx512"):
        env = os.environ | {"ATEN_CPU_CAPABILITY": level, "XDG_CACHE_HOME": str(tmp_path)}
        process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        lanes, bits = process.stdout.split()
        digests[lanes] = bits
    if set(digests) != {"8", "16"}:
        pytest.skip("needs a processor with AVX-512")
    assert len(set(digests.values())) == 1


# --- functions


@pytest.mark.parametrize("name", fused.ACTIVATIONS)
def test_activations_and_derivatives_are_those_of_pytorch(name):
    values = torch.cat([torch.linspace(-30, 30, 4001), torch.logspace(-30, 1, 500), -torch.logspace(-30, 1, 500)])
    one = engine((1, 1, 2), activations=(name,))
    with torch.no_grad():
        one._model.linear0.weight.fill_(1)
        one._model.linear0.bias.zero_()
        one._model.linear1.weight.copy_(torch.tensor([[1.0], [0.0]]))
        one._model.linear1.bias.zero_()
    x = values[:, None]
    expected = ACTIVATIONS[name].make()(x.double())
    torch.testing.assert_close(one.logits(x)[:, :1].double(), expected, rtol=1e-5, atol=3e-7)

    z = x.double().requires_grad_()
    ACTIVATIONS[name].make()(z).sum().backward()
    one.trace(x, torch.zeros(len(x), dtype=torch.int64))
    derivative = one._memory[0, "d"][: len(x), :1]
    torch.testing.assert_close(derivative.double(), z.grad, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 50.0, 1e4])
def test_loss_is_that_of_pytorch_for_large_and_small_logits(scale):
    one = engine((20, 30, 7))
    with torch.no_grad():
        one._model.linear1.weight.mul_(scale)
    x, y = batch(50, num_classes=7)
    expected = functional.cross_entropy(one._model(x), y)
    loss, logits = one.step(x, y)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    assert logits.shape == (50, 7)


def test_diverged_training_is_not_finite_from_the_same_step_as_pytorchs():
    x, y = batch(30)
    losses = []
    for kind in (Fused, Eager):
        one = engine(kind=kind, lr=1e30, activations=("relu",))
        losses.append([one.step(x, y)[0].item() for _ in range(4)])
    assert [math.isfinite(loss) for loss in losses[0]] == [math.isfinite(loss) for loss in losses[1]]
    assert not math.isfinite(losses[0][-1])


# --- memory


def test_parameters_belong_to_the_model_and_can_be_saved_and_loaded():
    one = engine()
    x, y = batch(30)
    saved = {name: p.clone() for name, p in one._model.state_dict().items()}
    first = one.step(x, y)[0]
    assert any(not torch.equal(saved[name], p) for name, p in one._model.state_dict().items())
    one._model.load_state_dict(saved)
    assert torch.equal(first, one.step(x, y)[0])


def test_replaced_parameter_is_used():
    one = engine()
    x, y = batch(30)
    one.step(x, y)
    with torch.no_grad():
        one._model.linear0.weight.data = torch.zeros(30, 20)
        one._model.linear0.bias.data = torch.zeros(30)
    assert torch.allclose(one.logits(x), one._model(x).detach(), atol=1e-6)
    one.step(x, y)
    assert one._model.linear0.weight.abs().max() > 0
    assert one._model.linear0.weight.data_ptr() == one._memory[0, "weight"].data_ptr()


def test_eager_can_continue_with_the_model():
    one, two = engine(), engine()
    x, y = batch(30)
    one.step(x, y)
    two.step(x, y)
    assert Eager(one._model, one._config).step(x, y)[0].item() == pytest.approx(two.step(x, y)[0].item(), rel=1e-5)


def test_results_are_not_overwritten_by_the_next_step():
    one = engine()
    first = one.trace(*batch(30))
    copies = {name: tensor.clone() for name, tensor in first.items()}
    one.trace(*batch(30, seed=1))
    assert [name for name, tensor in copies.items() if not torch.equal(first[name], tensor)] == []


def test_larger_batch_after_a_smaller_one_has_memory():
    one, two = engine(), engine()
    for size in (3, 50, 7, 200):
        x, y = batch(size, seed=size)
        assert one.step(x, y)[0].item() == two.step(x.clone(), y.clone())[0].item()
        assert one.logits(batch(1000)[0]).shape == (1000, 4)


# --- errors

X, Y = batch(6, 5, 3)
ORDER = torch.arange(6)
REFUSED = {
    "float64": (X.double(), Y, ORDER, "inputs must be a contiguous torch.float32 (B, 5) on cpu, not torch.float64"),
    "width": (X[:, :4].contiguous(), Y, ORDER, "not torch.float32 (6, 4) on cpu"),
    "no samples": (X[:0], Y[:0], ORDER[:0], "must be"),
    "strided": (X.t().contiguous().t(), Y, ORDER, "not torch.float32 (6, 5) on cpu, not contiguous"),
    "device": (X.to("meta"), Y, ORDER, "on meta"),
    "labels of int32": (X, Y.int(), ORDER, "labels must be a contiguous torch.int64 (6) on cpu"),
    "too few labels": (X, Y[:5], ORDER, "not torch.int64 (5,) on cpu"),
    "order of int32": (X, Y, ORDER.int(), "order must be a contiguous torch.int64 (B) on cpu"),
    "empty order": (X, Y, ORDER[:0], "order must be"),
    "order 6": (X, Y, ORDER + 1, "the order contains sample 6; samples are counted from 0 to 5"),
    "order -1": (X, Y, ORDER - 1, "the order contains sample -1; samples are counted from 0 to 5"),
    "label -1": (X, Y.index_fill(0, torch.tensor(2), -1), ORDER, "label -1 of sample 2 is not a class; classes"),
    "label 3": (X, Y.index_fill(0, torch.tensor(5), 3), ORDER, "label 3 of sample 5 is not a class; classes"),
    "huge label": (X, Y.index_fill(0, torch.tensor(0), 2**62), ORDER, "classes are counted from 0 to 2"),
    "NaN": (X.index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(math.nan)), Y, ORDER, "sample 4 contains nan"),
    "inf": (X.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(-math.inf)), Y, ORDER,
            "sample 0 contains -inf"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_argument_is_refused_and_changes_nothing(case):
    x, y, order, message = REFUSED[case]
    one = engine((5, 4, 3))
    before = digest(one._model.state_dict())
    with pytest.raises(InputError) as error:
        one.train(x, y, order, 2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    if not case.startswith(("order", "empty")):
        with pytest.raises(InputError):
            one.step(x, y)
    assert digest(one._model.state_dict()) == before
    assert math.isfinite(one.step(X, Y)[0])


def test_step_after_a_refused_trace_is_right():
    one, two = engine((5, 4, 3)), engine((5, 4, 3))
    with pytest.raises(InputError, match="label 9"):
        one.trace(X[:1], torch.tensor([9]))
    x, y = batch(5000, 5, 3)
    assert torch.equal(one.step(x, y)[0], two.step(x, y)[0])


@pytest.mark.parametrize("batch_size", [0, -5])
def test_batch_size_below_1_is_refused(batch_size):
    with pytest.raises(InputError, match=f"batch_size must be at least 1, not {batch_size}"):
        engine((5, 4, 3)).train(X, Y, ORDER, batch_size)


def test_images_that_change_are_checked_again():
    one = engine((5, 4, 3))
    x = X.clone()
    one.train(x, Y, ORDER, 2)
    x[3, 3] = math.nan
    with pytest.raises(InputError, match="the image of sample 3 contains nan"):
        one.train(x, Y, ORDER, 2)


def test_logits_of_an_input_that_is_not_finite_are_not_finite():
    x = X.clone()
    x[2, 2] = math.nan
    logits = engine((5, 4, 3)).logits(x)
    assert logits.isfinite().all(1).tolist() == [True, True, False, True, True, True]


def test_model_with_other_parameters_is_refused():
    config = RunConfig(hidden_sizes=(4,), activations=("relu",), engine="fused")
    with pytest.raises(InputError, match="2 layers must have a weight and a bias each"):
        Fused(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 3)), config)
    with pytest.raises(InputError, match=r"weight of layer 0 must be a contiguous torch.float32"):
        Fused(mlp(config, 5, 3).double(), config)


def test_other_devices_are_refused(monkeypatch):
    config = RunConfig(hidden_sizes=(4,), activations=("relu",), engine="fused")
    with pytest.raises(InputError, match=r"on cpu, not .* on meta"):
        Fused(mlp(config, 5, 3).to("meta"), config)


def test_error_without_a_compiler_names_another_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fused.load.cache_clear()
    try:
        with pytest.raises(InputError, match=r"found no no-such-compiler; install g.. or clang, .*engine=manual"):
            Trainer(replace(RunConfig(), engine="fused"))
    finally:
        fused.load.cache_clear()


@pytest.mark.parametrize("is_longer", [True, False])
@pytest.mark.parametrize("name", ["_Parameter", "_Layer", "_Outcome", "_Network", "OptimizerSettings"])
def test_mirror_with_a_field_too_many_or_too_few_is_refused(name, is_longer, monkeypatch):
    fields = getattr(fused, name)._fields_
    fields = (*fields, ("extra", INT)) if is_longer else fields[:-1]
    monkeypatch.setattr(fused, name, type(name, (ctypes.Structure,), {"_fields_": fields}))
    with pytest.raises(AssertionError, match=rf"fused.cpp: {name.removeprefix('_')} has \d+ bytes, but .*\.{name} has"):
        fused.load.__wrapped__()
