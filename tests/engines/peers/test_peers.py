"""Check that engines of other libraries learn as `eager` does, from the same parameters and in the same order."""

import itertools
import logging
import math
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
from mlpbench.engines.optimizer_rules import BETA2, EPSILON
from mlpbench.engines.peers.peer import Peer
from mlpbench.engines.registry import ENGINES, PEERS
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.digest import digest
from mlpbench.workload.optimizers import OPTIMIZERS
from tests.conformance import assert_same_training
from tests.engines.peers.peer_configs import TUTORIALS, USUAL, every_peer, installed, with_engine

# Relative differences of losses and of the norms of parameters, after 26 steps. Where a gradient is nothing but
# rounding, Adam follows the rounding.
TOLERANCE = {"sgd": 1e-5, "momentum": 1e-4, "nesterov": 1e-4, "adam": 2e-3, "adamw": 2e-3}
# The optimizers with a weight decay that equals PyTorch's; for the other libraries, all.
DECAYING = {"sklearn": (), "keras": ("sgd", "adamw")}


def adding_epsilon_first(make):
    """Return PyTorch's Adam, but with epsilon added where Keras adds it: before the bias of the first steps."""

    def make_changed(parameters, config):
        optimizer, steps = make(parameters, config), itertools.count(1)

        def adapt(*_):
            optimizer.param_groups[0]["eps"] = EPSILON / math.sqrt(1 - BETA2 ** next(steps))

        optimizer.register_step_pre_hook(adapt)
        return optimizer

    return make_changed


def assert_learns_as_eager(config, num_epochs=2):
    one, other = Trainer(config), Trainer(replace(config, engine="eager"))
    orders = [one.order(epoch) for epoch in range(num_epochs)]
    assert_same_training(one, other, orders, tolerance=TOLERANCE[config.optimizer], num_off=1)


# --- the same learning


def test_peers_are_the_engines_that_derive_from_peer():
    assert [name for name, engine in ENGINES.items() if issubclass(engine, Peer)] == list(PEERS)


@every_peer
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_every_optimizer_learns_as_eager(config, engine, optimizer, weight_decay, monkeypatch):
    if optimizer not in ENGINES[engine].optimizers or (
        weight_decay and optimizer not in DECAYING.get(engine, OPTIMIZERS)
    ):
        pytest.skip(f"{engine} does not support it")
    if engine == "keras" and optimizer.startswith("adam"):
        kind = OPTIMIZERS[optimizer]
        monkeypatch.setitem(OPTIMIZERS, optimizer, replace(kind, make=adding_epsilon_first(kind.make)))
    lr = OPTIMIZERS[optimizer].lr(config.lr)
    assert_learns_as_eager(with_engine(config, engine, optimizer=optimizer, lr=lr, weight_decay=weight_decay))


@every_peer
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_learns_as_eager(config, engine, activation):
    if activation not in ENGINES[engine].activations:
        pytest.skip(f"{engine} does not support it")
    assert_learns_as_eager(replace(config, engine=engine, activations=(activation,), hidden_sizes=(33, 20), lr=0.1))


@every_peer
@pytest.mark.parametrize(("batch_size", "sizes"), [(123, (160,)), (7, (13, 1)), (5000, (64, 65))])
def test_odd_widths_and_batches_learn_as_eager(config, engine, batch_size, sizes):
    assert_learns_as_eager(
        replace(config, engine=engine, batch_size=batch_size, hidden_sizes=sizes, activations=("tanh",) * len(sizes)),
        num_epochs=1,
    )


