"""Every engine of our own that runs on the CPU, as a parameter of conformance tests; skipped without a compiler."""

import pytest
import torch

from mlpbench.engines.cpp.fused import LIBRARY
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError

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


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return (torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other).clamp_min(1e-3)).item()


def assert_same_training(one, other, orders, *, tolerance: float, num_off: int) -> None:
    """Two trainers that train on these orders in turn agree, but for so many samples' classes."""
    one.use_threads()
    images, labels, size = one.inputs["train images"], one.inputs["train labels"], one.config.batch_size
    for order in orders:
        made, expected = (trainer.engine.train(images, labels, order, size) for trainer in (one, other))
        assert made.loss_sum == pytest.approx(expected.loss_sum, rel=tolerance)
        assert made.last_loss == pytest.approx(expected.last_loss, rel=tolerance)
        assert made.num_correct == pytest.approx(expected.num_correct, abs=num_off)
    for (name, p), q in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert relative(p.detach(), q.detach()) < tolerance, name
    num_test = len(one.inputs["test labels"])
    assert one.evaluate() == pytest.approx(other.evaluate(), rel=tolerance, abs=num_off / num_test)
