import numpy as np
import pytest
import torch
from torch import nn

from mlpbench.workload.activations import ACTIVATIONS

# An even number of points between symmetric ends: no point is on the kink at 0, and the nearest is 0.06 away.
AWAY_FROM_KINKS = np.linspace(-6, 6, 100)

# 0 with both signs, values near 0, and magnitudes at which exp overflows or underflows in float32.
HARD = (0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.5, -0.5, 3.0, -3.0, 20.0, -20.0, 89.0, -89.0, 200.0, -200.0)

CUSTOM = {"custom_relu": nn.ReLU, "custom_tanh": nn.Tanh, "custom_elu": nn.ELU}

every_activation = pytest.mark.parametrize("name", ACTIVATIONS)
every_custom = pytest.mark.parametrize("name", CUSTOM)


def value_and_gradient(layer, x, upstream):
    x = x.clone().requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    return y.detach(), gradient


def test_custom_activation_has_the_formula_and_names_of_its_function():
    for name, entry in ACTIVATIONS.items():
        function = ACTIVATIONS[name.removeprefix("custom_")]
        assert entry.function == function.function
        assert (entry.formula, entry.torch, entry.sklearn) == (function.formula, function.torch, function.sklearn)


def test_every_custom_activation_is_tested():
    assert set(CUSTOM) == {name for name in ACTIVATIONS if name.startswith("custom_")}


@every_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0, 4), (2, 3, 4)])
def test_output_and_gradient_have_shape_and_dtype_of_the_input(name, dtype, shape):
    x = torch.linspace(-2, 2, int(np.prod(shape)), dtype=dtype).reshape(shape)
    y, gradient = value_and_gradient(ACTIVATIONS[name].make(), x, torch.ones_like(x))
    assert (shape, dtype) == (tuple(y.shape), y.dtype)
    assert (shape, dtype) == (tuple(gradient.shape), gradient.dtype)


@every_activation
def test_input_is_not_changed(name):
    x = torch.linspace(-2, 2, 11)
    ACTIVATIONS[name].make()(x)
    assert torch.equal(torch.linspace(-2, 2, 11), x)


@every_activation
def test_gradient_passes_gradcheck_in_float64(name):
    x = torch.from_numpy(AWAY_FROM_KINKS).requires_grad_()
    assert torch.autograd.gradcheck(ACTIVATIONS[name].make(), x)


@every_activation
def test_value_and_derivative_agree_with_the_formula(name):
    x = torch.from_numpy(AWAY_FROM_KINKS)
    value, derivative = value_and_gradient(ACTIVATIONS[name].make(), x, torch.ones_like(x))
    expected_value, expected_derivative = ACTIVATIONS[name].formula(AWAY_FROM_KINKS)
    np.testing.assert_allclose(value.numpy(), expected_value, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(derivative.numpy(), expected_derivative, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_of_the_formula_agrees_with_a_central_difference(name):
    h = 1e-5
    above, below = (ACTIVATIONS[name].formula(AWAY_FROM_KINKS + step)[0] for step in (h, -h))
    np.testing.assert_allclose(
        ACTIVATIONS[name].formula(AWAY_FROM_KINKS)[1], (above - below) / (2 * h), rtol=1e-8, atol=1e-9
    )


@every_custom
def test_custom_value_and_gradient_agree_with_torch(name):
    x = torch.tensor(HARD)
    upstream = torch.linspace(-3, 3, len(HARD))
    expected_value, expected_gradient = value_and_gradient(CUSTOM[name](), x, upstream)
    value, gradient = value_and_gradient(ACTIVATIONS[name].make(), x, upstream)
    torch.testing.assert_close(value, expected_value, rtol=3e-7, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("name", ["custom_relu", "custom_elu"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_custom_gradient_at_zero_agrees_with_torch(name, zero):
    x = torch.tensor([zero])
    expected = value_and_gradient(CUSTOM[name](), x, torch.ones(1))[1]
    assert expected.tolist() == value_and_gradient(ACTIVATIONS[name].make(), x, torch.ones(1))[1].tolist()


@every_activation
def test_values_and_gradients_of_large_inputs_are_finite(name):
    x = torch.tensor([-3e4, -200.0, -104.0, -89.0, 89.0, 104.0, 200.0, 3e4])
    value, gradient = value_and_gradient(ACTIVATIONS[name].make(), x, torch.ones_like(x))
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()


@every_activation
def test_activation_has_no_parameters(name):
    assert dict(ACTIVATIONS[name].make().state_dict()) == {}
