"""Compare the arithmetic portable/1 in PyTorch with the NumPy reference, which is written from its page alone."""

import hashlib
import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpbench.config import RunConfig
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import known_answers, reference
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets
from tests.conformance import needs_compiler, same_bits
from tests.paths import ROOT

PAGE = ROOT / "docs" / "portable-format.md"
CONFIG = RunConfig(engine="portable")

pytestmark = pytest.mark.usefixtures("restore_threads")


def tensor(array):
    return torch.from_numpy(np.array(array))


# Beyond these limits the constant that is added overflows, and the run ends.
finite = st.floats(-1e250, 1e250)
arrays = st.lists(finite, min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.float64))


# --- the grid


@given(arrays, st.integers(1, 42))
def test_snapped_number_is_the_nearest_multiple_of_the_grid(array, bits):
    snapped = portable.snap(tensor(array), bits).numpy()
    largest = max(np.abs(array).max(), 2.0**-400)
    power = Fraction(2) ** math.frexp(largest)[1] if math.frexp(largest)[0] != 0.5 else Fraction(largest)
    grid = power / 2**bits
    assert power >= largest > power / 2
    for value, rounded in zip(array, snapped, strict=True):
        # Python also rounds ties to even.
        assert Fraction(rounded) == round(Fraction(value) / grid) * grid


@given(arrays, st.integers(1, 42))
def test_snapping_again_changes_nothing(array, bits):
    once = portable.snap(tensor(array), bits)
    assert same_bits(once, portable.snap(once, bits))


@given(arrays, st.integers(1, 42))
def test_reference_snaps_to_the_same_numbers(array, bits):
    assert same_bits(portable.snap(tensor(array), bits), reference.snap(array, bits))


