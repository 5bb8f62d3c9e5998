"""Train the same seed twice; equal bits or the first difference are both results."""

import pytest

from mlpbench.certifying.reruns import RERUNS


@pytest.mark.parametrize("name", RERUNS)
def test_same_seed(rerun, name, device):
    rerun(name, device=device)
