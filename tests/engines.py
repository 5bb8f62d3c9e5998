"""Every engine, as a parameter of conformance tests; one that needs a compiler is skipped where there is none."""

import pytest

from mlpbench.engines.fused import LIBRARY
from mlpbench.engines.registry import ENGINES
from mlpbench.records import InputError


def has_compiler() -> bool:
    try:
        LIBRARY.compiler()
    except InputError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
every_engine = pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[needs_compiler] if name.endswith("fused") else []) for name in ENGINES]
)
