"""Benchmarks and reproducibility checks for training multilayer perceptrons in PyTorch.

The names of `__all__` are loaded when first used, so that somebody who only wants a report does not load PyTorch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlpbench.config import RunConfig as RunConfig
    from mlpbench.config import grid as grid
    from mlpbench.errors import InputError as InputError
    from mlpbench.records.store import load as load
    from mlpbench.training.trainer import Trainer as Trainer

__version__ = "0.1.0"
__all__ = ["InputError", "RunConfig", "Trainer", "grid", "load"]

_PLACES = {
    "InputError": "mlpbench.errors",
    "RunConfig": "mlpbench.config",
    "Trainer": "mlpbench.training.trainer",
    "grid": "mlpbench.config",
    "load": "mlpbench.records.store",
}


def __getattr__(name: str) -> object:
    """Load a name of `__all__`."""
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"module 'mlpbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
