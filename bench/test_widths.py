"""Time one training step with hidden layers of several widths."""

import pytest


@pytest.mark.parametrize("width", [16, 64, 150, 512, 1024])
def test_train_step(time_operation, suite, width, device):
    time_operation("train_step", hidden_sizes=(width,) * len(suite.base.hidden_sizes), device=device)
