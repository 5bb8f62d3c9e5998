import pytest

from mlpbench.certifying.certificate import Certificate
from mlpbench.certifying.certify import certify
from mlpbench.config import RunConfig
from tests.certifying.flips import NUM_STEPS


@pytest.fixture
def config(small) -> RunConfig:
    return RunConfig(dataset=small, engine="portable", hidden_sizes=(9, 8), activations=("relu", "elu"), num_threads=1)


@pytest.fixture
def original(config) -> Certificate:
    """Return the certificate of the config's run, to compare others with."""
    return certify(config, NUM_STEPS)
