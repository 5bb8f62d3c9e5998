"""Check arguments before a compiled engine computes: names, memory layout, sample indices, labels, finite inputs.

Every message begins with the engine's name.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mlpbench.errors import InputError

T = TypeVar("T")
CPU = torch.device("cpu")
_finite: Any = WeakTensorKeyDictionary()
"""Images that were finite when they were checked, each with its version at that time."""


def require(
    engine: str,
    tensor: Tensor,
    name: str,
    dtype: torch.dtype,
    shape: tuple[int | None, ...],
    *,
    device: torch.device = CPU,
) -> None:
    """Check that a tensor's memory is laid out as the engine reads it. `None` in a shape is any size above 0.

    Raises:
        InputError: for another type, shape, device or layout.
    """
    fits = len(tensor.shape) == len(shape) and all(
        size > 0 and expected in (size, None) for size, expected in zip(tensor.shape, shape, strict=True)
    )
    is_right = fits and (tensor.dtype, tensor.device, tensor.layout) == (dtype, device, torch.strided)
    if is_right and tensor.is_contiguous():
        return
    expected_shape = ", ".join("B" if size is None else str(size) for size in shape)
    actual = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}{', not contiguous' if is_right else ''}"
    raise InputError(
        f"engine {engine}: {name} must be a contiguous {dtype} ({expected_shape}) on {device}, not {actual}"
    )


def check_supported(engine: str, kind: str, names: Iterable[str], name: str) -> None:
    """Check that an engine has an activation, an optimizer or a model.

    Raises:
        InputError: if it does not; the message lists those that it has.
    """
    if name not in names:
        raise InputError(f"engine {engine} does not support {kind} {name!r}; supported: {', '.join(names)}")


def supported(engine: str, kind: str, registry: Mapping[str, T], name: str) -> T:
    """Return an engine's entry for an activation or optimizer.

    Raises:
        InputError: as `check_supported`.
    """
    check_supported(engine, kind, registry, name)
    return registry[name]


def no_sample(engine: str, sample: int, num_samples: int) -> InputError:
    """Return the error for an order with an index that no sample has."""
    return InputError(
        f"engine {engine}: the order contains sample {sample}; samples are counted from 0 to {num_samples - 1}"
    )


def no_class(engine: str, label: int, sample: int, num_classes: int) -> InputError:
    """Return the error for a label that is not a class."""
    return InputError(
        f"engine {engine}: label {label} of sample {sample} is not a class; "
        f"classes are counted from 0 to {num_classes - 1}"
    )


def not_finite(engine: str, value: float, sample: int) -> InputError:
    """Return the error for an image with a value that is not finite."""
    return InputError(f"engine {engine}: the image of sample {sample} contains {value}; inputs must be finite")


def are_finite(images: Tensor) -> bool:
    """True if `remember_finite` had these images, and they have not been modified since."""
    return bool(_finite.get(images) == images._version)


def remember_finite(images: Tensor) -> None:
    """Remember that these images, in their present version, were checked and are finite."""
    _finite[images] = images._version
