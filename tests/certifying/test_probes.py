"""Check that probes compute with fixed numbers that use all bits of their dtype."""

import pytest
import torch

from mlpbench.certifying import probes
from mlpbench.certifying.probes import PROBES

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_has_a_kind_and_a_reason(name):
    assert PROBES[name].kind in probes.KINDS
    assert PROBES[name].reason


def test_numbers_use_all_bits_and_no_generator_of_torch():
    for dtype, bits in ((torch.float32, 24), (torch.float64, 53)):
        torch.manual_seed(0)
        one = probes.Draw(dtype, CPU, 1000)()
        torch.manual_seed(1)
        assert torch.equal(one, probes.Draw(dtype, CPU, 1000)())
        mantissas = one.to(torch.float64).frexp().mantissa * 2.0**bits
        # They have no more bits than the dtype, and many of them use its last bit.
        assert torch.equal(mantissas, mantissas.round())
        assert (mantissas.to(torch.int64) % 2 == 1).sum() > 300
        assert 0 < one.abs().min() < one.abs().max() < 8


def test_probe_cannot_change_the_numbers_of_another():
    probes.Draw(torch.float64, CPU, 10)().zero_()
    assert probes.Draw(torch.float64, CPU, 10)().count_nonzero() == 10
