"""Every engine, as a parameter of conformance tests; one that needs a compiler is skipped where there is none."""

import os
import shutil

import pytest

from mlpbench.engines import ENGINES

has_compiler = any(map(shutil.which, [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]))
needs_compiler = pytest.mark.skipif(not has_compiler, reason="needs a C++ compiler")
every_engine = pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[needs_compiler] if name.endswith("fused") else []) for name in ENGINES]
)
