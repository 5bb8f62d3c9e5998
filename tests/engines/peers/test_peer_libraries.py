"""Check what is particular to one library: compiling, threads, backends and errors."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from mlpbench.engines.peers import jax
from mlpbench.engines.peers.peer import load
from mlpbench.engines.registry import ENGINES, PEERS
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from tests.engines.peers.peer_configs import TUTORIALS, installed, with_engine

# --- compiling


@installed("jax")
def test_jax_compiles_an_epoch_only_once(config, engine):
    trainer = Trainer(with_engine(config, engine, hidden_sizes=(31, 31, 31)))
    trainer.prepare("epoch")
    compiled = trainer.engine._train._cache_size()
    trainer.epoch()
    assert compiled == trainer.engine._train._cache_size() >= 1


@installed("jax")
def test_jax_copies_modified_data_again(config, engine):
    trainer = Trainer(with_engine(config, engine))
    x, y = torch.rand(50, 784), torch.randint(10, (50,))
    first = trainer.engine.train(x, y, torch.arange(50), 50).last_loss
    x.zero_()
    of_zeros = functional.cross_entropy(trainer.model(x), y).item()
    assert trainer.engine.train(x, y, torch.arange(50), 50).last_loss == pytest.approx(of_zeros, rel=1e-5) != first


@installed("keras")
def test_next_engine_of_a_model_reuses_its_network(config, engine):
    trainer = Trainer(with_engine(config, engine))
    network = trainer.engine._network
    trainer.reset()
    assert trainer.engine._network is network
    assert Trainer(trainer.config).engine._network is not network


# --- threads


@installed("jax")
def test_another_thread_count_than_that_of_xla_is_refused(config, engine):
    Trainer(with_engine(config, engine))
    started = jax._xla_threads[0] or "none"
    expected = f"num_threads={started} and cannot change it; run num_threads=7 in another process"
    with pytest.raises(InputError, match=expected):
        Trainer(with_engine(config, engine, num_threads=7))


@installed("sklearn")
@pytest.mark.parametrize("num_threads", [1, 2])
def test_scikit_learn_uses_the_thread_count_of_pytorch(config, engine, num_threads, monkeypatch):
    import threadpoolctl

    trainer = Trainer(with_engine(config, engine, num_threads=num_threads))
    trainer.use_threads()
    counts, partial_fit = [], trainer.engine._classifier.partial_fit

    def observed(*arguments, **keywords):
        counts.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
        return partial_fit(*arguments, **keywords)

    monkeypatch.setattr(trainer.engine._classifier, "partial_fit", observed)
    trainer.train_step()
    assert set(counts) == {num_threads}


# --- Keras on JAX, in another process, because a process chooses its backend once

KERAS_ON_JAX = """
import sys
from mlpbench.config import RunConfig
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets

digits = datasets.load("digits")
parts = {"train": digits.train, "test": digits.test}
small = datasets.Dataset(**{
    name: datasets.Images(images=part.images[:530], labels=part.labels[:530]) for name, part in parts.items()
})
datasets.DATASETS["small"] = lambda: small
for engine in ("eager", "keras"):
    trainer = Trainer(RunConfig(dataset="small", engine=engine, optimizer="nesterov", num_threads=1))
    trainer.prepare("epoch")
    print(*trainer.epoch(), *trainer.epoch(), *trainer.evaluate())
print("jax" in sys.modules, sys.modules["keras"].backend.backend())
"""


def run_with_backend(code, backend):
    environment = os.environ | {"KERAS_BACKEND": backend}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("jax", "keras"))), reason="needs jax and keras")
def test_keras_on_jax_learns_as_eager():
    process = run_with_backend(KERAS_ON_JAX, "jax")
    assert process.stderr == ""
    expected, actual, backend = process.stdout.splitlines()
    assert list(map(float, actual.split())) == pytest.approx(list(map(float, expected.split())), rel=1e-4)
    assert backend == "True jax"


# --- errors


@pytest.mark.parametrize("engine", PEERS)
def test_missing_package_gives_a_message_of_one_line(config, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, ENGINES[engine].package, None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    package = ENGINES[engine].package.partition(".")[0]
    expected = f"engine {engine} needs the package {package}; run: python -m pip install 'mlpbench[peers]'"
    with pytest.raises(InputError) as caught:
        Trainer(with_engine(config, engine))
    assert expected == str(caught.value)


def test_missing_package_of_a_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import not_to_be_found.at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="engine keras needs the package not_to_be_found; run: "):
        load("needy", "keras")


@pytest.mark.parametrize("engine", PEERS)
def test_another_device_than_the_cpu_is_refused(config, engine):
    model = torch.nn.Sequential(torch.nn.Linear(784, 10, device="meta"))
    with pytest.raises(InputError, match=f"engine {engine} runs on the CPU only; set device=cpu"):
        ENGINES[engine](model, with_engine(config, engine))


@pytest.mark.parametrize(
    ("engine", "changes", "expected"),
    [
        (
            "sklearn",
            {"activations": TUTORIALS},
            "engine sklearn does not support activation 'elu'; supported: relu, tanh",
        ),
        ("sklearn", {"activations": ("relu", "tanh", "relu")}, "use activations=relu, tanh or sigmoid"),
        ("sklearn", {"weight_decay": 0.1}, "use weight_decay=0"),
        (
            "sklearn",
            {"optimizer": "adamw"},
            "engine sklearn does not support optimizer 'adamw'; supported: sgd, momentum",
        ),
        ("keras", {"weight_decay": 0.1, "optimizer": "adam"}, "use weight_decay=0, or optimizer sgd or adamw"),
    ],
)
def test_unsupported_configs_are_refused(config, engine, changes, expected, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    with pytest.raises(InputError) as caught:
        Trainer(with_engine(config, engine, **changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsupported_backend_of_keras_is_refused(config, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(InputError, match="KERAS_BACKEND is 'tensorflow'; set it to torch or jax"):
        Trainer(with_engine(config, "keras"))


@installed("sklearn")
@pytest.mark.filterwarnings("error")
def test_diverging_training_of_scikit_learn_is_refused(config, engine):
    trainer = Trainer(with_engine(config, engine, activations=("relu",), lr=1e30))
    with pytest.raises(InputError, match="engine sklearn: Solver produced non-finite parameter weights"):
        trainer.epoch()
