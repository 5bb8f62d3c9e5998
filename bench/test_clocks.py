"""Time a training step by three clocks: throughput, latency (waits after every step), and the device's own."""

import pytest

from mlpbench.config import Clock


@pytest.mark.parametrize("clock", list(Clock))
def test_train_step(time_operation, clock, device):
    time_operation("train_step", clock=clock, device=device)
