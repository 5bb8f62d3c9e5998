"""Check which levels an equal pair of certificates confirms, and which level a diverged pair refutes."""

import pytest

from mlpbench.certifying.divergence import first_divergence
from mlpbench.certifying.levels import (
    compare_surroundings,
    confirmed_levels,
    judge_levels,
    pairs,
    runs,
    verified_level,
)
from mlpbench.certifying.scope import LEVELS, scope
from tests.strategies import FAMILY_25, FAMILY_26, as_before_schema_3, certificate

EVERYTHING = {
    1: {},
    2: {"num_threads": 1},
    3: {"cpu_capability": "DEFAULT"},
    4: {"torch": "2.15.0"},
    5: {"architecture": "aarch64", "cpu_model": "Example ARM"},
    6: {"device": "cuda"},
}


def levels_of(*certificates):
    """Judge the levels by every two of these certificates."""
    return judge_levels(pairs(certificates))


# --- differences


def test_differences_are_named_by_field_and_variable():
    one, other = certificate(), certificate(num_threads=1, torch="2.15.0", variables=(("MKL_CBWR", "AVX2"),))
    assert compare_surroundings(one, other).differing == {
        "torch": ("2.11.0", "2.15.0"),
        "num_threads": ("2", "1"),
        "MKL_CBWR": ("not set", "AVX2"),
    }


def test_memory_differs_only_beyond_what_a_restart_changes():
    differences = {
        size: list(compare_surroundings(certificate(), certificate(memory_bytes=size)).differing)
        for size in (8 * 2**30, 8 * 2**30 - 4096, 8 * 2**30 - 2**25, 2**30)
    }
    assert list(differences.values()) == [[], [], [], ["memory_bytes"]]


def test_default_thread_count_is_the_one_that_pytorch_chose():
    assert compare_surroundings(certificate(num_threads=None), certificate(num_threads=2)).differing == {}


@pytest.mark.parametrize(("level", "changes"), EVERYTHING.items())
def test_each_kind_of_difference_has_its_level(level, changes):
    expected = {1: (1,), 5: (3, 5)}.get(level, (1, level))
    assert confirmed_levels(certificate(), certificate(**changes)) == expected


OTHER_KERNELS = {"variables": (("MKL_CBWR", "COMPATIBLE"),)}


@pytest.mark.parametrize("changes", [OTHER_KERNELS, {"engine": "portable_fused"}])
def test_other_kernels_on_one_processor_do_not_confirm_l3(changes):
    assert confirmed_levels(certificate(), certificate(**changes)) == (1,)


def test_difference_with_other_kernels_refutes_l3_and_not_l1():
    levels = levels_of(certificate(), certificate(), certificate(**OTHER_KERNELS, first_difference="step 0 loss"))
    assert [level.num_diverged for level in levels[:4]] == [0, 0, 2, 0]
    assert verified_level(levels) == 1


def test_threads_and_vector_levels_do_not_count_on_gpus():
    on_gpu = {"device": "cuda", "gpu_model": "Example GPU"}
    other = certificate(**on_gpu, num_threads=1, cpu_capability="DEFAULT")
    assert confirmed_levels(certificate(**on_gpu), other) == (1,)


def test_two_gpus_are_not_one_machine():
    one, other = (certificate(device="cuda", gpu_model=name) for name in ("Example A", "Example B"))
    assert confirmed_levels(one, other) == ()
    levels = levels_of(
        certificate(), certificate(), one, certificate(device="cuda", gpu_model="B", first_difference="step 0 loss")
    )
    assert levels[0].num_diverged == 0


def test_another_machine_does_not_confirm_l1():
    assert confirmed_levels(certificate(), certificate(cpu_model="Other CPU")) == (3,)
    assert confirmed_levels(
        certificate(), certificate(cpu_model="Other CPU", architecture="aarch64", torch="2.9.1")
    ) == (3, 4, 5)


@pytest.mark.parametrize(
    "changes", [{"num_cpus": 4}, {"cpu_quota": 1.0}, {"threads_per_core": 2}, {"caches": ()}, {"hypervisor": "Xen"}]
)
def test_another_machine_with_the_same_processor_confirms_neither_l1_nor_l3(changes):
    assert confirmed_levels(certificate(), certificate(**changes)) == ()


def test_fewer_allowed_cpus_are_the_same_machine():
    assert confirmed_levels(certificate(), certificate(num_allowed_cpus=1)) == (1,)


def test_emulator_that_names_its_host_is_another_machine():
    assert confirmed_levels(certificate(), certificate(architecture="aarch64")) == (5,)


def test_same_kind_of_machine_with_more_memory_confirms_l1():
    assert confirmed_levels(certificate(), certificate(memory_bytes=1)) == (1,)


# --- two generations of one brand


def test_two_generations_of_one_brand_are_l3_and_not_one_machine():
    one, other = (certificate(environment=environment) for environment in (FAMILY_25, FAMILY_26))
    assert confirmed_levels(one, other) == (3,)
    assert scope(3, [(one, other)]) == "2 CPUs (AMD EPYC 25/17, AMD EPYC 26/2)"
    diverged = certificate(environment=FAMILY_26, first_difference="step 0 loss")
    assert [level.num_diverged for level in levels_of(certificate(environment=FAMILY_25), diverged)[:3]] == [0, 0, 1]


def test_one_machine_is_claimed_only_where_it_is_known():
    now, before = certificate(environment=FAMILY_25), certificate(environment=as_before_schema_3(FAMILY_25))
    as_recorded = "one machine as far as recorded (CPU generation unknown)"
    for pair, text in {(now, now): "this machine", (before, before): as_recorded, (before, now): as_recorded}.items():
        assert confirmed_levels(*pair) == (1,)
        assert scope(1, [pair]) == text


