from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mlpbench.config import Loader, Operation, RunConfig
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError
from mlpbench.training.trainer import Trainer
from mlpbench.workload import datasets
from mlpbench.workload.digest import digest
from mlpbench.workload.optimizers import OPTIMIZERS
from tests.conformance import every_engine

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_loader = pytest.mark.parametrize("loader", list(Loader))
every_operation = pytest.mark.parametrize("operation", list(Operation))


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, num_epochs=1, num_threads=1)


def without_times(result):
    """Return the result with its times set to zero, since only they may differ."""
    zeros = (0.0,) * result.config.num_epochs
    return replace(result, train_s=zeros, evaluate_s=zeros)


def fit(config):
    return without_times(Trainer(config).fit("session"))


def parameters_digest(trainer):
    return digest(trainer.model.state_dict())


# --- fit


@every_engine
@every_optimizer
@every_loader
def test_second_fit_gives_the_same_losses_and_digests(config, engine, optimizer, loader):
    config = replace(config, engine=engine, optimizer=optimizer, loader=loader)
    assert fit(config) == fit(config)


@every_engine
def test_trainer_fits_again_from_the_initial_state(config, engine):
    trainer = Trainer(replace(config, engine=engine, optimizer="nesterov"))
    assert without_times(trainer.fit("session")) == without_times(trainer.fit("session"))


def test_fit_of_the_whole_digits_is_reproducible_and_learns(restore_threads):
    config = RunConfig(num_epochs=1, optimizer="nesterov", num_threads=1)
    result = fit(config)
    assert result == fit(config)
    assert (result.num_train, result.num_test) == (60_000, 10_000)
    assert result.test_accuracy[0] > 0.8


@every_engine
@every_optimizer
def test_training_lowers_the_loss(config, engine, optimizer):
    result = fit(replace(config, engine=engine, optimizer=optimizer, num_epochs=4))
    assert result.train_loss[-1] < result.train_loss[0]
    assert result.test_loss[-1] < result.test_loss[0]
    assert dict(result.digests)["initial"] != dict(result.digests)["final"]


@every_optimizer
def test_dataloader_has_the_bits_of_memory(config, optimizer):
    from_memory = fit(replace(config, optimizer=optimizer, loader="memory"))
    from_dataloader = fit(replace(config, optimizer=optimizer, loader="dataloader"))
    assert from_memory == replace(from_dataloader, config=from_memory.config)


@pytest.mark.slow
def test_dataloader_has_the_bits_of_memory_on_the_whole_digits(restore_threads):
    config = RunConfig(num_epochs=1, num_threads=1)
    from_memory, from_dataloader = fit(config), fit(replace(config, loader="dataloader"))
    assert from_memory == replace(from_dataloader, config=config)


@pytest.mark.parametrize("change", [{"seed": 1}, {"hidden_sizes": (150, 150, 151)}])
def test_initial_parameters_depend_on_seed_and_widths(config, change):
    assert fit(config).digests[0] != fit(replace(config, **change)).digests[0]


@pytest.mark.parametrize("change", [{"optimizer": "adam"}, {"lr": 0.1}, {"batch_size": 10}, {"activations": ("gelu",)}])
def test_initial_parameters_depend_on_nothing_else(config, change):
    one, other = fit(config), fit(replace(config, **change))
    assert one.digests[0] == other.digests[0]
    assert one.digests[1] != other.digests[1]


def test_result_has_the_epochs_that_the_observer_received(config):
    epochs = []
    result = Trainer(replace(config, num_epochs=3)).fit("session", epochs.append)
    assert [epoch.index for epoch in epochs] == [0, 1, 2]
    for field in ("train_loss", "train_accuracy", "last_loss", "test_loss", "test_accuracy", "train_s", "evaluate_s"):
        assert tuple(getattr(epoch, field) for epoch in epochs) == getattr(result, field)
    assert (result.session, result.num_train, result.num_test) == ("session", 1230, 430)
    assert [name for name, _ in result.digests] == ["initial", "final"]


