"""A whole epoch: from tensors in memory, and by the tutorial's DataLoader loop, the baseline people start from."""

import pytest


@pytest.mark.parametrize("loader", ["memory", "dataloader"])
def test_epoch(timed, loader, device):
    timed("epoch", loader=loader, device=device)
