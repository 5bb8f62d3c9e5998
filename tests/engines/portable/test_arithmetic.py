"""The arithmetic portable/1: PyTorch against the NumPy reference, written from docs/portable-format.md alone."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
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
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets
from tests.conformance import needs_compiler
from tests.paths import GOLDEN, ROOT

CPU = torch.device("cpu")
GOLDEN_FILE = GOLDEN / "portable_1.json"
PAGE = ROOT / "docs" / "portable-format.md"
CONFIG = RunConfig(engine="portable")

pytestmark = pytest.mark.usefixtures("restore_threads")


def same_bits(one, other):
    one, other = (np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) for a in (one, other))
    return one.dtype == other.dtype and (one + 0.0).tobytes() == (other + 0.0).tobytes()


def tensor(array):
    return torch.from_numpy(np.array(array))


finite = st.floats(-1e250, 1e250)  # beyond, the constant that is added overflows, and the run ends
arrays = st.lists(finite, min_size=1, max_size=40).map(lambda values: np.array(values, dtype=np.float64))


# --- the grid


@given(arrays, st.integers(1, 42))
def test_a_snapped_number_is_the_nearest_multiple_of_the_grid(array, bits):
    snapped = portable.snap(tensor(array), bits).numpy()
    largest = max(np.abs(array).max(), 2.0**-400)
    power = Fraction(2) ** math.frexp(largest)[1] if math.frexp(largest)[0] != 0.5 else Fraction(largest)
    grid = power / 2**bits
    assert power >= largest > power / 2
    for value, got in zip(array, snapped, strict=True):
        assert Fraction(got) == round(Fraction(value) / grid) * grid  # Python rounds ties to even too


@given(arrays, st.integers(1, 42))
def test_snapping_again_changes_nothing(array, bits):
    once = portable.snap(tensor(array), bits)
    assert same_bits(once, portable.snap(once, bits))


@given(arrays, st.integers(1, 42))
def test_the_reference_snaps_alike(array, bits):
    assert same_bits(portable.snap(tensor(array), bits), reference.snap(array, bits))


@pytest.mark.parametrize("num_terms", [1, 2, 3, 100, 784, 2047, 2048, 2049, 8192, 8193, 2**24])
def test_no_partial_sum_of_a_budget_is_above_two_to_the_53(num_terms):
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
def test_a_function_is_as_near_as_the_page_says(name, low, high, is_relative, bound):
    x = np.linspace(low, high, 200_003)
    expected = {"exp": np.exp, "tanh": np.tanh, "log": np.log}[name](x)
    got = getattr(portable, name)(tensor(x)).numpy()
    error = np.abs(got - expected) / (expected if is_relative else 1)
    assert bound / 10 < error.max() < bound
    assert same_bits(got, getattr(reference, name)(x))


@given(st.lists(st.floats(0, width=32, allow_infinity=False), min_size=1, max_size=50))
def test_the_square_root_is_correctly_rounded(values):
    v = np.array(values, dtype=np.float32)
    root = portable.sqrt32(tensor(v))
    assert same_bits(root, reference.sqrt32(v))
    assert same_bits(root, np.sqrt(v))  # NumPy's float32 root is the processor's, which IEEE 754 has correctly rounded


def test_the_square_root_survives_a_bad_library(monkeypatch):
    good = torch.Tensor.sqrt
    v = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 100
    expected = portable.sqrt32(v)
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: good(x) * (1 + 4000 * 2.0**-52))
    assert same_bits(portable.sqrt32(v), expected)


def test_tables_that_are_not_the_published_ones_are_refused(monkeypatch):
    monkeypatch.setitem(portable._SHA256, "tanh", "0" * 64)
    with pytest.raises(InputError, match="table of tanh"):
        portable.tables.__wrapped__()


# --- the page, the known answers, the streams


def test_the_page_has_the_digests_of_tables_and_known_answers():
    digests = re.findall(r"`([0-9a-f]{64})`", PAGE.read_text(encoding="utf-8"))
    assert digests == [*portable._SHA256.values(), *known_answers.ANSWERS.values()]


ours = pytest.mark.parametrize("engine", ["portable", pytest.param("portable_fused", marks=needs_compiler)])


@ours
@pytest.mark.parametrize("part", known_answers.ANSWERS)
def test_a_wrong_answer_stops_every_run_and_is_named(engine, part, monkeypatch):
    Trainer(replace(CONFIG, engine=engine))
    monkeypatch.setitem(known_answers.ANSWERS, part, "0" * 64)
    with pytest.raises(InputError, match=f"known answer of {part} does not come out"):
        Trainer(replace(CONFIG, engine=engine))


@ours
def test_flush_to_zero_is_refused_even_after_a_run_without(engine):
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


def test_gradients_that_could_not_be_exact_are_refused():
    network = portable.Network(
        list(portable.initial_parameters(0, (4, 3, 2)).values()), RunConfig(hidden_sizes=(3,), activations=("relu",))
    )
    network.loss(torch.ones(2049, 4), torch.zeros(2049, dtype=torch.int64))
    with pytest.raises(InputError, match="no exact gradients of 2049 samples from 21 bits"):
        network.backward()
    network.forward(torch.ones(7, 4))
    with pytest.raises(InputError, match="compute a loss first"):
        network.backward()


def reference_answers():
    """The known answers, by the reference."""
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


def test_the_reference_gives_the_known_answers():
    for part, numbers in reference_answers():
        flat = np.concatenate([np.asarray(n, dtype="<f8").ravel() for n in numbers]) + 0.0
        assert hashlib.sha256(flat.tobytes()).hexdigest() == known_answers.ANSWERS[part]


@given(st.integers(0, 2**63 - 1), st.integers(0, 5), st.integers(1, 200))
def test_streams_are_those_of_the_reference(seed, epoch, size):
    assert same_bits(portable.batch_order(seed, epoch, size), reference.batch_order(seed, epoch, size))
    ours, theirs = (m.initial_parameters(seed, (size, 3, 2)) for m in (portable, reference))
    assert list(ours) == list(theirs)
    assert all(same_bits(ours[name], theirs[name]) for name in ours)


def test_an_order_is_a_permutation_and_parameters_fill_their_range():
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
    """Every stage of every step, by PyTorch and by the reference."""
    trainer = Trainer(config)
    trainer.use_threads()
    network = reference_network(config, engine)
    half = datasets.load(config.dataset).train
    x, y = reference.inputs(half.images.flatten(1).numpy()), half.labels.numpy()
    assert same_bits(x, trainer.inputs["train images"])
    order = reference.batch_order(config.seed, 0, len(y))
    for step in range(num_steps):
        batch = order[step * config.batch_size : (step + 1) * config.batch_size]
        expected, got = network.step(x[batch], y[batch]), trainer.trace_step()
        assert list(expected) == list(got)
        for stage in expected:
            assert same_bits(expected[stage], got[stage]), f"step {step} {stage}"
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
    half = datasets.load("digits").train
    config = replace(CONFIG, hidden_sizes=hidden_sizes, activations=("elu",), batch_size=batch_size, seed=seed)
    network = reference_network(config)
    parameters = [tensor(p) for p in network.parameters.values()]
    ours = portable.Network(parameters, config)
    x, y = half.normalised()[:batch_size], half.labels[:batch_size]
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


def test_beyond_2048_fewer_bits_keep_products_exact(small):
    config = replace(CONFIG, dataset=small, hidden_sizes=(2500,), activations=("tanh",), batch_size=50)
    trainer, _ = compare_steps(config, 2)
    assert trainer.engine.bits == 20


# --- golden files


def golden(optimizer, num_steps):
    """Digests of a run on the digits: `python tests/test_portable.py` writes them anew, for a new version only."""
    trainer = Trainer(replace(CONFIG, optimizer=optimizer))
    losses = [trainer.train_step()[0].item().hex() for _ in range(num_steps)]
    parameters = np.concatenate([p.detach().numpy().ravel() for p in trainer.model.parameters()]) + np.float32(0)
    initial = portable.initial_parameters(0, (784, 150, 150, 150, 10)).values()
    sha256 = {
        "initial": np.concatenate([p.numpy().ravel() for p in initial]).astype("<f4"),
        "order": trainer.order(0).numpy().astype("<i8"),
        "parameters": parameters.astype("<f4"),
    }
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in sha256.items()}
    return digests | {"last loss": losses[-1], "losses": hashlib.sha256(" ".join(losses).encode()).hexdigest()}


@pytest.mark.parametrize("num_steps", [50, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
def test_bits_are_those_of_the_golden_file(optimizer, num_steps):
    assert golden(optimizer, num_steps) == json.loads(GOLDEN_FILE.read_text())[f"{optimizer} {num_steps}"]


# --- the engine


def test_the_loss_that_is_not_finite_ends_the_run(small):
    with pytest.raises(InputError, match=r"engine portable: training came to nan.*use a smaller lr than 1e\+30"):
        Trainer(replace(CONFIG, dataset=small, lr=1e30, num_epochs=1)).fit("session")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"activations": ("gelu",)}, "unknown portable activation 'gelu'; known: relu, leaky_relu, elu, tanh, sigmoid"),
        ({"activations": ("custom_relu",)}, "unknown portable activation 'custom_relu'"),
    ],
)
def test_what_has_no_portable_arithmetic_is_refused(small, changes, line):
    with pytest.raises(InputError) as caught:
        Trainer(replace(CONFIG, dataset=small, **changes))
    assert str(caught.value).startswith(line)


def test_mps_is_refused():
    with pytest.raises(InputError, match="MPS has no float64; use device cpu or cuda"):
        portable.refuse_device(torch.device("mps"))


def test_the_engine_draws_its_own_parameters_and_order(small):
    eager, ours = (Trainer(RunConfig(dataset=small, engine=engine)) for engine in ("eager", "portable"))
    assert not same_bits(eager.model.linear0.weight, ours.model.linear0.weight)
    assert not same_bits(eager.order(0), ours.order(0))
    assert ENGINES["portable"].arithmetic == portable.VERSION == reference.VERSION


@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_cuda_gives_the_bits_of_the_cpu(cuda, optimizer):
    on_cpu, on_cuda = (Trainer(replace(CONFIG, optimizer=optimizer, device=device)) for device in ("cpu", "cuda"))
    for step in range(20):
        for (stage, one), other in zip(on_cpu.trace_step().items(), on_cuda.trace_step().values(), strict=True):
            assert same_bits(one, other.cpu()), f"step {step} {stage}"


# --- other settings, in processes of their own

# PyTorch takes a level that is asked for at its word, and dies where the processor lacks it.
LEVELS = {"DEFAULT": 1, "AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
SETTINGS = [
    {"ATEN_CPU_CAPABILITY": capability, "MKL_CBWR": cbwr, "ONEDNN_MAX_CPU_ISA": isa}
    for capability, isa in (("default", "SSE41"), ("avx2", "AVX2"), ("avx512", None))[:LEVELS]
    for cbwr in (None, "COMPATIBLE", "AVX2")
]
PROGRAM = """
import json, sys
from mlpbench.certify import certify
from mlpbench.records import RunConfig
import torch
made = {}
for engine in ("portable", "eager"):
    for num_threads in (1, 2):
        c = certify(RunConfig(engine=engine, num_threads=num_threads), 10)
        made[f"{engine} {num_threads}"] = [e.digest for e in c.before] + list(c.steps) + [e.digest for e in c.after]
