"""Run a test with each engine of our own on the CPU, and compare trainings. Without a compiler some are skipped."""

import numpy as np
import pytest
import torch

from mlpbench.engines.cpp.fused import LIBRARY
from mlpbench.engines.registry import ENGINES
from mlpbench.errors import InputError


def has_compiler() -> bool:
    try:
        LIBRARY.compiler()
    except InputError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


SLOW = {"compiled": [pytest.mark.slow]}

every_engine = pytest.mark.parametrize(
    "engine",
    [
        # torch.compile takes seconds for every new config.
        pytest.param(name, marks=[*([needs_compiler] if engine.is_built else []), *SLOW.get(name, [])])
        for name, engine in ENGINES.items()
        if not (engine.is_peer or engine.needs_cuda)
    ],
)


def same_bits(one, other) -> bool:
    """True if two tensors or arrays have equal types and bits, where -0.0 counts as 0.0."""
    one, other = (np.asarray(a.detach() if isinstance(a, torch.Tensor) else a) for a in (one, other))
    return one.dtype == other.dtype and (one + 0.0).tobytes() == (other + 0.0).tobytes()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the norm of the difference, relative to the norm of `other`."""
    return (torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other).clamp_min(1e-3)).item()


def assert_same_training(one, other, orders, *, tolerance: float, num_off: int) -> None:
    """Train two trainers on these orders, and compare. The classes of `num_off` samples may be different."""
    one.use_threads()
    images, labels, size = one.inputs["train images"], one.inputs["train labels"], one.config.batch_size
    for order in orders:
        actual, expected = (trainer.engine.train(images, labels, order, size) for trainer in (one, other))
        assert actual.loss_sum == pytest.approx(expected.loss_sum, rel=tolerance)
        assert actual.last_loss == pytest.approx(expected.last_loss, rel=tolerance)
        assert actual.num_correct == pytest.approx(expected.num_correct, abs=num_off)
    for (name, p), q in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert relative(p.detach(), q.detach()) < tolerance, name
    num_test = len(one.inputs["test labels"])
    assert one.evaluate() == pytest.approx(other.evaluate(), rel=tolerance, abs=num_off / num_test)
