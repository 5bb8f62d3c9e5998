import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpbench.workload.digest import digest

DTYPES = (np.float32, np.float64, np.int64, np.uint8)


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    return np.asarray(draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype, **finite))))


def test_digest_never_changes():
    tensors = {
        "b": torch.tensor([[1.5, -2.0, 0.0]], dtype=torch.float32),
        "a": torch.tensor([3, -1], dtype=torch.int64),
    }
    content = b"a torch.int64 (2,);" + struct.pack("<2q", 3, -1)
    content += b"b torch.float32 (1, 3);" + struct.pack("<3f", 1.5, -2.0, 0.0)
    assert f"sha256-1:{hashlib.sha256(content).hexdigest()}" == digest(tensors)
    assert digest(tensors) == "sha256-1:fa2b9e74da7d80b5a94dabebd50a6468bb5b20152428e9f3432ebe0cfec75912"


@given(arrays(), st.data())
def test_digest_changes_when_one_bit_changes(array, data):
    bits = np.frombuffer(array.tobytes(), dtype=np.uint8).copy()
    position = data.draw(st.integers(0, 8 * len(bits) - 1), label="bit")
    bits[position // 8] ^= 1 << (position % 8)
    changed = np.frombuffer(bits.tobytes(), dtype=array.dtype).reshape(array.shape)
    # The sign of a zero is the only exception.
    assume(array.dtype.kind != "f" or not np.array_equal(array, changed))
    assert digest({"w": torch.from_numpy(array)}) != digest({"w": torch.from_numpy(changed.copy())})


@given(arrays(), st.text("abw.", min_size=1))
def test_digest_changes_when_the_name_changes(array, name):
    assume(name != "weight")
    tensor = torch.from_numpy(array)
    assert digest({"weight": tensor}) != digest({name: tensor})


@pytest.mark.parametrize("shape", [(4, 3), (2, 6), (12,), (12, 1), (1, 12), (3, 2, 2)])
def test_digest_changes_when_the_shape_changes(shape):
    tensor = torch.arange(12.0)
    assert digest({"w": tensor.reshape(3, 4)}) != digest({"w": tensor.reshape(shape)})


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.int64])
def test_digest_changes_when_only_the_dtype_changes(dtype):
    zeros = torch.zeros(8, dtype=torch.float32)
    same_bytes = torch.zeros(32 // dtype.itemsize, dtype=dtype)
    assert zeros.numpy().tobytes() == same_bytes.numpy().tobytes()
    assert digest({"w": zeros}) != digest({"w": same_bytes})


def test_digest_changes_when_two_tensors_are_swapped():
    one, other = torch.tensor([1.0]), torch.tensor([2.0])
    assert digest({"a": one, "b": other}) != digest({"a": other, "b": one})


def test_digest_changes_when_a_tensor_is_removed():
    tensors = {"a": torch.ones(2), "b": torch.zeros(0)}
    assert digest(tensors) != digest({"a": tensors["a"]})


@given(st.permutations(["a", "b", "c", "d"]))
def test_order_of_the_mapping_does_not_matter(names):
    tensors = {name: torch.tensor([float(ord(name))]) for name in "abcd"}
    assert digest(tensors) == digest({name: tensors[name] for name in names})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minus_zero_counts_as_zero(dtype):
    plus, minus = (torch.tensor([1.0, zero], dtype=dtype) for zero in (0.0, -0.0))
    assert plus.numpy().tobytes() != minus.numpy().tobytes()
    assert digest({"w": plus}) == digest({"w": minus})


def test_layout_and_gradient_do_not_matter():
    tensor = torch.arange(6.0).reshape(2, 3)
    transposed_twice = tensor.t().contiguous().t().requires_grad_()
    assert not transposed_twice.is_contiguous()
    assert digest({"w": tensor}) == digest({"w": transposed_twice})


def test_digest_does_not_change_its_tensors():
    tensor = torch.tensor([-0.0, 1.0])
    before = tensor.numpy().tobytes()
    digest({"w": tensor})
    assert before == tensor.numpy().tobytes()
