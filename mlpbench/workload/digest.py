"""Compute the digest of tensors."""

import hashlib
from collections.abc import Mapping

import torch


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return `sha256-1:<hex>` of the name, dtype, shape and little-endian bytes of each tensor, sorted by name.

    -0.0 counts as 0.0, because libraries disagree on the sign of a sum of zeros, and the sign has no effect.
    """
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        # The addition turns -0.0 into 0.0.
        array = (tensor + 0).numpy()
        sha256.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return f"sha256-1:{sha256.hexdigest()}"
