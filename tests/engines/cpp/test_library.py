"""Test how C++ is built and loaded, and the errors of it."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlpbench.engines.cpp import fused
from mlpbench.engines.cpp.library import processor, threads
from mlpbench.errors import InputError
from tests.conformance import needs_compiler
from tests.engines.cpp.small_library import digest_of, visible


@needs_compiler
def test_library_is_built_once_and_can_be_called(library, capfd):
    assert [library.load().seven() for _ in range(2)] == [7, 7]
    errors = capfd.readouterr().err
    assert errors.splitlines() == ["building engine small for this machine; this takes some seconds, once"]


@needs_compiler
def test_two_processes_that_build_at_once_leave_one_file(library):
    # Two processes that start without the file do the same.
    for _ in range(2):
        library.build(library.path())
    assert visible(library.path().parent) == [library.path().name, digest_of(library.path()).name]


def test_missing_compiler_is_reported_in_one_line(library, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError) as error:
        library.load()
    assert str(error.value) == (
        "engine small needs a C++ compiler, and found no c++ or g++ or clang++; install g++ or clang, or set CXX to a "
        "compiler (engine=eager does without it)"
    )


def test_chosen_compiler_is_used(library, monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} -O1")
    assert library.compiler() == [sys.executable, "-O1"]
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(InputError, match="found no no-such-compiler; install"):
        library.compiler()


@needs_compiler
def test_failed_build_is_reported_in_one_line_and_leaves_nothing(library):
    library.source.write_text("int number = 1;\nint broken = ;\nint also_broken = ;\n")
    with pytest.raises(InputError) as error:
        library.load()
    message = str(error.value)
    assert "small.cpp:2" in message
    assert "error" in message
    assert message.endswith("(engine=eager does without it)")
    assert "\n" not in message
    assert visible(library.path().parent) == []


def test_each_machine_source_and_vector_level_has_its_own_library(library, monkeypatch):
    paths = [library.path()]
    library.source.write_text("int number;\n")
    paths.append(library.path())
    monkeypatch.setattr("mlpbench.engines.cpp.library.processor", lambda: ("another",))
    paths.append(library.path())
    monkeypatch.setattr(torch, "__version__", "another")
    paths.append(library.path())
    monkeypatch.setattr("mlpbench.engines.cpp.library._FLAGS", ("-O0",))
    paths.append(library.path())
    monkeypatch.setenv("CXX", "another")
    paths.append(library.path())
    for level in ("AVX2", "DEFAULT"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda level=level: level)
        paths.append(library.path())
    paths.append(replace(library, engine="another").path())
    assert len(set(paths)) == len(paths) == 9


@needs_compiler
@pytest.mark.skipif("x86" not in str(processor()), reason="needs x86")
@pytest.mark.parametrize(("level", "lanes"), [("DEFAULT", 4), ("AVX2", 8)])
def test_library_has_the_vector_level_of_pytorch(monkeypatch, tmp_path, level, lanes):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    assert fused.LIBRARY.load().fused_lanes() == lanes


@pytest.mark.skipif(
    sys.platform != "linux" or "backend: OpenMP" not in torch.__config__.parallel_info(),
    reason="needs PyTorch on OpenMP",
)
def test_openmp_of_pytorch_is_used():
    assert all(threads())


def test_sources_are_beside_their_engines():
    assert fused.LIBRARY.source == Path(fused.__file__).parent / "fused.cpp"
