"""Does the same seed give the same bits again? Equal or the first difference: either is a result."""

import pytest

from mlpbench.certifying.reruns import CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_same_seed(checked, check, device):
    checked(check, device=device)
