import pytest

from mlpbench.config import RunConfig


@pytest.fixture
def config(small):
    return RunConfig(dataset=small, num_threads=1)