@pytest.mark.parametrize("num_terms", [1, 2, 3, 100, 784, 2047, 2048, 2049, 8192, 8193, 2**24])
def test_no_partial_sum_within_the_budget_is_above_two_to_the_53(num_terms):
    bits = portable.budget(num_terms)
    assert num_terms * 2**bits <= 2**53
    assert num_terms * 2 ** (2 * (bits // 2)) <= 2**53
    assert bits == 42 or num_terms * 2 ** (bits + 1) > 2**53
    assert bits == reference.budget(num_terms)


@pytest.mark.parametrize("num_terms", [1, 7, 784, 2048, 5000])
@pytest.mark.parametrize("signs", ["positive", "alternating", "cancelling halves"])
def test_products_of_the_largest_numbers_are_exact(num_terms, signs):
    largest = 2 ** (portable.budget(num_terms) // 2)
    a = np.full((3, num_terms), largest, dtype=np.int64)
    b = a.copy().T
    if signs == "alternating":
        a[:, ::2] *= -1
    if signs == "cancelling halves":
        a[:, num_terms // 2 :] *= -1
    exact = (a.astype(object) @ b.astype(object)).astype(np.int64)
    assert (torch.mm(tensor(a).double(), tensor(b).double()).to(torch.int64).numpy() == exact).all()


# --- functions


@pytest.mark.parametrize(
    ("name", "low", "high", "is_relative", "bound"),
    [("exp", -40.0, 0.0, True, 3e-13), ("tanh", -30.0, 30.0, False, 5e-12), ("log", 1.0, 1e5, False, 1e-12)],
)
def test_error_of_a_function_is_below_the_bound_on_the_page(name, low, high, is_relative, bound):
    x = np.linspace(low, high, 200_003)
    expected = {"exp": np.exp, "tanh": np.tanh, "log": np.log}[name](x)
    actual = getattr(portable, name)(tensor(x)).numpy()
    error = np.abs(actual - expected) / (expected if is_relative else 1)
    assert bound / 10 < error.max() < bound
    assert same_bits(actual, getattr(reference, name)(x))


@given(st.lists(st.floats(0, width=32, allow_infinity=False), min_size=1, max_size=50))
def test_square_root_is_correctly_rounded(values):
    v = np.array(values, dtype=np.float32)
    root = portable.sqrt32(tensor(v))
    assert same_bits(root, reference.sqrt32(v))
    # NumPy's float32 root is the processor's, and IEEE 754 requires it to be correctly rounded.
    assert same_bits(root, np.sqrt(v))


def test_square_root_is_right_even_if_the_librarys_root_is_not(monkeypatch):
    good = torch.Tensor.sqrt
    v = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 100
    expected = portable.sqrt32(v)
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: good(x) * (1 + 4000 * 2.0**-52))
    assert same_bits(portable.sqrt32(v), expected)


def test_tables_with_other_digests_are_refused(monkeypatch):
    monkeypatch.setitem(portable._SHA256, "tanh", "0" * 64)
    with pytest.raises(InputError, match="table of tanh"):
        portable.tables.__wrapped__()


# --- the page, the known answers, the streams


def test_page_has_the_digests_of_tables_and_known_answers():
    digests = re.findall(r"`([0-9a-f]{64})`", PAGE.read_text(encoding="utf-8"))
    assert digests == [*portable._SHA256.values(), *known_answers.ANSWERS.values()]


both_engines = pytest.mark.parametrize("engine", ["portable", pytest.param("portable_fused", marks=needs_compiler)])


@both_engines
@pytest.mark.parametrize("part", known_answers.ANSWERS)
def test_wrong_known_answer_stops_every_run_and_is_named(engine, part, monkeypatch):
    Trainer(replace(CONFIG, engine=engine))
    monkeypatch.setitem(known_answers.ANSWERS, part, "0" * 64)
    with pytest.raises(InputError, match=f"known answer of {part} is wrong"):
        Trainer(replace(CONFIG, engine=engine))


@both_engines
def test_flush_to_zero_is_refused_even_after_a_run_without_it(engine):
    Trainer(replace(CONFIG, engine=engine))
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush to zero")
        with pytest.raises(InputError, match="known answer of grid"):
            Trainer(replace(CONFIG, engine=engine))
    finally:
        torch.set_flush_denormal(False)


def test_parameters_of_another_type_are_refused():
    parameters = [p.double() for p in portable.initial_parameters(0, (4, 3, 2)).values()]
    with pytest.raises(InputError, match="must be float32"):
        portable.Network(parameters, RunConfig(hidden_sizes=(3,), activations=("relu",)))


def test_gradients_of_too_many_samples_are_refused():
    network = portable.Network(
        list(portable.initial_parameters(0, (4, 3, 2)).values()), RunConfig(hidden_sizes=(3,), activations=("relu",))
    )
    network.loss(torch.ones(2049, 4), torch.zeros(2049, dtype=torch.int64))
    with pytest.raises(InputError, match="gradients of 2049 samples are not exact with 21 bits; train on at most 2048"):
        network.backward()
    network.forward(torch.ones(7, 4))
    with pytest.raises(InputError, match="backward needs a loss"):
        network.backward()


def reference_answers():
    """Yield the parts of the known answers, computed by the reference."""
    ref = reference
    i = np.arange
    yield "grid", [ref.snap(i(-504.0, 505) / 37, 21), ref.snap(i(-8.0, 9) / 16, 2), np.float32(i(100.0) / 2.0**148)]
    a = (i(128)[:, None] * 65537 + i(2048) * 7919) % (2**22 + 1) - 2**21
    b = (i(2048)[:, None] * 104729 + i(128) * 50021) % (2**22 + 1) - 2**21
    b[:, 0] = np.sign(a[0]) * 2**21
    yield "products", [(a @ b).astype(np.float64)]
    roots = ref.sqrt32(np.float32(i(1000.0) / 7))
    yield "functions", [ref.exp(i(-4000.0, 1) / 97), ref.tanh(i(-2000.0, 2001) / 97), ref.log(i(7.0, 1000) / 7), roots]
    config = RunConfig(hidden_sizes=(5, 4), activations=("elu", "tanh"), batch_size=7, optimizer="nesterov", lr=0.5)
    network = ref.Network(ref.initial_parameters(0, (6, 5, 4, 3)), config, 6, 3)
    x = (np.float32(i(42) * 37 % 256) / np.float32(255) - np.float32(0.5)).reshape(7, 6)
    losses = [network.step(x, i(7) % 3)["loss"] for _ in range(3)]
    yield "steps", [np.array(losses), *network.parameters.values()]


def test_reference_gives_the_known_answers():
    for part, numbers in reference_answers():
        flat = np.concatenate([np.asarray(n, dtype="<f8").ravel() for n in numbers]) + 0.0
        assert hashlib.sha256(flat.tobytes()).hexdigest() == known_answers.ANSWERS[part]


@given(st.integers(0, 2**63 - 1), st.integers(0, 5), st.integers(1, 200))
def test_streams_are_those_of_the_reference(seed, epoch, size):
    assert same_bits(portable.batch_order(seed, epoch, size), reference.batch_order(seed, epoch, size))
    ours, theirs = (m.initial_parameters(seed, (size, 3, 2)) for m in (portable, reference))
    assert list(ours) == list(theirs)
    assert all(same_bits(ours[name], theirs[name]) for name in ours)


def test_order_is_a_permutation_and_parameters_fill_their_range():
    assert sorted(portable.batch_order(3, 1, 1000).tolist()) == list(range(1000))
    weight = portable.initial_parameters(0, (784, 150, 10))["linear0.weight"]
    assert 0.99 / 28 < weight.abs().max() <= 1 / 28
    assert abs(weight.mean()) < 1e-3 / 28 * 10
    assert weight.std().item() == pytest.approx(1 / 28 / math.sqrt(3), rel=0.01)


# --- training against the reference


def reference_network(config, engine="int64"):
    sizes = (28 * 28, *config.hidden_sizes, datasets.NUM_CLASSES)
    parameters = reference.initial_parameters(config.seed, sizes)
    return reference.Network(parameters, config, sizes[0], sizes[-1], engine=engine)


def compare_steps(config, num_steps, engine="int64"):
    """Compare every stage of every step of PyTorch with the reference."""
    trainer = Trainer(config)
    trainer.use_threads()
    network = reference_network(config, engine)
    images = datasets.load(config.dataset).train
    x, y = reference.inputs(images.images.flatten(1).numpy()), images.labels.numpy()
    assert same_bits(x, trainer.inputs["train images"])
    order = reference.batch_order(config.seed, 0, len(y))
    for step in range(num_steps):
        batch = order[step * config.batch_size : (step + 1) * config.batch_size]
        expected, actual = network.step(x[batch], y[batch]), trainer.trace_step()
        assert list(expected) == list(actual)
        for stage in expected:
            assert same_bits(expected[stage], actual[stage]), f"step {step} {stage}"
    return trainer, network


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
def test_fifty_steps_are_those_of_the_reference(optimizer):
    trainer, network = compare_steps(replace(CONFIG, optimizer=optimizer), 50)
    logits = network.logits(trainer.inputs["test images"][:1000].numpy())
    assert same_bits(logits, trainer.engine.logits(trainer.inputs["test images"][:1000]))


@pytest.mark.parametrize("optimizer", portable.OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_every_optimizer_is_that_of_the_reference(small, optimizer, weight_decay):
    config = replace(CONFIG, dataset=small, optimizer=optimizer, weight_decay=weight_decay, hidden_sizes=(20, 30, 10))
    compare_steps(config, 10)


@pytest.mark.parametrize("activation", portable.ACTIVATIONS)
def test_every_activation_is_that_of_the_reference(small, activation):
    compare_steps(replace(CONFIG, dataset=small, activations=(activation,), lr=0.5, hidden_sizes=(20, 10)), 10)


@settings(max_examples=15)
@given(
    hidden_sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
    batch_size=st.sampled_from([1, 7, 100, 1230]),
    seed=st.integers(0, 2**63 - 1),
)
def test_odd_shapes_are_those_of_the_reference(hidden_sizes, batch_size, seed):
    images = datasets.load("digits").train
    config = replace(CONFIG, hidden_sizes=hidden_sizes, activations=("elu",), batch_size=batch_size, seed=seed)
    network = reference_network(config)
    parameters = [tensor(p) for p in network.parameters.values()]
    ours = portable.Network(parameters, config)
    x, y = images.normalised()[:batch_size], images.labels[:batch_size]
    for _ in range(2):
        loss, logits = ours.loss(x, y)
        ours.backward()
        ours.update()
        stages = network.step(x.numpy(), y.numpy())
        assert same_bits(stages["loss"], loss)
        assert same_bits(stages[f"forward linear{len(hidden_sizes)}"], logits)
        assert all(same_bits(p, q) for p, q in zip(parameters, network.parameters.values(), strict=True))


def test_one_step_is_that_of_pythons_own_integers():
    compare_steps(replace(CONFIG, optimizer="nesterov"), 1, engine="python")


def test_more_than_2048_terms_are_exact_with_fewer_bits(small):
    config = replace(CONFIG, dataset=small, hidden_sizes=(2500,), activations=("tanh",), batch_size=50)
    trainer, _ = compare_steps(config, 2)
    assert trainer.engine.bits == 20
