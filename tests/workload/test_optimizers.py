import numpy as np
import pytest
import torch
from torch.nn import Parameter

from mlpbench.config import RunConfig
from mlpbench.workload.optimizers import OPTIMIZERS

NUM_STEPS = 20
SHAPES = ((3, 2), (5,))


def sgd_oracle(p, gradients, config):
    for gradient in gradients:
        p = p - config.lr * (gradient + config.weight_decay * p)
    return p


def momentum_oracle(p, gradients, config, *, nesterov=False):
    velocity = np.zeros_like(p)
    for gradient in gradients:
        g = gradient + config.weight_decay * p
        velocity = config.momentum * velocity + g
        p = p - config.lr * (g + config.momentum * velocity if nesterov else velocity)
    return p


def nesterov_oracle(p, gradients, config):
    return momentum_oracle(p, gradients, config, nesterov=True)


def adam_oracle(p, gradients, config, *, decoupled=False):
    first, second = np.zeros_like(p), np.zeros_like(p)
    for t, gradient in enumerate(gradients, start=1):
        g = gradient if decoupled else gradient + config.weight_decay * p
        first = 0.9 * first + 0.1 * g
        second = 0.999 * second + 0.001 * g**2
        update = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        p = p - config.lr * (update + config.weight_decay * p if decoupled else update)
    return p


def adamw_oracle(p, gradients, config):
    return adam_oracle(p, gradients, config, decoupled=True)


ORACLES = {
    "sgd": sgd_oracle,
    "momentum": momentum_oracle,
    "nesterov": nesterov_oracle,
    "adam": adam_oracle,
    "adamw": adamw_oracle,
}

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def train(config, start, gradients):
    """Return the parameters after one step of the config's optimizer for each gradient."""
    parameters = [Parameter(torch.from_numpy(p.copy())) for p in start]
    optimizer = OPTIMIZERS[config.optimizer].make(parameters, config)
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return [p.detach().numpy() for p in parameters]


def random_start_and_gradients():
    rng = np.random.default_rng(5)
    start = [rng.normal(size=shape) for shape in SHAPES]
    return start, [[rng.normal(size=shape) for shape in SHAPES] for _ in range(NUM_STEPS)]


def test_every_optimizer_has_an_oracle():
    assert set(OPTIMIZERS) == set(ORACLES)


@every_optimizer
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_parameters_agree_with_the_oracle(name, weight_decay):
    config = RunConfig(optimizer=name, lr=0.05, momentum=0.8, weight_decay=weight_decay)
    start, gradients = random_start_and_gradients()
    for index, actual in enumerate(train(config, start, gradients)):
        expected = ORACLES[name](start[index], [step[index] for step in gradients], config)
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_other_optimizers_ignore_momentum(name):
    start, gradients = random_start_and_gradients()
    without, with_momentum = (
        train(RunConfig(optimizer=name, momentum=momentum), start, gradients) for momentum in (0.0, 0.9)
    )
    assert [p.tolist() for p in without] == [p.tolist() for p in with_momentum]


def test_momentum_of_zero_is_plain_sgd():
    start, gradients = random_start_and_gradients()
    expected = train(RunConfig(optimizer="sgd"), start, gradients)
    actual = train(RunConfig(optimizer="momentum", momentum=0.0), start, gradients)
    assert [p.tolist() for p in expected] == [p.tolist() for p in actual]


@every_optimizer
def test_weight_decay_shrinks_parameters_without_gradient(name):
    start = [np.array([2.0, -3.0])]
    zeros = [[np.zeros(2)]] * NUM_STEPS
    (without,) = train(RunConfig(optimizer=name, weight_decay=0.0), start, zeros)
    (decayed,) = train(RunConfig(optimizer=name, weight_decay=0.1), start, zeros)
    assert without.tolist() == [2.0, -3.0]
    assert 0 < decayed[0] < 2
    assert -3 < decayed[1] < 0


@every_optimizer
def test_optimizer_reduces_a_quadratic(name):
    target = torch.tensor([1.0, -2.0, 0.5])
    parameter = Parameter(torch.zeros(3))
    optimizer = OPTIMIZERS[name].make([parameter], RunConfig(optimizer=name))
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = ((parameter - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_usual_learning_rates_are_below_the_one_of_the_tutorial():
    assert {name for name, kind in OPTIMIZERS.items() if kind.usual_lr} == {"adam", "adamw"}
    assert all(0 < kind.usual_lr < RunConfig().lr for kind in OPTIMIZERS.values() if kind.usual_lr)
    assert OPTIMIZERS["sgd"].lr(0.3) == 0.3
