"""What an activation costs in one training step, used in every hidden layer."""

import pytest

from mlpbench.workload.activations import ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_train_step(timed, activation, device):
    timed("train_step", activations=(activation,), device=device)
