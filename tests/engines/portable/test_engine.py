"""Test engine portable: its golden file, the errors that it raises, and its bits under other settings.

`python -m tests.engines.portable.test_engine` writes the golden file again, only for a new version of the format.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlpbench.config import RunConfig
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import reference
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from tests.conformance import same_bits
from tests.paths import GOLDEN

GOLDEN_FILE = GOLDEN / "portable_1.json"
CONFIG = RunConfig(engine="portable")

pytestmark = pytest.mark.usefixtures("restore_threads")


def golden(optimizer, num_steps):
    """Return digests of a run on the digits."""
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


def test_loss_that_is_not_finite_ends_the_run(small):
    with pytest.raises(InputError, match=r"engine portable: the loss is nan.*use a smaller lr than 1e\+30"):
        Trainer(replace(CONFIG, dataset=small, lr=1e30, num_epochs=1)).fit("session")


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("gelu", "activation 'gelu'; supported: relu, leaky_relu, elu, tanh, sigmoid"),
        ("custom_relu", "activation 'custom_relu'; supported: relu, leaky_relu, elu, tanh, sigmoid"),
    ],
)
def test_activation_without_portable_arithmetic_is_refused(small, activation, message):
    with pytest.raises(InputError) as error:
        Trainer(replace(CONFIG, dataset=small, activations=(activation,)))
    assert str(error.value) == f"engine portable does not support {message}"


def test_mps_is_refused():
    with pytest.raises(InputError, match="MPS has no float64; use device cpu or cuda"):
        portable.refuse_device(torch.device("mps"))


def test_engine_draws_its_own_parameters_and_order(small):
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


# --- other settings, each in a fresh process

# PyTorch accepts any vector level that is requested, and crashes if the processor does not have it.
NUM_LEVELS = {"DEFAULT": 1, "AVX2": 2, "AVX512": 3}.get(torch.backends.cpu.get_cpu_capability(), 1)
SETTINGS = [
    {"ATEN_CPU_CAPABILITY": capability, "MKL_CBWR": cbwr, "ONEDNN_MAX_CPU_ISA": isa}
    for capability, isa in (("default", "SSE41"), ("avx2", "AVX2"), ("avx512", None))[:NUM_LEVELS]
    for cbwr in (None, "COMPATIBLE", "AVX2")
]
PROGRAM = """
import json, sys
from mlpbench.certifying.certify import certify
from mlpbench.config import RunConfig
digests = {}
for engine in ("portable", "eager"):
    for num_threads in (1, 2):
        c = certify(RunConfig(engine=engine, num_threads=num_threads), 10)
        digests[f"{engine} {num_threads}"] = [e.digest for e in c.before] + list(c.steps) + [e.digest for e in c.after]
json.dump(digests, sys.stdout)
"""


@pytest.fixture(scope="module")
def digests_by_setting():
    """Return every digest of ten steps, for each setting, engine and thread count."""
    all_digests = {}
    for setting in SETTINGS:
        chosen = {name: value for name, value in setting.items() if value}
        environment = {k: v for k, v in os.environ.items() if k not in setting} | chosen
        command = [sys.executable, "-c", PROGRAM]
        process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        label = ",".join(f"{name}={value}" for name, value in chosen.items()) or "default"
        all_digests |= {f"{key} {label}": digests for key, digests in json.loads(process.stdout).items()}
    return all_digests


@pytest.mark.real
@pytest.mark.slow
def test_portable_has_the_same_bits_under_every_setting(digests_by_setting):
    runs = {key: digests for key, digests in digests_by_setting.items() if key.startswith("portable")}
    assert len(runs) == 2 * len(SETTINGS)
    assert len({tuple(digests) for digests in runs.values()}) == 1


@pytest.mark.real
@pytest.mark.slow
def test_eager_has_three_or_more_different_bits_under_these_settings(digests_by_setting):
    runs = [tuple(digests) for key, digests in digests_by_setting.items() if key.startswith("eager")]
    if NUM_LEVELS == 1:
        pytest.skip("this processor has only one vector level")
    assert len(set(runs)) >= 3


if __name__ == "__main__":
    GOLDEN_FILE.write_text(
        json.dumps({f"{o} {n}": golden(o, n) for o in ("sgd", "nesterov") for n in (50, 600)}, indent=1) + "\n"
    )