json.dump(made, sys.stdout)
"""


@pytest.fixture(scope="module")
def digests_by_setting():
    """For each setting, engine and number of threads: every digest of ten steps, in the order of computing."""
    found = {}
    for setting in SETTINGS:
        chosen = {name: value for name, value in setting.items() if value}
        environment = {k: v for k, v in os.environ.items() if k not in setting} | chosen
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        label = ",".join(f"{name}={value}" for name, value in chosen.items()) or "default"
        found |= {f"{key} {label}": digests for key, digests in json.loads(done.stdout).items()}
    return found


@pytest.mark.real
def test_portable_has_the_same_bits_under_every_setting(digests_by_setting):
    runs = {key: digests for key, digests in digests_by_setting.items() if key.startswith("portable")}
    assert len(runs) == 2 * len(SETTINGS)
    assert len({tuple(digests) for digests in runs.values()}) == 1


@pytest.mark.real
def test_eager_has_other_bits_under_several_of_these_settings(digests_by_setting):
    runs = [tuple(digests) for key, digests in digests_by_setting.items() if key.startswith("eager")]
    if LEVELS == 1:
        pytest.skip("this processor has one vector level only")
    assert len(set(runs)) >= 3


if __name__ == "__main__":
    GOLDEN_FILE.write_text(
        json.dumps({f"{o} {n}": golden(o, n) for o in ("sgd", "nesterov") for n in (50, 600)}, indent=1) + "\n"
    )
