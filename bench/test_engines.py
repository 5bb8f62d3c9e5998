"""How fast each engine trains: in turns, by batch and width, on each device; and what its first step costs."""

import pytest

from mlpbench.engines.registry import ENGINES, PEERS

USUAL, *OTHERS = SIZES = [(100, 150), (1000, 150), (100, 1024), (1000, 1024)]  # batch, width
OURS = [name for name in ENGINES if name not in PEERS]
FAST = ["eager", "manual", "fused", "cudagraph", "fused_cuda"]  # neither long to compile, nor slow
LIVELY = [name for name in ENGINES if not name.startswith("portable")]  # an epoch takes no seconds
BUILT = ["eager", "compiled", "fused", "cudagraph", "fused_cuda"]
LATER = "takes long: --preset default has it"


@pytest.mark.parametrize(("batch_size", "width"), SIZES)
def test_train_step(raced, suite, batch_size, width, device):
    is_quick = suite.preset_name == "quick"
    if is_quick and (batch_size, width) == SIZES[-1]:
        pytest.skip(LATER)
    sizes = (width,) * len(suite.base.hidden_sizes)
    raced("train_step", FAST if is_quick else OURS, batch_size=batch_size, hidden_sizes=sizes, device=device)


@pytest.mark.parametrize(("batch_size", "width"), SIZES)
def test_epoch(raced, suite, batch_size, width, device):
    is_other = (batch_size, width) in OTHERS
    if is_other and suite.preset_name == "quick":
        pytest.skip(LATER)
    sizes = (width,) * len(suite.base.hidden_sizes)
    engines = {"quick": LIVELY, "default": FAST if is_other else list(ENGINES), "rigorous": list(ENGINES)}
    raced("epoch", engines[suite.preset_name], batch_size=batch_size, hidden_sizes=sizes, device=device)


@pytest.mark.parametrize("engine", BUILT)
def test_first_step(started, suite, engine, device):
    if suite.preset_name == "quick":
        pytest.skip(LATER)
    started(engine=engine, device=device)
