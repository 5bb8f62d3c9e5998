"""Engines of other libraries: the learning of eager, from the same parameters and in the same order."""

import importlib.util
import itertools
import logging
import math
import os
import signal
import subprocess
import sys
import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.engines.peers import jax
from mlpbench.engines.peers.peer import Peer, load
from mlpbench.engines.registry import ENGINES, PEERS
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.optimizers import OPTIMIZERS
from tests.conformance import assert_same_training

# For losses and norms of parameters after 26 steps. Adam follows the rounding of a gradient that is only rounding.
TOLERANCE = {"sgd": 1e-5, "momentum": 1e-4, "nesterov": 1e-4, "adam": 2e-3, "adamw": 2e-3}
TUTORIALS = ("relu", "tanh", "elu")
USUAL = {"sklearn": ("relu",)}
DECAYING = {"sklearn": (), "keras": ("sgd", "adamw")}


def installed(*engines):
    """These engines as a parameter, each skipped where its package is missing."""
    return pytest.mark.parametrize(
        "engine",
        [
            pytest.param(
                name,
                marks=pytest.mark.skipif(
                    importlib.util.find_spec(name) is None, reason=f"needs {name}: pip install 'mlpbench[peers]'"
                ),
            )
            for name in engines
        ],
    )


every_peer = installed(*PEERS)


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, num_threads=1)


def with_engine(config, engine, **changes):
    return replace(config, engine=engine, **{"activations": USUAL.get(engine, TUTORIALS), **changes})


def adding_epsilon_first(make, epsilon=1e-8, beta2=0.999):
    """An Adam of PyTorch that adds epsilon where Keras does: before the first steps' bias is corrected."""

    def made(parameters, config):
        optimizer, steps = make(parameters, config), itertools.count(1)

        def adapt(*_):
            optimizer.param_groups[0]["eps"] = epsilon / math.sqrt(1 - beta2 ** next(steps))

        optimizer.register_step_pre_hook(adapt)
        return optimizer

    return made


def assert_learns_as_eager(config, num_epochs=2):
    one, other = Trainer(config), Trainer(replace(config, engine="eager"))
    orders = [one.order(epoch) for epoch in range(num_epochs)]
    assert_same_training(one, other, orders, tolerance=TOLERANCE[config.optimizer], num_off=1)


# --- the same learning


def test_all_of_them_are_engines():
    assert [name for name, engine in ENGINES.items() if issubclass(engine, Peer)] == list(PEERS)


@every_peer
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_every_optimizer_learns_as_eager(config, engine, optimizer, weight_decay, monkeypatch):
    if optimizer not in ENGINES[engine].optimizers or (
        weight_decay and optimizer not in DECAYING.get(engine, OPTIMIZERS)
    ):
        pytest.skip(f"{engine} does not claim it")
    if engine == "keras" and optimizer.startswith("adam"):
        kind = OPTIMIZERS[optimizer]
        monkeypatch.setitem(OPTIMIZERS, optimizer, replace(kind, make=adding_epsilon_first(kind.make)))
    lr = OPTIMIZERS[optimizer].lr(config.lr)
    assert_learns_as_eager(with_engine(config, engine, optimizer=optimizer, lr=lr, weight_decay=weight_decay))


@every_peer
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_learns_as_eager(config, engine, activation):
    if activation not in ENGINES[engine].activations:
        pytest.skip(f"{engine} does not claim it")
    assert_learns_as_eager(replace(config, engine=engine, activations=(activation,), hidden_sizes=(33, 20), lr=0.1))


@every_peer
@pytest.mark.parametrize(("batch_size", "sizes"), [(123, (160,)), (7, (13, 1)), (5000, (64, 65))])
def test_odd_widths_and_batches_learn_as_eager(config, engine, batch_size, sizes):
    assert_learns_as_eager(
        replace(config, engine=engine, batch_size=batch_size, hidden_sizes=sizes, activations=("tanh",) * len(sizes)),
        num_epochs=1,
    )


