"""Time one training step with batches of several sizes."""

import pytest


@pytest.mark.parametrize("batch_size", [1, 10, 100, 1000, 10_000])
def test_train_step(time_operation, batch_size, device):
    time_operation("train_step", batch_size=batch_size, device=device)
