"""The activation functions as formulas, in numpy: for the report's figure, and as the oracle of the tests.

Each entry maps x to (f(x), f'(x)), elementwise in float64.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

Array = NDArray[np.float64]


def _relu(x: Array) -> tuple[Array, Array]:
    return np.maximum(x, 0), (x > 0).astype(float)


def _tanh(x: Array) -> tuple[Array, Array]:
    return np.tanh(x), 1 - np.tanh(x) ** 2


def _elu(x: Array) -> tuple[Array, Array]:
    negative = np.minimum(x, 0)
    return np.where(x > 0, x, np.expm1(negative)), np.where(x > 0, 1, np.exp(negative))


def _leaky_relu(x: Array) -> tuple[Array, Array]:
    """Slope .01 below 0, PyTorch's default."""
    return np.where(x > 0, x, 0.01 * x), np.where(x > 0, 1, 0.01)


def _gelu(x: Array) -> tuple[Array, Array]:
    """X times the normal distribution function, exact form (Hendrycks and Gimpel, arXiv 1606.08415)."""
    cumulative = (1 + erf(x / np.sqrt(2))) / 2
    return x * cumulative, cumulative + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _silu(x: Array) -> tuple[Array, Array]:
    return x * expit(x), expit(x) * (1 + x * (1 - expit(x)))


def _sigmoid(x: Array) -> tuple[Array, Array]:
    return expit(x), expit(x) * (1 - expit(x))


FORMULAS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "relu": _relu,
    "tanh": _tanh,
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "custom_relu": _relu,
    "custom_tanh": _tanh,
    "custom_elu": _elu,
}
