"""The most memory that a training step holds, each in a fresh process."""

import pytest


@pytest.mark.parametrize("batch_size", [100, 10_000])
def test_train_step(remembered, batch_size, device):
    remembered("train_step", batch_size=batch_size, device=device)
