"""Time a whole epoch, from tensors in memory and by the tutorial's DataLoader loop, which many people start from."""

import pytest


@pytest.mark.parametrize("loader", ["memory", "dataloader"])
def test_epoch(time_operation, loader, device):
    time_operation("epoch", loader=loader, device=device)
