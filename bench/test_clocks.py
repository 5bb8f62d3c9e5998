"""A training step by three clocks: throughput, latency (waits after every step), and the device's own."""

import pytest

from mlpbench.timing import CLOCKS


@pytest.mark.parametrize("clock", CLOCKS)
def test_train_step(timed, clock, device):
    timed("train_step", clock=clock, device=device)
