"""Every engine of our own that runs on the CPU, as a parameter of conformance tests; skipped without a compiler."""

import pytest

from mlpbench.engines.compiled import is_too_old
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


new_enough = pytest.mark.skipif(is_too_old(), reason="torch.compile of PyTorch 2.11 is refused")
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


def _marks(engine: str) -> list[pytest.MarkDecorator]:
    made = [needs_compiler] if engine in _COMPILED else []
    return [*made, new_enough] if engine == "compiled" else made


every_engine = pytest.mark.parametrize(
    "engine",
    [pytest.param(name, marks=_marks(name)) for name in OURS if name in ENGINES],
)
