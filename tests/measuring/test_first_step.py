"""Test that the first step of an engine is timed in a fresh process with empty caches."""

import pytest

from mlpbench.config import RunConfig
from mlpbench.errors import InputError
from mlpbench.measuring import first_step
from tests.conformance import needs_compiler


@needs_compiler
@pytest.mark.real
@pytest.mark.slow
def test_library_is_built_within_the_first_step_each_time(capfd):
    for engine in ("eager", "portable_fused", "portable_fused"):
        measurement, block = first_step.measure(RunConfig(engine=engine, num_threads=1), "s")
        assert (measurement.operation, measurement.suite, measurement.config.engine) == (
            "first_step",
            "engines",
            engine,
        )
        assert (block.measurement, block.iterations, measurement.samples_per_call) == (measurement.id, 1, 100)
    assert capfd.readouterr().err.count("building engine portable_fused for this machine") == 2


@pytest.mark.real
@pytest.mark.slow
def test_engine_that_cannot_run_says_so():
    with pytest.raises(InputError, match="unknown engine 'steam'"):
        first_step.measure(RunConfig(engine="steam"), "s")
