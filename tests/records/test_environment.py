"""Check what tells machines and stacks apart, what does not, and what is only unknown."""

import re
from dataclasses import fields, replace

import pytest
from hypothesis import given

from mlpbench.records.environment import (
    CPU,
    MACHINE,
    NONE,
    Hardware,
    Sameness,
    Stack,
    compare,
    compare_machines,
    decides,
)
from mlpbench.records.facts import Decides
from tests.strategies import ENVIRONMENT, FAMILY_25, FAMILY_26, as_before_schema_3, changed, environments

# For each fact of the identity another value than that of the example.
OTHERS = {
    "cpu_model": "Other CPU",
    "cpu_vendor": "OtherVendor",
    "cpu_family": 26,
    "cpu_model_number": 2,
    "cpu_stepping": 0,
    "architecture": "aarch64",
    "num_cpus": 4,
    "threads_per_core": 2,
    "caches": (("L1d", 2**15), ("L1i", 2**15), ("L2", 2**20), ("L3", 2**24)),
    "vector_flags": ("avx",),
    "cpu_quota": 1.5,
    "hypervisor": NONE,
    "gpu_model": "Example GPU",
}
HARDWARE = ENVIRONMENT.hardware


def test_every_fact_says_what_it_decides():
    assert set(MACHINE) == set(OTHERS)
    assert set(CPU) < set(MACHINE)
    silent = {f.name for kind in (Hardware, Stack) for f in fields(kind) if not decides(f.name)}
    assert silent == {"memory_bytes", "gpu_memory_bytes", "variables"}


# --- machines


@pytest.mark.parametrize("fact", OTHERS)
def test_each_fact_of_the_identity_makes_another_machine_with_another_name(fact):
    other = changed(ENVIRONMENT, **{fact: OTHERS[fact]})
    likeness = HARDWARE.compare(other.hardware)
    assert likeness.sameness is Sameness.DIFFERENT
    assert list(likeness.differing) == [fact]
    assert other.machine != ENVIRONMENT.machine
    assert other.hardware.compare(HARDWARE).differing == {fact: likeness.differing[fact][::-1]}


@pytest.mark.parametrize("fact", OTHERS)
def test_fact_that_was_not_recorded_makes_it_unknown_whether_machines_are_one(fact):
    likeness = HARDWARE.compare(replace(HARDWARE, **{fact: None}))
    assert (likeness.sameness, likeness.unknown, likeness.one_sided) == (Sameness.UNKNOWN, (fact,), (fact,))
    both = replace(HARDWARE, **{fact: None})
    assert (both.compare(both).sameness, both.compare(both).one_sided) == (Sameness.UNKNOWN, ())


def test_one_known_difference_is_enough():
    likeness = FAMILY_26.hardware.compare(replace(FAMILY_25.hardware, caches=None, cpu_model_number=None))
    assert likeness.sameness is Sameness.DIFFERENT


def test_restart_and_fewer_allowed_cpus_are_the_same_machine():
    later = changed(ENVIRONMENT, memory_bytes=8 * 2**30 - 4096, num_allowed_cpus=1, num_threads=1, os="Linux 6.2")
    assert HARDWARE.compare(later.hardware).sameness is Sameness.SAME
    assert later.machine == ENVIRONMENT.machine
    one, other = ENVIRONMENT.texts(), later.texts()
    assert compare(one, other, one).differing == {
        "os": ("Linux 6.1", "Linux 6.2"),
        "num_allowed_cpus": ("2", "1"),
        "num_threads": ("2", "1"),
    }


def test_size_of_the_memory_is_named_if_it_differs_by_more_than_a_hundredth():
    texts = [changed(ENVIRONMENT, memory_bytes=size).texts() for size in (1000, 1010, 1011)]
    assert [list(compare(texts[0], other, other).differing) for other in texts] == [[], [], ["memory_bytes"]]


def test_facts_that_only_other_tools_have_tell_machines_apart_but_need_not_be_known():
    one, other = ({**ENVIRONMENT.texts(), "cpuinfo_l3_cache": size} for size in ("1", "2"))
    assert compare_machines(one, other).differing == {"cpuinfo_l3_cache": ("1", "2")}
    assert compare_machines(one, ENVIRONMENT.texts()).sameness is Sameness.SAME


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "example-cpu-25-17-1-2cpu-{}"),
        ({"cpu_model": "Example(R) CPU @ 2.20GHz"}, "example-r-cpu-2-20ghz-25-17-1-2cpu-{}"),
        ({"gpu_model": "Example GPU 80GB"}, "example-cpu-25-17-1-2cpu-example-gpu-80gb-{}"),
        ({"cpu_model": "Prozessor/Größe ../.."}, "prozessor-gr-e-25-17-1-2cpu-{}"),
        ({"cpu_family": None, "cpu_model_number": None, "cpu_stepping": None}, "example-cpu-2cpu-{}"),
        ({"cpu_model": None}, "25-17-1-2cpu-{}"),
        ({"num_cpus": None}, "example-cpu-25-17-1-{}"),
    ],
)
def test_machine_names_the_generation_and_can_name_a_folder(changes, name):
    environment = changed(ENVIRONMENT, **changes)
    assert environment.machine == name.format(environment.hardware.digest)


