"""Check that a single flipped bit is found and its stage is named, and that different runs are not compared."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlpbench.certifying import certificate, divergence
from mlpbench.certifying.certify import certify
from mlpbench.certifying.divergence import drift, first_divergence
from mlpbench.engines.portable import arithmetic as portable
from mlpbench.engines.portable import known_answers
from mlpbench.errors import InputError
from mlpbench.workload import datasets
from tests.certifying.flips import NAMES, NUM_STEPS, Flip, injected, resealed

pytestmark = pytest.mark.usefixtures("restore_threads")


# --- one flipped bit --------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Flip,
        where=st.sampled_from(["images", "labels", "initial", "gradient", "gradient", "update"]),
        step=st.integers(0, NUM_STEPS - 1),
        name=st.sampled_from(NAMES),
        position=st.integers(0, 10**9),
        # A bit of the mantissa, because a flipped exponent may give infinity, which is refused.
        bit=st.integers(0, 22),
    )
)
def test_one_flipped_bit_is_found_and_its_stage_named(config, original, flipped):
    try:
        with pytest.MonkeyPatch.context() as patch:
            stage, other = injected(patch, config, flipped)
    finally:
        datasets._load.cache_clear()
        datasets.resident.cache_clear()
    first = first_divergence(original, other)
    assert first is not None
    assert first.stage == stage
    assert first_divergence(other, original).stage == stage


def test_zoom_gives_the_size_of_a_difference_in_any_step(config):
    # It has 9 values, so that a zoomed step has all of them.
    name = "linear0.bias"
    with pytest.MonkeyPatch.context() as patch:
        stage, other = injected(patch, config, Flip("gradient", 3, name, 4, 22))
    plain = first_divergence(certify(config, NUM_STEPS), other)
    assert (plain.stage, plain.num_samples) == (stage, 0) == (f"step 3 gradient {name}", 0)
    with pytest.MonkeyPatch.context() as patch:
        unchanged = portable.Network.backward
        calls = []

        def backward(network):
            unchanged(network)
            calls.append(None)
            if len(calls) == 4:
                network.gradients[1][4] += 0.25

        patch.setattr(known_answers, "check", lambda device: None)
        patch.setattr(portable.Network, "backward", backward)
        other = certify(config, NUM_STEPS, zoom=3)
    zoomed = first_divergence(certify(config, NUM_STEPS, zoom=3), other)
    assert (zoomed.num_samples, zoomed.num_different) == (9, 1)
    assert zoomed.max_abs == pytest.approx(0.25)
    assert zoomed.relative_norm > 0
    assert zoomed.ulps > 1000


# --- sizes ------------------------------------------------------------------------------------------------------------


def with_samples(original, path, index, values):
    """Return a certificate with other sampled values and another digest of the first step's stage `index`."""
    detail = original.details[0]
    samples = list(detail.samples)
    samples[index] = certificate.pack(np.asarray(values, dtype=np.float64))
    digests = list(detail.digests)
    digests[index] = "0" * 32
    changed = replace(detail, digests=tuple(digests), samples=tuple(samples))
    return resealed(original, path, details=(changed, *original.details[1:]))


def test_sizes_of_a_difference_are_those_of_the_values(original, tmp_path):
    index = [s.name for s in original.stages].index("update linear0.weight")
    values = np.array([1.0, -2.0, 0.0, 3.0, 1.0, 1.0, 1.0, 1.0])
    other = values.copy()
    # The two values are neighbouring float32 numbers.
    other[0] = np.nextafter(np.float32(1), np.float32(2))
    one, two = (with_samples(original, tmp_path / f"{i}.json", index, v) for i, v in enumerate((values, other)))
    one = replace(one, details=(replace(one.details[0], digests=original.details[0].digests), *one.details[1:]))
    first = first_divergence(one, two)
    assert first.stage == "step 0 update linear0.weight"
    assert (first.num_samples, first.num_different, first.ulps) == (8, 1, 1)
    assert first.max_abs == 2.0**-23
    assert first.relative_norm == pytest.approx(2.0**-23 / np.linalg.norm(values))


