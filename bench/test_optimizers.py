"""What an optimizer costs in one training step: SGD, with momentum, Nesterov's, and the Adam family."""

import pytest

from mlpbench.workload.optimizers import OPTIMIZERS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_train_step(timed, suite, optimizer, device):
    timed("train_step", optimizer=optimizer, lr=OPTIMIZERS[optimizer].lr(suite.base.lr), device=device)
