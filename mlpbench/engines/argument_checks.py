"""What compiled engines refuse before they compute: memory of another layout, samples that are not there, no numbers.

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
_finite: Any = WeakTensorKeyDictionary()  # images that were looked through, and their version then


def require(
    engine: str,
    tensor: Tensor,
    what: str,
    dtype: torch.dtype,
    shape: tuple[int | None, ...],
    *,
    device: torch.device = CPU,
) -> None:
    """Refuse memory that is not laid out as the engine reads it. `None` in a shape is any size above 0.

    Raises:
        InputError: for another type, shape, device or layout.
    """
    fits = len(tensor.shape) == len(shape) and all(
        have > 0 and want in (have, None) for have, want in zip(tensor.shape, shape, strict=True)
    )
    right = fits and (tensor.dtype, tensor.device, tensor.layout) == (dtype, device, torch.strided)
    if right and tensor.is_contiguous():
        return
    wanted = ", ".join("B" if size is None else str(size) for size in shape)
    found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}{', not contiguous' if right else ''}"
    raise InputError(f"engine {engine}: {what} must be a contiguous {dtype} ({wanted}) on {device}, not {found}")


def check_supported(engine: str, kind: str, supported: Iterable[str], name: str) -> None:
    """Check that an engine has an activation or optimizer.

    Raises:
        InputError: if it does not; the message lists those that it has.
    """
    if name not in supported:
        raise InputError(f"engine {engine} does not support {kind} {name!r}; supported: {', '.join(supported)}")


def supported(engine: str, kind: str, registry: Mapping[str, T], name: str) -> T:
    """Return what an engine has for an activation or optimizer.

    Raises:
        InputError: as `check_supported`.
    """
    check_supported(engine, kind, registry, name)
    return registry[name]


def no_sample(engine: str, sample: int, num_samples: int) -> InputError:
    """That an order names a sample which is not there."""
    return InputError(f"engine {engine}: the order names sample {sample}, and there are {num_samples}")


def no_class(engine: str, label: int, sample: int, num_classes: int) -> InputError:
    """That a label is no class."""
    return InputError(
        f"engine {engine}: label {label} of sample {sample} is none of the {num_classes} classes, which are counted "
        "from 0"
    )


def not_finite(engine: str, value: float, sample: int) -> InputError:
    """That an image has a number which is not finite."""
    return InputError(f"engine {engine}: the image of sample {sample} has a {value}; inputs must be finite")


def are_finite(images: Tensor) -> bool:
    """Whether these images, as they are now, have been looked through."""
    return bool(_finite.get(images) == images._version)


def remember_finite(images: Tensor) -> None:
    """Note that they have been, and are finite."""
    _finite[images] = images._version
