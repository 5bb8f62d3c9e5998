"""Time each part of a training step, on each device."""

import pytest

OPERATIONS = ["forward", "backward", "forward_backward", "optimizer_step", "train_step", "evaluate"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(time_operation, operation, device):
    time_operation(operation, device=device)
