"""How fast each engine trains: in turns, by batch and width, on each device; and what its first step costs."""

import pytest

from mlpbench.engines.registry import ENGINES, PEERS

USUAL, *OTHERS = SIZES = [(100, 150), (1000, 150), (100, 1024), (1000, 1024)]  # batch, width
OURS = [name for name in ENGINES if name not in PEERS]
FEW = ["eager", "manual", "fused", "cudagraph", "fused_cuda"]  # neither long to compile, nor slow
BUILT = ["eager", "compiled", "fused", "cudagraph", "fused_cuda"]


@pytest.mark.parametrize(("batch_size", "width"), SIZES)
def test_train_step(raced, suite, batch_size, width, device):
    is_short = suite.preset_name == "quick" and (batch_size, width) in OTHERS
    sizes = (width,) * len(suite.base.hidden_sizes)
    raced("train_step", FEW if is_short else OURS, batch_size=batch_size, hidden_sizes=sizes, device=device)


@pytest.mark.parametrize(("batch_size", "width"), SIZES)
def test_epoch(raced, suite, batch_size, width, device):
    if suite.preset_name == "quick" and (batch_size, width) in OTHERS:
        pytest.skip("takes minutes: --preset default has it")
    sizes = (width,) * len(suite.base.hidden_sizes)
    is_short = suite.preset_name != "rigorous" and (batch_size, width) in OTHERS
    raced("epoch", FEW if is_short else list(ENGINES), batch_size=batch_size, hidden_sizes=sizes, device=device)


@pytest.mark.parametrize("engine", BUILT)
def test_first_step(started, engine, device):
    started(engine=engine, device=device)
