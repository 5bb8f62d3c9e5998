"""Measure the peak memory of a training step, each in a fresh process."""

import pytest


@pytest.mark.parametrize("batch_size", [100, 10_000])
def test_train_step(measure_memory, batch_size, device):
    measure_memory("train_step", batch_size=batch_size, device=device)
