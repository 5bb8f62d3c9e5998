"""What compiled engines refuse before they compute: memory of another layout, samples that are not there, no numbers.

Every message begins with the engine's name.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mlpbench.errors import InputError

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
