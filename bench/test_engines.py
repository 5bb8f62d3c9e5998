"""Time the engines, interleaved, by batch size, width and device; and time their first step."""

import pytest

from mlpbench.engines.registry import ENGINES, PEERS

# Pairs of batch size and width, the usual one first.
USUAL, *OTHERS = SIZES = [(100, 150), (1000, 150), (100, 1024), (1000, 1024)]
QUICK = [name for name, engine in ENGINES.items() if not engine.is_slow]
OURS = [name for name in ENGINES if name not in PEERS]
FAST = [name for name in OURS if name in QUICK and not ENGINES[name].is_slow_to_start]
# Eager is there for comparison.
BUILT = ["eager", *(name for name in QUICK if ENGINES[name].is_built)]
LATER = "takes long; measured with --preset default"


@pytest.mark.parametrize(("batch_size", "width"), SIZES)
def test_train_step(time_interleaved, suite, batch_size, width, device):
    is_quick = suite.preset_name == "quick"
    if is_quick and (batch_size, width) == SIZES[-1]:
        pytest.skip(LATER)
    sizes = (width,) * len(suite.base.hidden_sizes)
    time_interleaved("train_step", FAST if is_quick else OURS, batch_size=batch_size, hidden_sizes=sizes, device=device)


@pytest.mark.parametrize(("batch_size", "width"), SIZES)
def test_epoch(time_interleaved, suite, batch_size, width, device):
    is_other = (batch_size, width) in OTHERS
    if is_other and suite.preset_name == "quick":
        pytest.skip(LATER)
    sizes = (width,) * len(suite.base.hidden_sizes)
    engines = {"quick": QUICK, "default": FAST if is_other else list(ENGINES), "rigorous": list(ENGINES)}
    time_interleaved("epoch", engines[suite.preset_name], batch_size=batch_size, hidden_sizes=sizes, device=device)


@pytest.mark.parametrize("engine", BUILT)
def test_first_step(time_first_step, suite, engine, device):
    if suite.preset_name == "quick":
        pytest.skip(LATER)
    time_first_step(engine=engine, device=device)
