"""Define what the tests of other libraries share: which are installed, and configs that each of them supports."""

import importlib.util
from dataclasses import replace

import pytest

from mlpbench.engines.registry import PEERS

TUTORIALS = ("relu", "tanh", "elu")
# scikit-learn has one activation for all layers.
USUAL = {"sklearn": ("relu",)}


def installed(*engines):
    """Return a parameter with these engines. Each is skipped if its package is missing."""
    return pytest.mark.parametrize(
        "engine",
        [
            pytest.param(
                name,
                marks=pytest.mark.skipif(
                    importlib.util.find_spec(name) is None, reason=f"needs {name}: pip install 'mlpbench[peers]'"
                ),
            )
            for name in engines
        ],
    )


every_peer = installed(*PEERS)


def with_engine(config, engine, **changes):
    return replace(config, engine=engine, **{"activations": USUAL.get(engine, TUTORIALS), **changes})
