"""Levels: what an equal pair of certificates speaks for, and what a diverged one speaks against."""

import pytest

from mlpbench.certifying.divergence import first_divergence
from mlpbench.certifying.levels import LEVELS, axes, environment_differences, ladder, pairs, runs, verified_level
from tests.strategies import certificate

EVERYTHING = {
    1: {},
    2: {"num_threads": 1},
    3: {"cpu_capability": "DEFAULT"},
    4: {"torch": "2.15.0"},
    5: {"architecture": "aarch64", "cpu_model": "Example ARM"},
    6: {"device": "cuda"},
}


def rungs_of(*certificates):
    return ladder(pairs(certificates))


# --- what differs


def test_differences_are_named_by_field_and_variable():
    one, other = certificate(), certificate(num_threads=1, torch="2.15.0", variables=(("MKL_CBWR", "AVX2"),))
    assert environment_differences(one, other) == {
        "torch": ("2.11.0", "2.15.0"),
        "num_threads": ("2", "1"),
        "MKL_CBWR": ("-", "AVX2"),
    }


def test_threads_left_to_pytorch_are_those_it_chose():
    assert environment_differences(certificate(num_threads=None), certificate(num_threads=2)) == {}


@pytest.mark.parametrize(("level", "changes"), EVERYTHING.items())
def test_each_kind_of_difference_has_its_level(level, changes):
    expected = {1: (1,), 5: (3, 5)}.get(level, (1, level))
    assert axes(certificate(), certificate(**changes)) == expected


OTHER_KERNELS = {"variables": (("MKL_CBWR", "COMPATIBLE"),)}


@pytest.mark.parametrize("changes", [OTHER_KERNELS, {"engine": "portable_fused"}])
def test_other_kernels_on_one_processor_are_no_other_vector_level(changes):
    assert axes(certificate(), certificate(**changes)) == (1,)


def test_a_difference_under_other_kernels_speaks_against_the_vector_level_and_not_the_machine():
    rungs = rungs_of(certificate(), certificate(), certificate(**OTHER_KERNELS, parted="step 0 loss"))
    assert [rung.num_diverged for rung in rungs[:4]] == [0, 0, 2, 0]
    assert verified_level(rungs) == 1


def test_threads_and_vectors_say_nothing_of_two_runs_on_gpus():
    on_gpu = {"device": "cuda", "gpu_model": "Example GPU"}
    other = certificate(**on_gpu, num_threads=1, cpu_capability="DEFAULT")
    assert axes(certificate(**on_gpu), other) == (1,)


def test_two_gpus_are_not_one_machine():
    one, other = (certificate(device="cuda", gpu_model=name) for name in ("Example A", "Example B"))
    assert axes(one, other) == ()
    rungs = rungs_of(certificate(), certificate(), one, certificate(device="cuda", gpu_model="B", parted="step 0 loss"))
    assert rungs[0].num_diverged == 0


def test_another_machine_does_not_speak_for_this_one():
    assert axes(certificate(), certificate(cpu_model="Other CPU")) == (3,)
    assert axes(certificate(), certificate(cpu_model="Other CPU", architecture="aarch64", torch="2.9.1")) == (3, 4, 5)


def test_an_emulator_that_names_its_host_is_another_machine():
    assert axes(certificate(), certificate(architecture="aarch64")) == (5,)


def test_the_same_kind_of_machine_with_more_memory_speaks_for_this_one():
    assert axes(certificate(), certificate(memory_bytes=1)) == (1,)


# --- the ladder


def test_a_level_is_verified_by_an_equal_pair_that_differs_in_that_way():
    rungs = rungs_of(*(certificate(**changes) for changes in EVERYTHING.values()))
    assert [rung.level for rung in rungs] == list(LEVELS)
    assert all(rung.num_equal and not rung.num_diverged for rung in rungs[:6])
    assert (rungs[6].num_equal, rungs[6].num_diverged) == (0, 0)
    assert verified_level(rungs) == 6


def test_one_certificate_verifies_nothing():
    assert verified_level(rungs_of(certificate())) == 0


def test_a_level_that_was_not_tried_stops_the_claim():
    assert verified_level(rungs_of(certificate(), certificate(), certificate(torch="2.15.0"))) == 1


def test_a_diverged_pair_speaks_against_its_highest_level_only():
    parted = certificate(num_threads=1, torch="2.15.0", parted="step 1 loss")
    rungs = rungs_of(certificate(), certificate(), certificate(num_threads=1), parted)
    assert [(rung.num_equal > 0, rung.num_diverged) for rung in rungs[:4]] == [
        (True, 0), (True, 0), (False, 0), (False, 3)]  # fmt: skip
    assert rungs[3].first.stage == "step 1 loss"
    assert verified_level(rungs) == 2


def test_a_level_with_equal_and_diverged_pairs_is_not_verified():
    rungs = rungs_of(
        certificate(), certificate(), certificate(num_threads=1), certificate(num_threads=3, parted="step 0 loss")
    )
    assert rungs[1].num_equal > 0
    assert rungs[1].num_diverged > 0
    assert verified_level(rungs) == 1


# --- runs


def test_certificates_are_grouped_by_what_was_run_and_not_by_how():
    made = [
        certificate(created_at="2026-01-03T00:00:00+00:00"),
        certificate(engine="eager"),
        certificate(device="cuda", num_threads=1, created_at="2026-01-02T00:00:00+00:00"),
        certificate(seed=1),
    ]
    assert [[c.config.seed for c in run] for run in runs(made)] == [[0], [1], [0, 0]]
    assert runs(made)[2] == [made[2], made[0]]
    assert runs([]) == []


@pytest.mark.parametrize(
    "stage", ["initial linear0.weight", "step 0 loss", "step 0 update linear0.weight", "step 1 loss", "test logits"]
)
def test_hand_made_certificates_part_where_they_say(stage):
    assert first_divergence(certificate(), certificate(parted=stage)).stage == stage
