"""Check that libraries, variables and settings are read, and that no path is recorded."""

import os
import subprocess
import sys

import pytest
import torch

from mlpbench.engines.cpp import library
from mlpbench.machine import stack

VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", "DNNL_MAX_CPU_ISA", "GLIBC_TUNABLES",
    "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_CONF", "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC", "OMP_NUM_THREADS",
    "OMP_PLACES", "OMP_WAIT_POLICY", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED",
    "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_MAX_AUTOTUNE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "XLA_FLAGS",
)  # fmt: skip


def variables(monkeypatch, **values):
    """Return what is recorded if these variables, and no others of the list, are set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return dict(stack.read().variables)


@pytest.mark.parametrize("name", VARIABLES)
def test_variable_that_can_change_times_or_bits_is_recorded(name, monkeypatch):
    assert variables(monkeypatch, **{name: "3"}) == {name: "3"}


@pytest.mark.parametrize(
    "name",
    ["SECRET_TOKEN", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TORCH_LOGS", "KMP_INIT_AT_FORK", "omp_num_threads"],
)
def test_no_other_variable_is_recorded(name, monkeypatch):
    assert variables(monkeypatch, **{name: "3"}) == {}


@pytest.mark.parametrize("value", ["/home/somebody/lib.so", "here/somebody", "C:\\Users\\somebody", "a:/somebody"])
def test_path_in_a_variable_is_recorded_as_a_digest(value, monkeypatch):
    text = variables(monkeypatch, LD_PRELOAD=value)["LD_PRELOAD"]
    assert text.startswith("(a path, sha256 ")
    assert "somebody" not in text


@pytest.mark.parametrize("value", ["x" * 201, "a\nb", "\x1b[2J"])
def test_long_or_unprintable_value_is_recorded_as_a_digest(value, monkeypatch):
    text = variables(monkeypatch, OMP_PLACES=value)["OMP_PLACES"]
    assert text.startswith(f"({len(value)} characters, sha256 ")
    assert text.isprintable()


def test_versions_of_libraries_are_those_that_pytorch_was_built_with():
    described = """PyTorch built with:
  - GCC 13.3
  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64 architecture applications
  - Intel(R) MKL-DNN v3.13.3 (Git Hash b38f97eb6f2173513112f15a0481750b8a66e901)
  - Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release, USE_MKL=ON"""
    assert stack.built_with(described) == {
        "mkl": "2024.2-Product Build 20240605",
        "onednn": "v3.13.3",
        "blas": "mkl",
    }
    assert stack.built_with("  - Build settings: BLAS_INFO=open, USE_MKL=OFF") == {
        "mkl": "none",
        "onednn": "none",
        "blas": "open",
    }


def test_libraries_of_this_pytorch_are_read():
    has = {"mkl": torch.backends.mkl.is_available(), "onednn": torch.backends.mkldnn.is_available()}
    read = stack.read()
    assert {name: getattr(read, name) != "none" for name in has} == has


def test_compilers_are_those_that_build_the_engines():
    assert stack.COMPILERS == library.COMPILERS


def test_compiler_is_told_apart_by_its_content_and_its_options(tmp_path, monkeypatch):
    names = []
    for content, options in (("one", ""), ("two", ""), ("two", " -m32")):
        file = tmp_path / "cc-12"
        file.write_text(content)
        file.chmod(0o755)
        monkeypatch.setenv("CXX", f"{file}{options}")
        names.append(stack.compiler())
    assert len(set(names)) == 3
    assert all(name.startswith("cc-12 ") and str(tmp_path) not in name for name in names)


@pytest.mark.parametrize("command", ["no-such-compiler", "g++ '-O2"])
def test_compiler_that_cannot_be_found_is_none_or_the_default(command, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    default = stack.compiler()
    monkeypatch.setenv("CXX", command)
    assert stack.compiler() in ("none", default)


def test_huge_pages_have_the_chosen_mode(tmp_path):
    file = tmp_path / "enabled"
    assert stack.huge_pages(file) is None
    file.write_text("always [madvise] never\n")
    assert stack.huge_pages(file) == "madvise"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity of processes")
def test_affinity_changes_the_stack_and_not_the_hardware():
    script = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from mlpbench.machine import hardware, stack
print(hardware.read().texts() | {"memory_bytes": ""}, stack.read().num_allowed_cpus)
"""
    from mlpbench.machine import hardware

    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == f"{hardware.read().texts() | {'memory_bytes': ''}} 1"
