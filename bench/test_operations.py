"""What each part of a training step costs, on each device."""

import pytest

OPERATIONS = ["forward", "backward", "forward_backward", "optimizer_step", "train_step", "evaluate"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(timed, operation, device):
    timed(operation, device=device)