@pytest.mark.parametrize(
    ("cpu", "gpu", "name"),
    [
        ("Example CPU", NONE, "example-cpu-2cpu"),
        ("Example(R) CPU @ 2.20GHz", NONE, "example-r-cpu-2-20ghz-2cpu"),
        ("Example CPU", "Example GPU 80GB", "example-cpu-2cpu-example-gpu-80gb"),
        ("Prozessor/Größe ../..", NONE, "prozessor-gr-e-2cpu"),
    ],
)
def test_machine_of_an_older_record_keeps_its_name(cpu, gpu, name):
    assert as_before_schema_3(changed(ENVIRONMENT, cpu_model=cpu, gpu_model=gpu)).machine == name


def test_machine_depends_neither_on_the_software_nor_on_the_size_of_the_memory():
    changes = {"torch": "9.9", "python": "4.0", "commit": "f", "dirty": True, "memory_bytes": 1, "variables": ()}
    assert changed(ENVIRONMENT, **changes, num_allowed_cpus=1).machine == ENVIRONMENT.machine


@given(environments, environments)
def test_equal_names_are_equal_identities_and_every_name_is_a_slug(one, other):
    for environment in (one, other):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", environment.machine)
    identities = [[getattr(e.hardware, name) for name in MACHINE] for e in (one, other)]
    if not one.hardware.is_brand_alone and not other.hardware.is_brand_alone:
        assert (one.machine == other.machine) == (identities[0] == identities[1])


@given(environments, environments)
def test_comparison_is_symmetric_and_no_machine_differs_from_itself(one, other):
    forth, back = one.hardware.compare(other.hardware), other.hardware.compare(one.hardware)
    assert (forth.sameness, set(forth.differing), forth.unknown) == (
        back.sameness,
        set(back.differing),
        back.unknown,
    )
    assert one.hardware.compare(one.hardware).sameness is not Sameness.DIFFERENT


# --- what processes have in common


@pytest.mark.parametrize(
    ("changes", "is_one"),
    [
        ({}, True),
        ({"memory_bytes": 1}, True),
        ({"mlpbench": "9.9"}, True),
        ({"commit": "f"}, False),
        ({"dirty": True}, False),
        ({"dirty": True, "source_digest": "1"}, False),
        ({"cpu_family": 26}, False),
        ({"num_allowed_cpus": 1}, False),
        ({"os": "Linux 6.2"}, False),
        ({"onednn": None}, False),
        ({"variables": ()}, False),
        ({"variables": (("OMP_NUM_THREADS", "2"), ("UNHEARD_OF", "1"))}, False),
    ],
)
def test_processes_are_evidence_together_only_if_all_that_changes_a_time_is_equal(changes, is_one):
    other = changed(ENVIRONMENT, **changes)
    assert (other.measuring_facts() == ENVIRONMENT.measuring_facts()) == is_one


# --- variables


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("OMP_NUM_THREADS", Decides.TIMES),
        ("KMP_BLOCKTIME", Decides.TIMES),
        ("GOMP_SPINCOUNT", Decides.TIMES),
        ("OMP_DYNAMIC", Decides.TIMES),
        ("MALLOC_ARENA_MAX", Decides.TIMES),
        ("PYTORCH_CUDA_ALLOC_CONF", Decides.TIMES),
        ("CUBLAS_WORKSPACE_CONFIG", Decides.TIMES | Decides.BITS),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", Decides.TIMES | Decides.BITS),
        ("MKL_CBWR", Decides.TIMES | Decides.BITS | Decides.KERNELS),
        ("DNNL_MAX_CPU_ISA", Decides.TIMES | Decides.BITS | Decides.KERNELS),
        ("XLA_FLAGS", Decides.TIMES | Decides.BITS | Decides.KERNELS),
        ("GLIBC_TUNABLES", Decides.TIMES | Decides.BITS | Decides.KERNELS),
        ("HOME", Decides(0)),
        ("TORCHINDUCTOR_CACHE_DIR", Decides(0)),
    ],
)
def test_variable_has_its_role(name, role):
    assert decides(name) == role


def test_unset_variable_is_known():
    one, other = ENVIRONMENT.texts(), changed(ENVIRONMENT, variables=()).texts()
    likeness = compare(one, other, dict.fromkeys((*one, *other)))
    assert likeness.differing == {"OMP_NUM_THREADS": ("2", "not set")}
    assert likeness.unknown == ()
