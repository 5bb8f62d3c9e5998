"""How the time of one training step grows with the width of the hidden layers."""

import pytest


@pytest.mark.parametrize("width", [16, 64, 150, 512, 1024])
def test_train_step(timed, suite, width, device):
    timed("train_step", hidden_sizes=(width,) * len(suite.base.hidden_sizes), device=device)
