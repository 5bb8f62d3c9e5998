"""Time one training step with each optimizer: SGD, momentum, Nesterov's momentum, and the Adam family."""

import pytest

from mlpbench.workload.optimizers import OPTIMIZERS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_train_step(time_operation, suite, optimizer, device):
    time_operation("train_step", optimizer=optimizer, lr=OPTIMIZERS[optimizer].lr(suite.base.lr), device=device)