@every_peer
def test_steps_agree_with_a_loop_written_by_hand(config, engine):
    trainer = Trainer(with_engine(config, engine, batch_size=123))
    trainer.use_threads()
    model = deepcopy(trainer.model)
    optimizer = OPTIMIZERS["sgd"].make(model.parameters(), config)
    half = datasets.load("small").train
    for x, y in datasets.memory_batches(half.normalised(), half.labels, trainer.order(0), 123):
        optimizer.zero_grad()
        logits = model(x)
        expected = functional.cross_entropy(logits, y)
        expected.backward()
        optimizer.step()
        loss, made = trainer.train_step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(made, logits.detach(), rtol=1e-5, atol=1e-5)
        for p, by_hand in zip(trainer.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(p, by_hand, rtol=1e-5, atol=1e-6)


@every_peer
def test_an_epoch_in_parts_is_the_epoch(config, engine):
    config = with_engine(config, engine, optimizer="nesterov")
    parts, whole = Trainer(config), Trainer(config)
    whole.use_threads()
    x, y, order = *list(whole.inputs.values())[:2], whole.order(0)
    made = [parts.engine.train(x, y, part, 100) for part in (order[:100], order[100:900], order[900:])]
    expected = whole.engine.train(x, y, order, 100)
    assert sum(each.loss_sum for each in made) == pytest.approx(expected.loss_sum, rel=1e-5)
    assert sum(each.num_correct for each in made) == pytest.approx(expected.num_correct, abs=1)
    assert made[-1].last_loss == pytest.approx(expected.last_loss, rel=1e-4)


@every_peer
def test_the_whole_digits_are_learnt(restore_threads, engine):
    config = RunConfig(engine=engine, activations=USUAL.get(engine, TUTORIALS), optimizer="nesterov", num_threads=1)
    trainer = Trainer(config)
    trainer.use_threads()
    trainer.epoch()
    assert trainer.evaluate()[1] > 0.8


# --- the model has what was learnt


@every_peer
@pytest.mark.parametrize("operation", ["epoch", "train_step"])
def test_the_model_is_given_the_parameters(config, engine, operation):
    trainer = Trainer(with_engine(config, engine, lr=0.1))
    trainer.use_threads()
    before = digest(trainer.model.state_dict())
    trainer.operation(operation)()
    assert before != digest(trainer.model.state_dict())
    with torch.no_grad():
        by_model = trainer.model(trainer.inputs["test images"])
    torch.testing.assert_close(trainer.logits(), by_model, rtol=1e-5, atol=1e-5)


@every_peer
def test_after_a_reset_training_begins_anew(config, engine):
    trainer = Trainer(with_engine(config, engine, optimizer="nesterov", num_epochs=2))
    first, second = trainer.fit("session"), trainer.fit("session")
    assert first.digests == second.digests
    assert (first.train_loss, first.test_loss, first.last_loss) == (
        second.train_loss,
        second.test_loss,
        second.last_loss,
    )
    assert first.digests[0] != first.digests[1]


@every_peer
def test_trainers_of_the_same_config_do_not_meet(config, engine):
    config = with_engine(config, engine, optimizer="momentum")
    one, other, alone = Trainer(config), Trainer(config), Trainer(config)
    one.use_threads()
    expected = [alone.epoch() for _ in range(2)]
    assert [t.epoch() for t in (one, other, one, other)] == [expected[0], expected[0], expected[1], expected[1]]


# --- good manners


@every_peer
def test_nothing_is_printed_written_or_left_changed(config, engine, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = with_engine(config, engine)
    Trainer(config)  # importing is another matter: it may set up loggers
    before = list(warnings.filters), {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    interrupt, generator = signal.getsignal(signal.SIGINT), torch.get_rng_state()
    trainer = Trainer(config)
    trainer.epoch()
    trainer.train_step()
    trainer.evaluate()
    after = list(warnings.filters), {name: logging.getLogger(name).level for name in before[1]}
    assert before == after
    assert interrupt == signal.getsignal(signal.SIGINT)
    assert torch.equal(generator, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@installed("lightning")
def test_an_interrupt_in_lightning_stays_one(config, engine, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    trainer = Trainer(with_engine(config, engine))
    monkeypatch.setattr("mlpbench.engines.peers.peer.Tally.add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.epoch()
    assert signal.getsignal(signal.SIGINT) == before


def test_the_registry_loads_none_of_the_libraries():
    loaded = "import sys, mlpbench.engines.registry; print(*{name.partition('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in names
    assert {"jax", "sklearn", "lightning", "skorch", "keras"} & set(names) == set()


# --- compiled once


@installed("jax")
def test_jax_compiles_neither_a_part_of_an_epoch_nor_after_a_reset(config, engine):
    trainer = Trainer(with_engine(config, engine, hidden_sizes=(31, 31, 31)))
    trainer.prepare("epoch")
    compiled = trainer.engine._train._cache_size()
    trainer.epoch()
    assert compiled == trainer.engine._train._cache_size() >= 1


@installed("jax")
def test_jax_reads_data_anew_that_was_written_to(config, engine):
    trainer = Trainer(with_engine(config, engine))
    x, y = torch.rand(50, 784), torch.randint(10, (50,))
    first = trainer.engine.train(x, y, torch.arange(50), 50).last_loss
    x.zero_()
    by_bias = functional.cross_entropy(trainer.model(x), y).item()
    assert trainer.engine.train(x, y, torch.arange(50), 50).last_loss == pytest.approx(by_bias, rel=1e-5) != first


@installed("keras")
def test_a_models_next_engine_takes_over_its_network(config, engine):
    trainer = Trainer(with_engine(config, engine))
    network = trainer.engine._network
    trainer.reset()
    assert trainer.engine._network is network
    assert Trainer(trainer.config).engine._network is not network


# --- threads


@installed("jax")
def test_another_number_of_threads_than_xlas_is_refused(config, engine):
    Trainer(with_engine(config, engine))
    started = jax._started[0]
    with pytest.raises(InputError, match=f"num_threads={started or 'none'}; run num_threads=7 in a process of its own"):
        Trainer(with_engine(config, engine, num_threads=7))


@installed("sklearn")
@pytest.mark.parametrize("num_threads", [1, 2])
def test_scikit_learn_computes_with_pytorchs_number_of_threads(config, engine, num_threads, monkeypatch):
    import threadpoolctl

    trainer = Trainer(with_engine(config, engine, num_threads=num_threads))
    trainer.use_threads()
    seen, partial_fit = [], trainer.engine._classifier.partial_fit

    def watched(*arguments, **keywords):
        seen.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas")
        return partial_fit(*arguments, **keywords)

    monkeypatch.setattr(trainer.engine._classifier, "partial_fit", watched)
    trainer.train_step()
    assert set(seen) == {num_threads}


KERAS_ON_JAX = """
import sys
from mlpbench.config import RunConfig
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets as data

digits = data.load("digits")
halves = {half: data.Images(images=getattr(digits, half).images[:530], labels=getattr(digits, half).labels[:530])
          for half in ("train", "test")}
data.DATASETS["small"] = lambda: data.Dataset(**halves)
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
    done = run_with_backend(KERAS_ON_JAX, "jax")
    assert done.stderr == ""
    expected, made, loaded = done.stdout.splitlines()
    assert list(map(float, made.split())) == pytest.approx(list(map(float, expected.split())), rel=1e-4)
    assert loaded == "True jax"


# --- what is refused


@pytest.mark.parametrize("engine", PEERS)
def test_a_missing_package_is_told_in_one_line(config, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, ENGINES[engine].package, None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    package = ENGINES[engine].package.partition(".")[0]
    expected = f"engine {engine} needs the package {package}: python -m pip install 'mlpbench[peers]'"
    with pytest.raises(InputError) as caught:
        Trainer(with_engine(config, engine))
    assert expected == str(caught.value)


def test_a_package_that_another_one_needs_is_told_as_missing(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import not_to_be_found.at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="engine keras needs the package not_to_be_found: "):
        load("needy", "keras")


@pytest.mark.parametrize("engine", PEERS)
def test_another_device_than_the_cpu_is_refused(config, engine):
    model = torch.nn.Sequential(torch.nn.Linear(784, 10, device="meta"))
    with pytest.raises(InputError, match=f"engine {engine} is for the CPU; use device=cpu"):
        ENGINES[engine](model, with_engine(config, engine))


@pytest.mark.parametrize(
    ("engine", "changes", "told"),
    [
        ("sklearn", {"activations": TUTORIALS}, "does not support activation 'elu'; supported: relu, tanh"),
        ("sklearn", {"activations": ("relu", "tanh", "relu")}, "use activations=relu, tanh or sigmoid"),
        ("sklearn", {"weight_decay": 0.1}, "use weight_decay=0"),
        ("sklearn", {"optimizer": "adamw"}, "does not support optimizer 'adamw'; supported: sgd, momentum"),
        ("keras", {"weight_decay": 0.1, "optimizer": "adam"}, "use weight_decay=0, or optimizer sgd or adamw"),
    ],
)  # fmt: skip
def test_what_a_library_does_not_have_is_refused(config, engine, changes, told, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    with pytest.raises(InputError) as caught:
        Trainer(with_engine(config, engine, **changes))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_backend_of_keras_is_refused(config, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(InputError, match="KERAS_BACKEND is 'tensorflow'; set it to"):
        Trainer(with_engine(config, "keras"))


@installed("sklearn")
@pytest.mark.filterwarnings("error")
def test_a_training_of_scikit_learn_that_diverges_is_refused(config, engine):
    trainer = Trainer(with_engine(config, engine, activations=("relu",), lr=1e30))
    with pytest.raises(InputError, match="engine sklearn: Solver produced non-finite parameter weights"):
        trainer.epoch()
