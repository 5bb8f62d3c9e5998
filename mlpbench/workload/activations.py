"""Define the activations: one entry for each, with its formula and the names that the engines use.

An entry names PyTorch's layers and functions as text, so that reports can use the formulas without loading PyTorch.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """Describe an activation. An engine whose field is set here must support it."""

    function: str
    """The name of the function. A hand-written layer carries the name of the function that it computes."""
    formula: Callable[[Array], tuple[Array, Array]]
    """Map x to (f(x), f'(x)), elementwise in float64: for the report's figure, and as the oracle of the tests."""
    layer: str
    """The layer of PyTorch, as `module:name`."""
    torch: str | None = None
    """The function of PyTorch that engine `compiled` uses, as `module:name`."""
    is_in_triton: bool = False
    """True if `engines/triton/kernels.py` has it."""
    sklearn: str | None = None
    """The name in scikit-learn."""
    custom_layer: str | None = None
    """The hand-written layer of the same function, as `module:name`. It gets an entry `custom_<function>`."""

    def make(self) -> Any:
        """Return a new layer, an nn.Module."""
        return pkgutil.resolve_name(self.layer)()


def _relu(x: Array) -> tuple[Array, Array]:
    return np.maximum(x, 0), (x > 0).astype(float)


def _tanh(x: Array) -> tuple[Array, Array]:
    return np.tanh(x), 1 - np.tanh(x) ** 2


def _elu(x: Array) -> tuple[Array, Array]:
    negative = np.minimum(x, 0)
    return np.where(x > 0, x, np.expm1(negative)), np.where(x > 0, 1, np.exp(negative))


def _leaky_relu(x: Array) -> tuple[Array, Array]:
    """Use slope 0.01 below 0, PyTorch's default."""
    return np.where(x > 0, x, 0.01 * x), np.where(x > 0, 1, 0.01)


def _gelu(x: Array) -> tuple[Array, Array]:
    """Multiply x by the normal distribution function, exact form (Hendrycks and Gimpel, arXiv 1606.08415)."""
    from scipy.special import erf  # takes a second to import, and most commands do not need it

    cumulative = (1 + erf(x / np.sqrt(2))) / 2
    return x * cumulative, cumulative + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def _expit(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)), without overflow."""
    from scipy.special import expit  # see `_gelu`

    value: Array = expit(x)
    return value


def _silu(x: Array) -> tuple[Array, Array]:
    value = _expit(x)
    return x * value, value * (1 + x * (1 - value))


def _sigmoid(x: Array) -> tuple[Array, Array]:
    value = _expit(x)
    return value, value * (1 - value)


_FUNCTIONAL = "torch.nn.functional"
_BY_HAND = "mlpbench.workload.activation_layers"
_ENTRIES = (
    Activation(
        function="relu",
        formula=_relu,
        layer="torch.nn:ReLU",
        torch=f"{_FUNCTIONAL}:relu",
        is_in_triton=True,
        sklearn="relu",
        custom_layer=f"{_BY_HAND}:CustomRelu",
    ),
    Activation(
        function="tanh",
        formula=_tanh,
        layer="torch.nn:Tanh",
        torch="torch:tanh",
        is_in_triton=True,
        sklearn="tanh",
        custom_layer=f"{_BY_HAND}:CustomTanh",
    ),
    Activation(
        function="elu",
        formula=_elu,
        layer="torch.nn:ELU",
        torch=f"{_FUNCTIONAL}:elu",
        is_in_triton=True,
        custom_layer=f"{_BY_HAND}:CustomElu",
    ),
    Activation(
        function="leaky_relu",
        formula=_leaky_relu,
        layer="torch.nn:LeakyReLU",
        torch=f"{_FUNCTIONAL}:leaky_relu",
        is_in_triton=True,
    ),
    Activation(function="gelu", formula=_gelu, layer="torch.nn:GELU", torch=f"{_FUNCTIONAL}:gelu", is_in_triton=True),
    Activation(function="silu", formula=_silu, layer="torch.nn:SiLU", torch=f"{_FUNCTIONAL}:silu", is_in_triton=True),
    Activation(
        function="sigmoid",
        formula=_sigmoid,
        layer="torch.nn:Sigmoid",
        torch="torch:sigmoid",
        is_in_triton=True,
        sklearn="logistic",
    ),
)

ACTIVATIONS: dict[str, Activation] = {entry.function: entry for entry in _ENTRIES} | {
    f"custom_{entry.function}": replace(entry, layer=entry.custom_layer, custom_layer=None)
    for entry in _ENTRIES
    if entry.custom_layer
}


def by_name(values: Mapping[str, T]) -> dict[str, T]:
    """Extend values by function to every name of these functions, so that no engine lists the custom names.

    >>> list(by_name({"relu": 1, "gelu": 2}))
    ['relu', 'gelu', 'custom_relu']
    """
    return {name: values[entry.function] for name, entry in ACTIVATIONS.items() if entry.function in values}
