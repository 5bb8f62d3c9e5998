from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.workload.activations import ACTIVATIONS
from mlpbench.workload.models import MODELS, mlp

SHAPES = [
    ((4,), ("relu",)),
    ((5,), ("tanh",)),
    ((3,), ("elu",)),
    ((7, 5), ("elu", "relu")),
    ((8, 1, 6), ("relu", "tanh", "elu")),
    ((6, 9, 4, 3, 5), ("tanh", "elu", "relu", "tanh", "elu")),
    ((150, 150, 150), ("relu", "tanh", "elu")),
]


def mlp_oracle(parameters, activations, x, y):
    """Return logits, mean cross-entropy and gradients of an MLP by the chain rule; parameters are W0, b0, W1, b1 ..."""
    weights, biases = parameters[::2], parameters[1::2]
    inputs, slopes = [x], []
    for weight, bias, activation in zip(weights, biases, (*activations, "none"), strict=True):
        z = inputs[-1] @ weight.T + bias
        if activation == "relu":
            value, slope = np.where(z > 0, z, 0), np.where(z > 0, 1, 0)
        elif activation == "tanh":
            value, slope = np.tanh(z), 1 / np.cosh(z) ** 2
        elif activation == "elu":
            value, slope = np.where(z > 0, z, np.exp(z) - 1), np.where(z > 0, 1, np.exp(z))
        else:
            value, slope = z, np.ones_like(z)
        inputs.append(value)
        slopes.append(slope)
    logits = inputs.pop()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()

    gradients = []
    delta = (probabilities - np.eye(logits.shape[1])[y]) / len(y)
    for weight, layer_input, slope in zip(reversed(weights), reversed(inputs), reversed(slopes), strict=True):
        delta = delta * slope
        gradients += [delta.sum(axis=0), delta.T @ layer_input]
        delta = delta @ weight
    return logits, loss, gradients[::-1]


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize(("hidden_sizes", "activations"), SHAPES)
def test_logits_loss_and_gradients_agree_with_numpy(model_name, hidden_sizes, activations):
    torch.manual_seed(len(hidden_sizes))
    model = MODELS[model_name](RunConfig(hidden_sizes=hidden_sizes, activations=activations), 11, 4).double()
    x = torch.randn(9, 11, dtype=torch.float64)
    y = torch.arange(9) % 4
    logits = model(x)
    loss = functional.cross_entropy(logits, y)
    loss.backward()
    expected_logits, expected_loss, expected_gradients = mlp_oracle(
        [p.detach().numpy() for p in model.parameters()], activations, x.numpy(), y.numpy()
    )
    np.testing.assert_allclose(logits.detach().numpy(), expected_logits, rtol=1e-11, atol=1e-13)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    for parameter, expected in zip(model.parameters(), expected_gradients, strict=True):
        np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-10, atol=1e-14)


def test_default_model_has_the_tutorials_number_of_parameters():
    model = mlp(RunConfig(), 784, 10)
    assert sum(p.numel() for p in model.parameters()) == 164_560


@pytest.mark.parametrize(("hidden_sizes", "activations"), SHAPES)
def test_shapes_of_parameters_follow_from_the_hidden_sizes(hidden_sizes, activations):
    model = mlp(RunConfig(hidden_sizes=hidden_sizes, activations=activations), 11, 4)
    expected = []
    for num_in, num_out in pairwise((11, *hidden_sizes, 4)):
        expected += [(num_out, num_in), (num_out,)]
    assert expected == [tuple(p.shape) for p in model.parameters()]


def test_layers_are_named_by_kind_and_index():
    names = [name for name, _ in mlp(RunConfig(), 784, 10).named_children()]
    assert names == ["linear0", "relu0", "linear1", "tanh1", "linear2", "elu2", "linear3"]


def test_initial_parameters_fill_the_range_of_a_default_linear_layer():
    torch.manual_seed(0)
    for layer in mlp(RunConfig(), 784, 10).children():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            assert bound * 0.98 < layer.weight.abs().max().item() <= bound
            assert bound * 0.5 < layer.bias.abs().max().item() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_initial_parameters_are_those_of_new_linear_layers_in_order():
    torch.manual_seed(7)
    expected = [p for sizes in pairwise((784, 150, 150, 150, 10)) for p in nn.Linear(*sizes).parameters()]
    torch.manual_seed(7)
    parameters = list(mlp(RunConfig(), 784, 10).parameters())
    assert all(torch.equal(e, p) for e, p in zip(expected, parameters, strict=True))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RunConfig(), "784-150-150-150-10 relu,tanh,elu"),
        (RunConfig(hidden_sizes=(64,), activations=("gelu",)), "784-64-10 gelu"),
        (RunConfig(hidden_sizes=(8, 9), activations=("custom_elu",)), "784-8-9-10 custom_elu,custom_elu"),
    ],
)
def test_name_lists_sizes_and_activations(config, expected):
    assert expected == mlp(config, 784, 10).name


def test_unknown_activation_raises_with_the_known_activations():
    with pytest.raises(InputError, match="unknown activation 'rleu'") as error:
        mlp(RunConfig(activations=("relu", "rleu", "elu")), 784, 10)
    assert str(error.value).endswith(f"known: {', '.join(ACTIVATIONS)}")