@pytest.mark.parametrize(
    ("a", "b", "dtype", "ulps"),
    [
        (0.0, 5e-324, "float64", 1),
        (-5e-324, 5e-324, "float64", 2),
        (1.0, 1.0 + 2**-23, "float32", 1),
        (1.0, 1.0 + 2**-23, "float64", 2**29),
        (-1.0, 1.0, "float32", 2 * 0x3F800000),
    ],
)
def test_ulps_are_steps_between_neighbours_of_the_type(a, b, dtype, ulps):
    (x,), (y,) = (divergence._ordered(np.array([v]), dtype) for v in (a, b))
    assert y - x == ulps


# --- runs that can be compared ----------------------------------------------------------------------------------------


def test_runs_of_different_lengths_are_compared_over_common_steps(config, original):
    assert first_divergence(original, certify(config, 3)) is None
    assert first_divergence(certify(config, 3), original) is None


@pytest.mark.parametrize("changes", [{"seed": 1}, {"lr": 0.5}, {"hidden_sizes": (9, 7)}, {"batch_size": 50}])
def test_another_run_cannot_be_compared(config, original, changes):
    with pytest.raises(InputError, match=rf"are from different runs \({next(iter(changes))} .* vs .*\)$"):
        first_divergence(original, certify(replace(config, **changes), 2))


@pytest.mark.parametrize("changes", [{"num_threads": 2}, {"loader": "dataloader"}, {"num_epochs": 3}])
def test_way_of_computing_may_differ(config, original, changes):
    assert first_divergence(original, certify(replace(config, **changes), 2)) is None


def test_another_arithmetic_of_another_engine_cannot_be_compared(config, original):
    with pytest.raises(InputError, match=r"^cannot compare: .* use different engines \(portable, eager\)$"):
        first_divergence(original, certify(replace(config, engine="eager"), 2))


def test_another_version_of_the_arithmetic_cannot_be_compared(original, tmp_path):
    other = resealed(original, tmp_path / "c.json", arithmetic="portable/2")
    with pytest.raises(InputError, match=r"differ in arithmetic \(portable/1 vs portable/2\)"):
        first_divergence(original, other)


def test_stage_of_another_size_or_dtype_cannot_be_compared(original, tmp_path):
    (logits,) = original.after
    for changed in (replace(logits, dtype="float32"), replace(logits, num_values=4301)):
        other = resealed(original, tmp_path / "c.json", after=(changed,))
        with pytest.raises(InputError, match="only one certificate has the stage 'test logits'"):
            first_divergence(original, other)


def test_certificate_without_the_first_order_cannot_be_compared(original, tmp_path):
    other = resealed(original, tmp_path / "c.json", before=original.before[:-1])
    with pytest.raises(InputError, match="only one certificate has the stage 'order of epoch 0'"):
        first_divergence(original, other)


@pytest.mark.parametrize("place", ["before", "after"])
def test_certificate_without_a_stage_cannot_be_compared(original, tmp_path, place):
    other = resealed(
        original, tmp_path / "c.json", **{place: getattr(original, place)[:-1] if place == "after" else ()}
    )
    with pytest.raises(InputError, match="only one certificate has the stage"):
        first_divergence(original, other)


def test_engine_may_differ_if_the_arithmetic_is_the_same(config, original, tmp_path):
    other = resealed(original, tmp_path / "c.json", config=replace(original.config, engine="portable_fused"))
    assert first_divergence(original, other) is None


# --- drift ------------------------------------------------------------------------------------------------------------


def test_runs_without_updates_have_no_drift(original, tmp_path):
    stages = tuple(replace(stage, name=f"other {stage.name}") for stage in original.stages)
    other = resealed(original, tmp_path / "c.json", stages=stages)
    assert drift(other, other) == []


def test_drift_begins_at_the_first_difference(config):
    one = certify(config, NUM_STEPS)
    with pytest.MonkeyPatch.context() as patch:
        _, other = injected(patch, config, Flip("update", 2, "linear0.bias", 4, 22))
    distances = {d.step: d.relative_norm for d in drift(one, other)}
    assert distances[0] == distances[1] == 0
    assert distances[2] > 0
    assert distances[5] > 0
