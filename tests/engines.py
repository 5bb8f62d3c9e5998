"""Every engine of our own that runs on the CPU, as a parameter of conformance tests; skipped without a compiler."""

import pytest

from mlpbench.engines.fused import LIBRARY
from mlpbench.engines.registry import ENGINES
from mlpbench.records import InputError

OURS = ("eager", "compiled", "manual", "fused", "portable", "portable_fused")
_COMPILED = ("compiled", "fused", "portable_fused")


def has_compiler() -> bool:
    try:
        LIBRARY.compiler()
    except InputError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
every_engine = pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=[needs_compiler] if name in _COMPILED else []) for name in OURS if name in ENGINES],
)
