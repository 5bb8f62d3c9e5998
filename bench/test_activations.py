"""Time one training step with each activation, used in every hidden layer."""

import pytest

from mlpbench.workload.activations import ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_train_step(time_operation, activation, device):
    time_operation("train_step", activations=(activation,), device=device)