def test_epochs_differ_in_their_order_of_batches(config):
    # This learning rate is too small to change a parameter.
    trainer = Trainer(replace(config, lr=1e-300))
    epochs = [[trainer.train_step()[0].item() for _ in range(13)] for _ in range(2)]
    assert epochs[0] != epochs[1]


# --- meaning of the numbers


def test_train_loss_and_accuracy_are_from_the_outputs_of_the_steps(config):
    config = replace(config, batch_size=123)
    result = fit(config)
    trainer = Trainer(config)
    order = datasets.batch_order(config.seed, 0, 1230)
    labels = datasets.load("small").train.labels[order].split(123)
    total = correct = 0
    for y in labels:
        loss, logits = trainer.train_step()
        assert functional.cross_entropy(logits, y).item() == pytest.approx(loss.item(), rel=1e-6)
        total += loss.item() * len(y)
        correct += (logits.argmax(1) == y).sum().item()
    assert (correct / 1230,) == result.train_accuracy
    assert (pytest.approx(total / 1230, rel=1e-6),) == result.train_loss
    assert (loss.item(),) == result.last_loss
    assert ("final", parameters_digest(trainer)) == result.digests[1]


def test_every_training_step_has_a_whole_batch(config):
    trainer = Trainer(config)
    assert [len(trainer.train_step()[1]) for _ in range(30)] == [100] * 30
    assert trainer.samples_per_call("train_step") == 100


@every_loader
def test_test_loss_and_accuracy_are_from_after_the_epoch(config, loader):
    trainer = Trainer(replace(config, loader=loader))
    result = trainer.fit("session")
    test = datasets.load("small").test
    logits = trainer.model(test.normalised()).detach().double()
    assert (pytest.approx(functional.cross_entropy(logits, test.labels).item(), rel=1e-6),) == result.test_loss
    assert ((logits.argmax(1) == test.labels).sum().item() / 430,) == result.test_accuracy


@pytest.mark.slow
def test_predictions_agree_with_the_accuracy_of_evaluate(restore_threads):
    trainer = Trainer(RunConfig(num_threads=1))
    for _ in range(300):
        trainer.train_step()
    test = datasets.load("digits").test
    classes = trainer.predict()
    assert tuple(classes.shape) == (10_000,)
    assert (classes == test.labels).sum().item() / 10_000 == trainer.evaluate()[1]
    assert 0.2 < trainer.evaluate()[1] < 1


def test_predictions_are_for_the_test_set_by_default(config):
    trainer = Trainer(config)
    trainer.fit("session")
    x = datasets.load("small").test.normalised()
    assert trainer.predict().tolist() == trainer.predict(x).tolist()
    assert trainer.predict()[7:9].tolist() == trainer.predict(x[7:9]).tolist()


@pytest.mark.parametrize("call", ["predict", "evaluate"])
def test_predict_and_evaluate_do_not_change_the_training(config, call):
    trainer, other = Trainer(config), Trainer(config)
    for _ in range(3):
        getattr(trainer, call)()
        assert trainer.model.training
        assert trainer.train_step()[0].item() == other.train_step()[0].item()


# --- operations


@every_engine
@every_operation
def test_every_operation_runs_repeatedly_after_prepare(config, engine, operation):
    trainer = Trainer(replace(config, engine=engine, optimizer="adam"))
    if operation.is_part and not trainer.engine.has_parts:
        with pytest.raises(InputError, match=f"{operation} cannot be timed alone; available: train_step"):
            trainer.prepare(operation)
        return
    for _ in range(2):
        trainer.prepare(operation)
        for _ in range(2):
            trainer.operation(operation)()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@every_operation
def test_only_operations_that_train_change_parameters(config, operation):
    trainer = Trainer(config)
    trainer.prepare(operation)
    before = parameters_digest(trainer)
    trainer.operation(operation)()
    trains = operation in ("optimizer_step", "train_step", "epoch")
    assert trains == (before != parameters_digest(trainer))


