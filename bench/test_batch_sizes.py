"""How the time of one training step grows with the batch."""

import pytest


@pytest.mark.parametrize("batch_size", [1, 10, 100, 1000, 10_000])
def test_train_step(timed, batch_size, device):
    timed("train_step", batch_size=batch_size, device=device)
