"""Peak memory: what an operation holds is seen, in a fresh process."""

import sys

import pytest

from mlpbench.config import RunConfig
from mlpbench.measuring import memory
from mlpbench.measuring.fresh_process import in_fresh_process

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's high-water mark")


@linux
@pytest.mark.slow
def test_large_batch_holds_more_than_a_small_one():
    small, large = (
        in_fresh_process(memory.measure, "train_step", RunConfig(batch_size=size), "s") for size in (10, 20_000)
    )
    assert small.source == large.source == "resident set"
    # activations, gradients of 3 x 150 units, and the batch itself: 784 + 3 x 150 floats at the least
    assert large.peak_bytes - large.before_bytes > 20_000 * (784 + 450) * 4 / 2
    assert small.peak_bytes - small.before_bytes < large.peak_bytes - large.before_bytes
    assert small.config == RunConfig(batch_size=10)


@linux
def test_mark_is_set_back_before_the_operation(small):
    bytearray(200 * 2**20)  # touched and freed: the mark is above
    record = memory.measure("forward", RunConfig(dataset=small), "s")
    assert record.peak_bytes - record.before_bytes < 100 * 2**20