@every_operation
def test_samples_per_call_follow_from_data_and_batch_size(config, operation):
    expected = {"epoch": 1230, "evaluate": 430}.get(operation, 100)
    assert expected == Trainer(config).samples_per_call(operation)


def test_batch_has_at_most_the_samples_of_the_training_set(config):
    trainer = Trainer(replace(config, batch_size=5000))
    assert 1230 == trainer.samples_per_call("train_step") == len(trainer.train_step()[1])


@pytest.mark.parametrize("operation", ["backward", "forward_backward"])
def test_gradients_are_of_the_first_batch_and_do_not_accumulate(config, operation):
    trainer = Trainer(config)
    trainer.use_threads()
    train = datasets.load("small").train
    loss = functional.cross_entropy(trainer.model(train.normalised()[:100]), train.labels[:100])
    expected = torch.autograd.grad(loss, list(trainer.model.parameters()))
    trainer.prepare(operation)
    for _ in range(2):
        trainer.operation(operation)()
        assert all(torch.equal(e, p.grad) for e, p in zip(expected, trainer.model.parameters(), strict=True))


def test_forward_returns_logits_of_the_first_batch_with_a_graph(config):
    trainer = Trainer(config)
    logits = trainer.forward()
    assert torch.equal(trainer.model(datasets.load("small").train.normalised()[:100]), logits)
    assert logits.requires_grad


def test_prepare_for_an_epoch_goes_back_to_the_start(config):
    trainer = Trainer(config)
    trainer.prepare("epoch")
    first = trainer.epoch()
    assert first != trainer.epoch()
    trainer.prepare("epoch")
    assert first == trainer.epoch()


@every_engine
@every_optimizer
def test_reset_restores_parameters_optimizer_and_order(config, engine, optimizer):
    trainer = Trainer(replace(config, engine=engine, optimizer=optimizer))
    before = parameters_digest(trainer)
    losses = [trainer.train_step()[0].item() for _ in range(20)]
    assert before != parameters_digest(trainer)
    trainer.reset()
    assert before == parameters_digest(trainer)
    assert losses == [trainer.train_step()[0].item() for _ in range(20)]


# --- engines


def steps_by_hand(model, batches, lr):
    """Run gradient descent by hand, and return loss and logits of each batch from before its update."""
    outputs = []
    for x, y in batches:
        logits = model(x)
        loss = functional.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.add_(gradient, alpha=-lr)
        outputs.append((loss.detach(), logits.detach()))
    return outputs


@every_engine
def test_steps_of_every_engine_agree_with_a_loop_by_hand(config, engine):
    config = replace(config, engine=engine, batch_size=123)
    trainer = Trainer(config)
    model = deepcopy(trainer.model)
    train = datasets.load("small").train
    order = ENGINES[engine].batch_order(config.seed, 0, 1230)
    batches = datasets.memory_batches(train.normalised(), train.labels, order, config.batch_size)
    expected = steps_by_hand(model, batches, config.lr)
    assert len(expected) == 10
    for expected_loss, expected_logits in expected:
        loss, logits = trainer.train_step()
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6, check_dtype=False)
        torch.testing.assert_close(logits, expected_logits, rtol=1e-5, atol=1e-5, check_dtype=False)
        assert (loss.requires_grad, logits.requires_grad, tuple(loss.shape)) == (False, False, ())
    for parameter, by_hand in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(parameter, by_hand, rtol=1e-5, atol=1e-7)


def test_steps_of_eager_have_the_bits_of_a_loop_by_hand(config):
    trainer = Trainer(replace(config, batch_size=123))
    model = deepcopy(trainer.model)
    train = datasets.load("small").train
    order = datasets.batch_order(config.seed, 0, 1230)
    batches = datasets.memory_batches(train.normalised(), train.labels, order, 123)
    trainer.use_threads()
    for loss, logits in steps_by_hand(model, batches, config.lr):
        step_loss, step_logits = trainer.train_step()
        assert digest({"loss": loss, "logits": logits}) == digest({"loss": step_loss, "logits": step_logits})
    assert digest(model.state_dict()) == parameters_digest(trainer)