def test_one_processor_is_claimed_only_where_it_is_known():
    before = as_before_schema_3(FAMILY_25)
    text = {
        environment.machine: scope(
            3,
            [(certificate(environment=environment), certificate(environment=environment, cpu_capability="DEFAULT"))],
        )
        for environment in (FAMILY_25, before)
    }
    assert text == {
        FAMILY_25.machine: "other vector levels on 1 CPU (AVX2, DEFAULT)",
        before.machine: "other vector levels on 1 CPU as far as recorded (AVX2, DEFAULT)",
    }


def test_divergence_from_an_unknown_generation_does_not_refute_l1():
    other = certificate(environment=FAMILY_26, first_difference="step 0 loss")
    levels = levels_of(certificate(environment=as_before_schema_3(FAMILY_25)), other)
    assert [level.num_diverged for level in levels[:3]] == [0, 0, 1]


# --- what a level was tried over


def test_level_without_an_equal_pair_has_its_aim():
    assert {level.level: level.scope for level in levels_of(certificate())} == LEVELS


@pytest.mark.parametrize(
    ("level", "changes", "text"),
    [
        (1, [{}], "this machine"),
        (2, [{"num_threads": 1}, {"num_threads": 4}], "3 thread counts (1, 2, 4)"),
        (3, [{"cpu_capability": "DEFAULT"}], "other vector levels on 1 CPU (AVX2, DEFAULT)"),
        (3, [{"cpu_model": "Other CPU"}], "2 CPUs (Example CPU 25/17, Other CPU 25/17)"),
        (
            3,
            [{"cpu_family": 26, "cpu_capability": "AVX512"}, {"cpu_capability": "DEFAULT"}],
            "2 CPUs (Example CPU 25/17, Example CPU 26/17), 3 vector levels (AVX2, AVX512, DEFAULT)",
        ),
        (3, [{"cpu_stepping": 2}], "2 CPUs (Example CPU 25/17)"),
        (4, [{"torch": "2.9.1"}, {"torch": "2.15.0+cu130"}], "3 PyTorch versions (2.9.1, 2.11.0, 2.15.0)"),
        (5, [{"architecture": "aarch64"}], "2 architectures (aarch64, x86_64)"),
        (
            5,
            [{"architecture": "aarch64", "cpu_model": "QEMU Neoverse N1"}],
            "2 architectures (aarch64, x86_64; 1 emulated)",
        ),
        (6, [{"device": "cuda", "gpu_model": "Example GPU"}], "CPU and 1 GPU (Example GPU)"),
    ],
)
def test_level_says_over_what_it_was_tried(level, changes, text):
    results = levels_of(certificate(), certificate(), *(certificate(**each) for each in changes))
    assert results[level - 1].scope == text


def test_processor_of_unknown_generation_is_not_counted_beside_one_of_that_brand():
    places = [FAMILY_25, FAMILY_26, as_before_schema_3(FAMILY_25)]
    others = [certificate(architecture="aarch64", cpu_model="Example ARM")]
    results = levels_of(*(certificate(environment=environment) for environment in places), *others)
    assert results[2].scope == "3 CPUs (AMD EPYC 25/17, AMD EPYC 26/2, Example ARM 25/17)"


# --- levels


def test_level_is_confirmed_by_an_equal_pair_that_differs_in_that_way():
    levels = levels_of(*(certificate(**changes) for changes in EVERYTHING.values()))
    assert [result.level for result in levels] == list(LEVELS)
    assert all(level.num_equal and not level.num_diverged for level in levels[:6])
    assert (levels[6].num_equal, levels[6].num_diverged) == (0, 0)
    assert verified_level(levels) == 6


def test_single_certificate_confirms_nothing():
    assert verified_level(levels_of(certificate())) == 0


def test_untested_level_limits_the_verified_level():
    assert verified_level(levels_of(certificate(), certificate(), certificate(torch="2.15.0"))) == 1


def test_diverged_pair_refutes_only_its_highest_level():
    diverged = certificate(num_threads=1, torch="2.15.0", first_difference="step 1 loss")
    levels = levels_of(certificate(), certificate(), certificate(num_threads=1), diverged)
    assert [(level.num_equal > 0, level.num_diverged) for level in levels[:4]] == [
        (True, 0), (True, 0), (False, 0), (False, 3)]  # fmt: skip
    assert levels[3].first.stage == "step 1 loss"
    assert verified_level(levels) == 2


def test_level_with_equal_and_diverged_pairs_is_not_verified():
    levels = levels_of(
        certificate(),
        certificate(),
        certificate(num_threads=1),
        certificate(num_threads=3, first_difference="step 0 loss"),
    )
    assert levels[1].num_equal > 0
    assert levels[1].num_diverged > 0
    assert verified_level(levels) == 1


# --- runs


def test_certificates_are_grouped_by_run_and_not_by_settings():
    certificates = [
        certificate(created_at="2026-01-03T00:00:00+00:00"),
        certificate(engine="eager"),
        certificate(device="cuda", num_threads=1, created_at="2026-01-02T00:00:00+00:00"),
        certificate(seed=1),
    ]
    assert [[c.config.seed for c in run] for run in runs(certificates)] == [[0], [1], [0, 0]]
    assert runs(certificates)[2] == [certificates[2], certificates[0]]
    assert runs([]) == []


@pytest.mark.parametrize(
    "stage", ["initial linear0.weight", "step 0 loss", "step 0 update linear0.weight", "step 1 loss", "test logits"]
)
def test_example_certificates_differ_first_in_the_given_stage(stage):
    assert first_divergence(certificate(), certificate(first_difference=stage)).stage == stage