@every_peer
def test_steps_equal_a_loop_written_by_hand(config, engine):
    trainer = Trainer(with_engine(config, engine, batch_size=123))
    trainer.use_threads()
    model = deepcopy(trainer.model)
    optimizer = OPTIMIZERS["sgd"].make(model.parameters(), config)
    train = datasets.load("small").train
    for x, y in datasets.memory_batches(train.normalised(), train.labels, trainer.order(0), 123):
        optimizer.zero_grad()
        logits = model(x)
        expected = functional.cross_entropy(logits, y)
        expected.backward()
        optimizer.step()
        loss, actual = trainer.train_step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(actual, logits.detach(), rtol=1e-5, atol=1e-5)
        for p, q in zip(trainer.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@every_peer
def test_parts_of_an_epoch_add_up_to_the_epoch(config, engine):
    config = with_engine(config, engine, optimizer="nesterov")
    parts, whole = Trainer(config), Trainer(config)
    whole.use_threads()
    x, y, order = *list(whole.inputs.values())[:2], whole.order(0)
    results = [parts.engine.train(x, y, part, 100) for part in (order[:100], order[100:900], order[900:])]
    expected = whole.engine.train(x, y, order, 100)
    assert sum(each.loss_sum for each in results) == pytest.approx(expected.loss_sum, rel=1e-5)
    assert sum(each.num_correct for each in results) == pytest.approx(expected.num_correct, abs=1)
    assert results[-1].last_loss == pytest.approx(expected.last_loss, rel=1e-4)


@every_peer
def test_digits_are_learnt(restore_threads, engine):
    config = RunConfig(engine=engine, activations=USUAL.get(engine, TUTORIALS), optimizer="nesterov", num_threads=1)
    trainer = Trainer(config)
    trainer.use_threads()
    trainer.epoch()
    assert trainer.evaluate()[1] > 0.8


# --- the model's parameters


@every_peer
@pytest.mark.parametrize("operation", ["epoch", "train_step"])
def test_parameters_are_copied_to_the_model(config, engine, operation):
    trainer = Trainer(with_engine(config, engine, lr=0.1))
    trainer.use_threads()
    before = digest(trainer.model.state_dict())
    trainer.operation(operation)()
    assert before != digest(trainer.model.state_dict())
    with torch.no_grad():
        by_model = trainer.model(trainer.inputs["test images"])
    torch.testing.assert_close(trainer.logits(), by_model, rtol=1e-5, atol=1e-5)


@every_peer
def test_training_starts_anew_after_a_reset(config, engine):
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
def test_trainers_of_the_same_config_share_no_state(config, engine):
    config = with_engine(config, engine, optimizer="momentum")
    one, other, alone = Trainer(config), Trainer(config), Trainer(config)
    one.use_threads()
    expected = [alone.epoch() for _ in range(2)]
    assert [t.epoch() for t in (one, other, one, other)] == [expected[0], expected[0], expected[1], expected[1]]


# --- the state


@every_peer
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_continues_in_another_trainer_to_the_same_bits(config, engine, optimizer):
    if not ENGINES[engine].has_state:
        pytest.skip(f"{engine} does not give its state")
    lr = OPTIMIZERS[optimizer].lr(config.lr)
    one, other = (Trainer(with_engine(config, engine, optimizer=optimizer, lr=lr)) for _ in range(2))
    one.use_threads()
    for _ in range(2):
        one.epoch()
    # As before a run that goes on.
    other.prepare("epoch")
    other.evaluate()
    other.restore(one.state())
    assert [one.epoch(), one.evaluate()] == [other.epoch(), other.evaluate()]
    assert one._digests() == other._digests()


def test_engines_without_a_state_are_those_that_hide_it():
    assert [name for name, engine in ENGINES.items() if not engine.has_state] == ["sklearn"]


# --- side effects


@every_peer
def test_training_prints_writes_and_changes_nothing_else(config, engine, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = with_engine(config, engine)
    # An import is allowed to set up loggers.
    Trainer(config)
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
def test_interrupt_in_lightning_stays_an_interrupt(config, engine, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    trainer = Trainer(with_engine(config, engine))
    monkeypatch.setattr("mlpbench.engines.peers.peer.Tally.add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.epoch()
    assert signal.getsignal(signal.SIGINT) == before


def test_registry_loads_none_of_the_libraries():
    code = "import sys, mlpbench.engines.registry; print(*{name.partition('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in names
    assert {"jax", "sklearn", "lightning", "skorch", "keras"} & set(names) == set()
