"""Digests of tensors."""

import hashlib
from collections.abc import Mapping

import torch


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """`sha256-1:<hex>` over name, dtype, shape and little-endian bytes of each tensor, in the order of the names.

    Minus zero counts as zero: libraries differ in which of the two a sum of zeros gives, and nothing follows from it.
    """
    recipe = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        recipe.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        array = (tensor + 0).numpy()
        recipe.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return f"sha256-1:{recipe.hexdigest()}"
