"""Check that reruns find the first stage whose bits differ, and measure the difference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlpbench.certifying.reruns import NUM_STEPS, RERUNS, first_difference, rerun, trace
from mlpbench.config import RunConfig
from mlpbench.errors import InputError

TINY = RunConfig(hidden_sizes=(3,), activations=("tanh",), batch_size=10, num_threads=1)

# There are 4 parameter tensors. A step has 3 outputs, a loss, its gradient, and a gradient and an update per parameter.
NUM_STAGES = 4 + NUM_STEPS * (3 + 2 + 4 + 4)

pytestmark = pytest.mark.usefixtures("restore_threads")


@pytest.fixture(scope="module")
def tiny_trace():
    num_threads = torch.get_num_threads()
    stages = trace(TINY, 2)
    torch.set_num_threads(num_threads)
    return stages


def flipped(array, bit):
    content = bytearray(array.tobytes())
    content[bit // 8] ^= 1 << (bit % 8)
    return np.frombuffer(bytes(content), dtype=array.dtype).reshape(array.shape)


def test_run_whose_training_diverged_can_repeat_its_bits():
    result = rerun("same process", replace(TINY, lr=1e30), "session")
    assert (result.first_difference, result.final_abs_difference) == (None, 0.0)


# --- traces


def test_trace_has_its_stages_in_the_order_of_computing():
    parameters = ["linear0.weight", "linear0.bias", "linear1.weight", "linear1.bias"]
    expected = [f"initial {name}" for name in parameters]
    for step in range(2):
        expected += [f"step {step} forward {name}" for name in ("linear0", "tanh0", "linear1")]
        expected += [f"step {step} loss", f"step {step} dlogits"]
        expected += [f"step {step} gradient {name}" for name in (*parameters[2:], *parameters[:2])]
        expected += [f"step {step} update {name}" for name in parameters]
    assert expected == list(trace(TINY, 2))


def test_trace_has_the_values_at_the_time_of_each_stage(tiny_trace):
    for name in ("linear0.weight", "linear0.bias", "linear1.weight", "linear1.bias"):
        before = tiny_trace[f"initial {name}"]
        for step in range(2):
            after = tiny_trace[f"step {step} update {name}"]
            gradient = tiny_trace[f"step {step} gradient {name}"]
            assert np.any(gradient != 0)
            np.testing.assert_allclose(after, before - np.float32(TINY.lr) * gradient, rtol=1e-6, atol=1e-8)
            before = after


def test_trace_has_no_minus_zero(tiny_trace):
    assert not any(np.any(np.signbit(array) & (array == 0)) for array in tiny_trace.values())


def test_shorter_trace_is_the_start_of_a_longer_one(tiny_trace):
    shorter = trace(TINY, 1)
    start = dict(list(tiny_trace.items())[: len(shorter)])
    assert first_difference(shorter, start) is None


# --- the first difference


def test_equal_traces_have_no_first_difference(tiny_trace):
    assert first_difference(tiny_trace, {stage: array.copy() for stage, array in tiny_trace.items()}) is None


@given(st.data())
def test_first_stage_in_which_a_bit_differs_is_named(tiny_trace, data):
    stages = list(tiny_trace)
    changed = data.draw(st.sets(st.sampled_from(stages), min_size=1, max_size=3), label="changed stages")
    other = dict(tiny_trace)
    for stage in sorted(changed):
        array = tiny_trace[stage]
        other[stage] = flipped(array, data.draw(st.integers(0, 8 * array.nbytes - 1), label="bit"))
    expected = min(changed, key=stages.index)
    assert expected == first_difference(tiny_trace, other)
    assert expected == first_difference(other, tiny_trace)


def test_traces_of_other_stages_cannot_be_compared(tiny_trace):
    shorter = dict(list(tiny_trace.items())[:-1])
    reordered = dict(reversed(tiny_trace.items()))
    for other in (shorter, reordered, {}):
        with pytest.raises(ValueError, match="different stages"):
            first_difference(tiny_trace, other)


# --- reruns


@pytest.mark.parametrize("name", ["same process", "fresh process"])
def test_one_thread_on_the_cpu_computes_the_same_bits_again(name):
    result = rerun(name, TINY, "session")
    assert ("session", name, TINY, TINY) == (result.session, result.name, result.config, result.other)
    assert (result.num_steps, result.num_stages) == (NUM_STEPS, NUM_STAGES)
    assert (result.first_difference, result.max_abs_difference, result.final_abs_difference) == (None, None, 0)


@pytest.mark.parametrize(("num_threads", "other"), [(1, 2), (2, 1)])
def test_other_thread_count_is_one_for_several_and_two_for_one(num_threads, other, monkeypatch):
    monkeypatch.setattr("mlpbench.certifying.reruns.in_fresh_process", lambda function, *args: function(*args))
    config = replace(TINY, num_threads=num_threads)
    result = rerun("other thread count", config, "session")
    assert (config, replace(TINY, num_threads=other)) == (result.config, result.other)


@pytest.mark.slow
def test_another_thread_count_gives_equal_bits_or_names_a_stage():
    config = RunConfig(num_threads=1)
    result = rerun("other thread count", config, "session")
    equal = result.first_difference is None
    assert equal or result.first_difference in trace(config, NUM_STEPS)
    assert equal == (result.max_abs_difference is None)
    assert result.final_abs_difference < 1e-3


def rerun_with(altered, monkeypatch):
    """Compare a run with a trace that was changed by hand."""
    monkeypatch.setitem(RERUNS, "altered", lambda config: (replace(config, seed=1), altered))
    return rerun("altered", TINY, "session")


def test_difference_is_recorded_with_its_stage_and_its_sizes(monkeypatch):
    altered = trace(TINY, NUM_STEPS)
    altered["step 3 gradient linear1.weight"][0, 0] += 0.5
    altered["step 3 gradient linear1.weight"][0, 1] -= 0.25
    altered[f"step {NUM_STEPS - 1} gradient linear0.bias"] += 99
    altered[f"step {NUM_STEPS - 1} update linear0.bias"][2] += 2
    result = rerun_with(altered, monkeypatch)
    assert (TINY, replace(TINY, seed=1)) == (result.config, result.other)
    assert result.first_difference == "step 3 gradient linear1.weight"
    assert result.max_abs_difference == pytest.approx(0.5, rel=1e-6)
    assert result.final_abs_difference == pytest.approx(2, rel=1e-6)


def test_difference_that_disappears_has_a_stage_and_no_final_size(monkeypatch):
    altered = trace(TINY, NUM_STEPS)
    altered["step 0 loss"] += 0.5
    result = rerun_with(altered, monkeypatch)
    assert (result.first_difference, result.final_abs_difference) == ("step 0 loss", 0)


def test_different_seeds_differ_from_the_first_initial_parameter():
    assert first_difference(trace(TINY, 1), trace(replace(TINY, seed=1), 1)) == "initial linear0.weight"


def test_unknown_rerun_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(InputError, match=f"unknown rerun 'twin'; known: {', '.join(RERUNS)}"):
        rerun("twin", TINY, "session")
